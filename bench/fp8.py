"""Linear layers and convolutions of the UNet in eight-bit floating point: twice the matrix rate of a GPU that has it.

Weights have a scale for each output channel, inputs one for each row of the product, worked out as they come. A
convolution is the same product over the pixels that its kernel covers, laid side by side.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import ScalingType, pad, scaled_mm

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
MULTIPLE = 16
"""Of the sides of a product: what the hardware takes."""
ROWS = 32768
"""At once."""
OLDEST = (8, 9)
"""Compute capability: Ada. Hopper is (9, 0)."""


def has_fp8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= OLDEST


def scaled(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`rows` (n, k) as eight-bit numbers, and the scale of each, (n, 1)."""
    scale = (rows.abs().amax(dim=1, keepdim=True).float() / LARGEST).clamp(min=1e-12)
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(E4M3), scale


class Fp8Product(nn.Module):
    """`rows @ weight.T + bias`, for `weight` (outputs, k)."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        weight, scale = scaled(weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.T)
        self.bias = bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(n, k) to (n, outputs), some rows after the others: what is scaled is there in float32 meanwhile."""
        return torch.cat([self.product(part) for part in rows.split(ROWS)])

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        numbers, scale = scaled(rows)
        by_row = ScalingType.RowWise
        product = scaled_mm(
            numbers,
            self.weight.T,
            scale,
            by_row,
            self.scale,
            by_row,
            output_dtype=torch.bfloat16,
            use_fast_accum=rows.is_cuda,  # which a CPU does not have
        ).to(rows.dtype)
        return product if self.bias is None else product + self.bias


class Fp8Linear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.product = Fp8Product(linear.weight, linear.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        rows = self.product(hidden_states.flatten(0, -2))
        return torch.unflatten(rows, 0, hidden_states.shape[:-1])


class Fp8Convolution(nn.Module):
    """Of a Conv2d without groups or dilation."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.kernel, self.stride = convolution.kernel_size, convolution.stride
        down, right = map(int, convolution.padding)
        self.padding = (0, 0, right, right, down, down)
        self.product = Fp8Product(convolution.weight.permute(0, 2, 3, 1).flatten(1), convolution.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(n, channels, height, width), some pictures after the others: of each as many copies as the kernel has places
        are there meanwhile."""
        pixels = hidden_states.shape[2] * hidden_states.shape[3]
        return torch.cat([self.convolved(some) for some in hidden_states.split(max(1, ROWS // pixels))])

    def convolved(self, hidden_states: torch.Tensor) -> torch.Tensor:
        padded = pad(hidden_states.permute(0, 2, 3, 1), self.padding)
        (lines, columns), (down, right) = self.kernel, self.stride
        height, width = (padded.shape[1] - lines) // down + 1, (padded.shape[2] - columns) // right + 1
        covered = [
            padded[:, line : line + height * down : down, column : column + width * right : right]
            for line in range(lines)
            for column in range(columns)
        ]
        rows = self.product(torch.cat(covered, dim=3).flatten(0, 2))
        return torch.unflatten(rows, 0, (hidden_states.shape[0], height, width)).permute(0, 3, 1, 2)


def use_fp8(pipeline: Any) -> None:
    """For every linear layer and convolution of the UNet whose sides the hardware takes."""
    for parent in list(pipeline.unet.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and fits(child.weight.shape):
                setattr(parent, name, Fp8Linear(child))
            elif isinstance(child, nn.Conv2d) and child.groups == 1 and fits(child.weight.shape[:2]):
                setattr(parent, name, Fp8Convolution(child))


def fits(shape: torch.Size) -> bool:
    return all(side % MULTIPLE == 0 for side in shape)
