"""The code that torch.compile writes for a GPU, on a machine without one: nothing of it runs.

inductor is made to believe in a card, whose tensors are FakeTensors; triton is there as a compiler only. What this
changes in torch stays changed, so it wants a process of its own. Private parts of torch 2.13 are replaced: a newer one
may need others.
"""

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

DEVICE = torch.device("cuda:0")

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Card:
    """What inductor asks of a GPU, by NVIDIA's data sheets and the CUDA C++ Programming Guide's table of features."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory_gb: float
    threads: int
    """Of a multiprocessor, at most."""
    shared_memory: int
    """Bytes of a multiprocessor."""
    l2_mb: int


H200 = Card("NVIDIA H200", (9, 0), 132, 139, 2048, 233472, 50)


@dataclass
class Program:
    """What inductor wrote of a model."""

    source: str
    """The Python code that calls the kernels."""
    kernels: dict[str, str]
    """triton's source by its name."""
    inputs: list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]]
    """Shape, strides and dtype of each argument: the weights, then what was given."""


@dataclass
class Writer:
    """Writes programs for `card`."""

    card: Card
    mode: FakeTensorMode = field(default_factory=lambda: FakeTensorMode(allow_non_fake_inputs=True))

    def __post_init__(self) -> None:
        believe_in(self.card)

    def fake(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor like `tensor` on the card."""
        fake: torch.Tensor = FakeTensor(self.mode, tensor.detach().to("meta"), DEVICE)
        return fake

    def write(self, model: torch.nn.Module, call: Callable[..., torch.Tensor], given: Tensors) -> Program:
        """Return the program of `call(weights, *given)`, in which `weights` are those of `model` by their names."""
        import torch._inductor.async_compile
        import torch._inductor.compile_fx as compile_fx
        from torch._inductor import config
        from torch._inductor.decomposition import select_decomp_table
        from torch._inductor.graph import GraphLowering
        from torch.fx.experimental.proxy_tensor import make_fx

        model.requires_grad_(False)
        weights = {name: self.fake(each) for name, each in [*model.named_parameters(), *model.named_buffers()]}
        kernels: dict[str, str] = {}
        sources: list[str] = []
        codegen = GraphLowering.codegen

        def keep_source(graph: Any) -> Any:
            written = codegen(graph)
            sources.append(getattr(written[0], "value", written[0]))
            return written

        def keep_kernel(_: Any, name: str, source: str, device_str: str = "cuda") -> Any:
            kernels[name] = source
            return lambda *_, **__: None

        settings = {"joint_graph_constant_folding": False, "shape_padding": False, "fx_graph_cache": False}
        attention = patch("torch.nn.functional.scaled_dot_product_attention", self.attend)
        compiling = patch("torch.compiler.is_compiling", answering(True))
        with torch.no_grad(), attention, compiling, self.mode, Sliced():
            traced = make_fx(call, decomposition_table=select_decomp_table(), tracing_mode="real")(
                weights, *map(self.fake, given)
            )
        inputs = [node.meta["val"] for node in traced.graph.nodes if node.op == "placeholder"]
        with (
            self.mode,
            torch.no_grad(),
            config.patch({**settings, "compile_threads": 1}),
            patch.object(torch._inductor.async_compile.AsyncCompile, "triton", keep_kernel),
            patch.object(GraphLowering, "codegen", keep_source),
        ):
            compile_fx._recursive_joint_graph_passes(traced)
            compile_fx.compile_fx_inner(traced, inputs, is_inference=True, static_input_idxs=list(range(len(weights))))
        shapes = [(tuple(each.shape), tuple(each.stride()), each.dtype) for each in inputs]
        return Program(sources[-1], kernels, shapes)

    def attend(self, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        """The kernel that torch 2.13 takes on this card: cuDNN's on Hopper, flash elsewhere, and for heads of more than
        128 channels the memory-efficient one."""
        ops = torch.ops.aten
        if query.shape[-1] > 128:
            return ops._scaled_dot_product_efficient_attention(query, key, value, None, False)[0]
        if self.card.capability >= (9, 0):
            return ops._scaled_dot_product_cudnn_attention(query, key, value, None, False, 0.0, False, False)[0]
        return ops._scaled_dot_product_flash_attention(query, key, value, 0.0, False)[0]


def believe_in(card: Card) -> None:
    """Let torch, inductor and triton find `card`."""
    properties = types.SimpleNamespace(
        name=card.name,
        major=card.capability[0],
        minor=card.capability[1],
        multi_processor_count=card.multiprocessors,
        total_memory=int(card.memory_gb * 2**30),
        warp_size=32,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=card.threads,
        max_threads_per_block=1024,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=card.shared_memory - 1024,
        shared_memory_per_multiprocessor=card.shared_memory,
        L2_cache_size=card.l2_mb << 20,
        is_integrated=0,
        gcnArchName="",
        clock_rate=1_980_000,
        memory_clock_rate=2_619_000,
        memory_bus_width=6144,
        uuid="",
        pci_bus_id=0,
    )
    answers: dict[str, Any] = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": properties,
        "_get_device_properties": properties,
        "get_device_capability": card.capability,
        "get_device_name": card.name,
        "is_bf16_supported": True,
        "_is_compiled": True,
        "synchronize": None,
        "_lazy_init": None,
        "init": None,
        "set_device": None,
        "_exchange_device": 0,
        "_maybe_exchange_device": 0,
        "current_stream": types.SimpleNamespace(cuda_stream=0, device=DEVICE),
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answering(answer))
    setattr(torch.cuda, "device", Nothing)  # noqa: B010 - to take a class's place is the purpose
    setattr(torch.version, "cuda", "13.0")  # noqa: B010 - likewise
    for name, answer in {
        "_cuda_getCurrentRawStream": 0,
        "_cuda_getDevice": 0,
        "_cuda_exchangeDevice": 0,
        "_cuda_maybeExchangeDevice": 0,
        "_cuda_getArchFlags": "sm_75 sm_80 sm_86 sm_90",
        "_cuda_isCurrentStreamCapturing": False,
    }.items():
        if not hasattr(torch._C, name):
            setattr(torch._C, name, answering(answer))
    setattr(torch._C, "_conv_determine_backend_memory_format", layout_of_convolution)  # noqa: B010 - likewise
    believe_in_interface(card, properties)
    give_triton_a_target(card)
    register_patterns_on_cpu()
    contiguous_without_device()


def answering(answer: Any) -> Callable[..., Any]:
    return lambda *_, **__: answer


class Nothing:
    """In the place of torch.cuda.device."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> "Nothing":
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def believe_in_interface(card: Card, properties: Any) -> None:
    from torch._dynamo.device_interface import CudaInterface
    from torch.utils import _triton

    major, minor = card.capability
    answers = {
        "get_device_properties": properties,
        "current_device": 0,
        "set_device": None,
        "get_compute_capability": 10 * major + minor,
        "is_available": True,
        "device_count": 1,
        "get_raw_stream": 0,
        "synchronize": None,
        "exchange_device": 0,
        "maybe_exchange_device": 0,
        "triton_supported": True,
        "is_triton_capable": True,
        "raise_if_triton_unavailable": None,
    }
    for kind in (CudaInterface, CudaInterface.Worker):
        for name, answer in answers.items():
            if hasattr(kind, name):
                setattr(kind, name, staticmethod(answering(answer)))
    for name in dir(_triton):
        clear = getattr(getattr(_triton, name), "cache_clear", None)
        if clear:
            clear()


def give_triton_a_target(card: Card) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    major, minor = card.capability
    limits = {
        "max_shared_mem": card.shared_memory - 1024,
        "multiprocessor_count": card.multiprocessors,
        "sm_clock_rate": 1_980_000,
        "mem_clock_rate": 1,
        "mem_bus_width": 1,
        "warpSize": 32,
        "max_num_regs": 65536,
    }
    driver.set_active(
        types.SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", 10 * major + minor, 32),
            get_current_device=lambda: 0,
            get_current_stream=answering(0),
            get_active_torch_device=lambda: DEVICE,
            get_benchmarker=lambda: answering(0),
            get_device_interface=lambda: torch.cuda,
            get_device_capability=answering(card.capability),
            utils=types.SimpleNamespace(get_device_properties=answering(limits)),
        )
    )


def register_patterns_on_cpu() -> None:
    """inductor registers patterns with example tensors, for which the card has no allocator."""
    from torch._inductor.fx_passes import joint_graph, post_grad, pre_grad

    def on_cpu(register: Callable[..., Any]) -> Callable[..., Any]:
        def registers(*given: Any, **named: Any) -> Any:
            with patch.object(torch.cuda, "is_available", answering(False)):
                return register(torch.device("cpu")) if given or named else register()

        return registers

    for passes in (joint_graph, post_grad, pre_grad):
        setattr(passes, "lazy_init", on_cpu(passes.lazy_init))  # noqa: B010 - likewise


def layout_of_convolution(pixels: torch.Tensor, weights: torch.Tensor, _backend: Any) -> torch.memory_format:
    """cuDNN's answer: channels last, where either of the two is."""
    from torch._prims_common import suggest_memory_format

    def is_last(tensor: torch.Tensor) -> bool:
        return tensor.dim() == 4 and suggest_memory_format(tensor) == torch.channels_last

    return torch.channels_last if is_last(pixels) or is_last(weights) else torch.contiguous_format


def contiguous_without_device() -> None:
    """Tensor.contiguous and plain indexing ask for the device of a FakeTensor, which is not there."""
    from torch._prims_common import is_contiguous_for_memory_format

    before = torch.Tensor.contiguous

    def contiguous(self: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
        if not (isinstance(self, FakeTensor) and self.fake_device.type == "cuda"):
            return before(self, memory_format=memory_format)
        if is_contiguous_for_memory_format(self, memory_format=memory_format):
            return self
        cloned: torch.Tensor = torch.ops.aten.clone.default(self, memory_format=memory_format)
        return cloned

    setattr(torch.Tensor, "contiguous", contiguous)  # noqa: B010 - likewise


class Sliced(TorchFunctionMode):
    """Indexing by numbers, slices and None, in operators that need no device."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:
            tensor, index = args
            index = index if isinstance(index, tuple) else (index,)
            if all(each is None or isinstance(each, int | slice) or each is Ellipsis for each in index):
                return sliced(tensor, index)
        return func(*args, **(kwargs or {}))


def sliced(tensor: torch.Tensor, index: tuple[Any, ...]) -> torch.Tensor:
    dimension = 0
    for each in whole(index, tensor.dim()):
        if each is None:
            tensor, dimension = tensor.unsqueeze(dimension), dimension + 1
        elif isinstance(each, int):
            tensor = tensor.select(dimension, each)
        else:
            if each != slice(None):
                step = each.step or 1
                tensor = torch.ops.aten.slice.Tensor(tensor, dimension, each.start, each.stop, step)
            dimension += 1
    return tensor


def whole(index: tuple[Any, ...], dimensions: int) -> Iterator[Any]:
    """Yield `index` with slices in the place of an ellipsis."""
    used = sum(each is not None and each is not Ellipsis for each in index)
    for each in index:
        if each is Ellipsis:
            yield from [slice(None)] * (dimensions - used)
        else:
            yield each
