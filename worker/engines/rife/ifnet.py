"""IFNet as it is in RIFE 4.6: what a picture between two others shows, by the way from each of its pixels into both
(Huang and others, "Real-Time Intermediate Flow Estimation for Video Frame Interpolation", 2022).

The layout and the modules' names are those of the published weights (hzwer/Practical-RIFE, MIT).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MULTIPLE = 32  # what sides must be of: they are reduced to an eighth, and then halved twice

SLOPE = 0.2


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.beta = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(features) * self.beta + features, SLOPE)


class Block(nn.Module):
    """Sees all that is known at one scale."""

    def __init__(self, planes: int, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(halving(planes, width // 2), halving(width // 2, width))
        self.convblock = nn.Sequential(*(Residual(width) for _ in range(8)))
        self.lastconv = nn.Sequential(nn.ConvTranspose2d(width, 4 * 6, 4, stride=2, padding=1), nn.PixelShuffle(2))

    def forward(self, seen: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """What is to be added to flow and mask. Of the six planes the last means nothing."""
        seen = resized(torch.cat([seen, flow / scale], 1), 1 / scale)
        found = resized(self.lastconv(self.convblock(self.conv0(seen))), scale)
        return found[:, :4] * scale, found[:, 4:5]


class IFNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block0 = Block(3 + 3 + 1, 192)
        self.block1 = Block(3 + 3 + 1 + 1 + 4, 128)
        self.block2 = Block(3 + 3 + 1 + 1 + 4, 96)
        self.block3 = Block(3 + 3 + 1 + 1 + 4, 64)

    def forward(self, one: Tensor, other: Tensor, moment: float) -> Tensor:
        """The picture at `moment` between `one` (0) and `other` (1): RGB from 0 to 1, (1, 3, height, width)."""
        time = torch.full_like(one[:, :1], moment)
        flow, mask = self.block0(torch.cat([one, other, time], 1), one[:, :0], 8)
        for block, scale in ((self.block1, 4), (self.block2, 2), (self.block3, 1)):
            seen = torch.cat([warped(one, flow[:, :2]), warped(other, flow[:, 2:]), time, mask], 1)
            more_flow, more_mask = block(seen, flow, scale)
            flow, mask = flow + more_flow, mask + more_mask
        share: Tensor = mask.sigmoid()
        return warped(one, flow[:, :2]) * share + warped(other, flow[:, 2:]) * (1 - share)


def halving(planes: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(planes, width, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE))


def resized(planes: Tensor, by: float) -> Tensor:
    return F.interpolate(planes, scale_factor=by, mode="bilinear")


def warped(picture: Tensor, flow: Tensor) -> Tensor:
    """What is in `picture` where `flow` leads from each place, in pixels to the right and down; beyond an edge is what
    is at it."""
    height, width = picture.shape[2:]
    across, down = (torch.linspace(-1, 1, side, device=picture.device) for side in (width, height))
    places = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
    to_places = picture.new_tensor([2 / (width - 1), 2 / (height - 1)])
    return F.grid_sample(
        picture, places + flow.permute(0, 2, 3, 1) * to_places, padding_mode="border", align_corners=True
    )
