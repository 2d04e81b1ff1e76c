"""How large a picture may be."""

from core.errors import ImageTooLarge, ImageTooSmall

MIN_SIDE = 16
MAX_SIDE = 16384

SHORT_SIDE = 2160
"""Pixels: a larger picture is reduced until its shorter side is no more. No clip is larger than 1920 px."""


def check_size(size: tuple[int, int], max_megapixels: int) -> None:
    """Raises ImageTooLarge, ImageTooSmall. Megapixels count as cameras are sold by them: 8192×6144 px are 50."""
    width, height = size
    if width * height // 1_000_000 > max_megapixels:
        raise too_large(max_megapixels, f"{width * height / 1e6:.1f} ({width}×{height})")
    allowed = f"each side of the picture must be from {MIN_SIDE} to {MAX_SIDE} px; got {width}×{height}"
    if max(size) > MAX_SIDE:
        raise ImageTooLarge(allowed, param="file")
    if min(size) < MIN_SIDE:
        raise ImageTooSmall(allowed, param="file")


def too_large(max_megapixels: int, got: str) -> ImageTooLarge:
    return ImageTooLarge(f"the picture must have at most {max_megapixels} megapixels; got {got}", param="file")
