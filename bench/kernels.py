"""Where a clip's time goes: each kernel of the GPU (without one: each operator) counted to the class that it is of."""

import re
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

CLASSES = {
    "fused by inductor": r"^triton_",  # first, for their names say what was fused
    "attention": r"flash|fmha|sdpa|scaled_dot_product|attention",
    "convolution": r"conv|implicit|fprop|winograd|cudnn",
    "matrix product": r"gemm|cutlass|nvjet|addmm|::mm|bmm|matmul|linear",
    "normalisation": r"norm|welford|softmax|moments",
    "copy": r"memcpy|memset|copy|::cat|CatArray|clone|contiguous",
}


def time_by_class(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of the device for each class, the largest first."""
    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        work()
    seconds: dict[str, float] = {}
    for event in profiler.key_averages():
        if not on_gpu or event.device_type == DeviceType.CUDA:
            spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            name = class_of(event.key)
            seconds[name] = seconds.get(name, 0.0) + spent / 1e6
    return dict(sorted(seconds.items(), key=lambda each: -each[1]))


def class_of(kernel: str) -> str:
    found = (name for name, pattern in CLASSES.items() if re.search(pattern, kernel, re.IGNORECASE))
    return next(found, "other element-wise")
