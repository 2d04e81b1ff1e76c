"""Frames as H.264 stores them: YUV 4:2:0, BT.709, limited range, each chroma sample at the left of its four pixels.

In memory a frame is (height * 3 / 2, width) uint8: the rows of Y, then U's and V's quarter of as many bytes. Where a
frame is sRGB, (height, width, 3), it is said.
"""

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]

# What the tags say, and how a player shows it; swscale's default rounds everything down.
AS_SHOWN = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def planes(picture: Image.Image) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Y, U and V of an sRGB picture, each of its full size."""
    split = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24").reformat(
        format="yuv444p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, interpolation=AS_SHOWN
    )
    y, u, v = (Image.fromarray(plane) for plane in split.to_ndarray())
    return y, u, v


def size_of(frame: Bytes) -> tuple[int, int]:
    """Width and height in pixels, whichever of the two it is."""
    height, width = frame.shape[:2]
    return width, height if frame.ndim == 3 else height * 2 // 3


def as_rgb(frame: Bytes) -> Bytes:
    """As sRGB, (height, width, 3), whichever of the two it is."""
    return frame if frame.ndim == 3 else shown(av.VideoFrame.from_ndarray(frame, format="yuv420p"))


def shown(frame: av.VideoFrame) -> Bytes:
    """As a player shows it that obeys the tags, (height, width, 3)."""
    rgb = frame.reformat(
        format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG, interpolation=AS_SHOWN
    )
    return rgb.to_ndarray().astype(np.uint8)
