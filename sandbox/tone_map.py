"""PQ and HLG, which can be far brighter than white, brought to what a screen without HDR shows, as Chromium does it."""

from collections.abc import Sequence
from typing import Any

from sandbox.light import Bands, compute, named
from sandbox.transfers import PEAK_NITS, WHITE_NITS

PEAK = PEAK_NITS / WHITE_NITS
HLG_GAMMA = 1.2
"""Of the whole way from scene to screen, at a peak of 1000 cd/m² (ITU-R BT.2100, note 5f)."""

# The curve of SMPTE ST 2094-50 for a screen that shows nothing above white: up to white half of the light, from there
# a quadratic Bézier curve to the peak, whose middle point lies on the straight line's continuation.
WHITE_BECOMES, STRAIGHT = 0.5, 0.65
MIDDLE = (1 + STRAIGHT * (1 / WHITE_BECOMES - 1), WHITE_BECOMES + STRAIGHT * (1 - WHITE_BECOMES))


def shown(scene: Bands, luminance: Sequence[float]) -> Bands:
    """Return the light of a screen with this peak that shows HLG's light of a scene; `luminance` says how much of it
    each band adds."""
    red, green, blue = luminance
    gain = compute(
        lambda of: (of["r"] * red + of["g"] * green + of["b"] * blue) ** (HLG_GAMMA - 1) * PEAK, **named(scene)
    )
    return [compute(lambda of: of["band"] * of["gain"], band=band, gain=gain) for band in scene]


def tone_mapped(bands: Bands) -> Bands:
    """Return light of which the brightest band is brought below 1, and the others in proportion."""
    brightest = compute(lambda of: of["max"](of["max"](of["max"](of["r"], of["g"]), of["b"]), 1e-6), **named(bands))
    gain = compute(curve, brightest=brightest)
    return [compute(lambda of: of["band"] * of["gain"], band=band, gain=gain) for band in bands]


def curve(of: dict[str, Any]) -> Any:
    """Return what light is to be multiplied with."""
    brightest, (x, y) = of["min"](of["brightest"], PEAK), MIDDLE
    a, b = 1 - 2 * x + PEAK, 2 * (x - 1)
    t = ((of["max"](brightest - 1, 0) * (4 * a) + b * b) ** 0.5 - b) / (2 * a)  # 0 up to white
    becomes = (1 - t) * (1 - t) * WHITE_BECOMES + t * (1 - t) * (2 * y) + t * t
    return becomes * of["min"](brightest, 1) / of["brightest"]
