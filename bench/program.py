"""What a program that inductor wrote for a GPU takes: its code is run on tensors that have shapes and no numbers.

The kernels do nothing; what they are given is counted. Buffers live exactly as long as the program keeps them, so the
peak is that of a GPU, but for workspaces and for the allocator.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.inductor import Program
from bench.peak import META, Peak

# Lines of the program that name what a CPU build lacks, and what stands in their place here.
REPLACED = {
    "from torch._inductor.select_algorithm import extern_kernels": "",
    "from torch._inductor.async_compile import AsyncCompile": "",
    "from torch._inductor.hooks import run_intermediate_hooks": "",
    "async_compile = AsyncCompile()": "",
    "async_compile.wait(globals())": "",
    "del async_compile": "",
    "from torch._C import _cuda_getCurrentRawStream as get_raw_stream": "get_raw_stream = lambda _: 0",
    "assert_size_stride = torch._C._dynamo.guards.assert_size_stride": "assert_size_stride = lambda *_: None",
    "assert_alignment = torch._C._dynamo.guards.assert_alignment": "assert_alignment = lambda *_: None",
    "empty_strided_cuda = torch._C._dynamo.guards._empty_strided_cuda": "empty_strided_cuda = empty_here",
    "reinterpret_tensor = torch._C._dynamo.guards._reinterpret_tensor": "reinterpret_tensor = reinterpreted",
    "from torch._C._dynamo.guards import copy_if_misaligned": "copy_if_misaligned = lambda tensor: tensor",
    "with torch.cuda._DeviceGuard(0):": "if True:",
    "torch.cuda.set_device(0)": "pass",
}
KERNEL = re.compile(r"(\w+) = async_compile\.triton\('\w+', '''.*?''', device_str='cuda'\)", re.DOTALL)
ATTENTION = re.compile(r"torch\.ops\.aten\._scaled_dot_product_(?:flash|cudnn|efficient)_attention\.default\(")


@dataclass(frozen=True)
class Call:
    kind: str
    """fused (by triton), convolution, product, attention."""
    moved: int
    """Bytes read and written, each once."""
    flop: int


@dataclass
class Cost:
    calls: list[Call] = field(default_factory=list)
    peak: Peak | None = None
    """Without what it was given."""

    def moved(self, kind: str) -> int:
        return sum(call.moved for call in self.calls if call.kind == kind)

    def count(self, kind: str) -> int:
        return sum(call.kind == kind for call in self.calls)


def cost(program: Program) -> Cost:
    """Return what one call of `program` takes."""
    found = Cost()
    source = KERNEL.sub(r"\1 = Fused(found)", program.source)
    for line, instead in REPLACED.items():
        source = source.replace(line, instead)
    source = ATTENTION.sub("attention(", source)
    names = {
        "found": found,
        "Fused": Fused,
        "extern_kernels": Libraries(found),
        "attention": Attention(found),
        "empty_here": lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype, device=META),
        "reinterpreted": lambda tensor, size, stride, offset: torch.as_strided(
            tensor, size, stride, tensor.storage_offset() + offset
        ),
    }
    exec(compile(source, "program", "exec"), names)  # noqa: S102 - inductor wrote it, from our own models
    given = [torch.empty_strided(*shape, dtype=dtype, device=META) for *shape, dtype in program.inputs]
    call: Any = names["call"] if "call" in names else names["runner"].call  # type: ignore[attr-defined]  # inductor wrote it
    with torch.no_grad(), Peak(given) as found.peak:
        call(list(given))
    return found


def size_of(*tensors: object) -> int:
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


class Fused:
    """In the place of one of triton's kernels."""

    def __init__(self, found: Cost) -> None:
        self.found = found

    def run(self, *given: Any, stream: object = None) -> None:
        # One of strides of 0 is the same number everywhere.
        tensors = [each for each in given if isinstance(each, torch.Tensor) and 0 not in each.stride()]
        self.found.calls.append(Call("fused", sum(each.nbytes for each in tensors), 0))


class Libraries:
    """In the place of cuDNN and cuBLAS."""

    def __init__(self, found: Cost) -> None:
        self.found = found

    def convolution(self, pixels: torch.Tensor, weights: torch.Tensor, **how: Any) -> torch.Tensor:
        names = ("bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups")
        result: torch.Tensor = torch.ops.aten.convolution.default(pixels, weights, *(how[name] for name in names))
        flop = 2 * result.numel() * weights[0].numel()
        self.found.calls.append(Call("convolution", size_of(pixels, weights, result), flop))
        return result

    def mm(self, left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        flop = 2 * out.numel() * left.shape[-1]
        self.found.calls.append(Call("product", size_of(left, right, out), flop))
        return out

    bmm = mm

    def addmm(self, _bias: torch.Tensor, left: Any, right: Any, *, out: Any, **_: object) -> torch.Tensor:
        return self.mm(left, right, out=out)


class Attention:
    """In the place of whichever kernel, none of which keeps the scores."""

    def __init__(self, found: Cost) -> None:
        self.found = found

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> list[Any]:
        result = torch.empty_like(query)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=META)
        flop = 4 * query.numel() * key.shape[2]
        self.found.calls.append(Call("attention", size_of(query, key, value, result), flop))
        return [result, sums, *[None] * 7]
