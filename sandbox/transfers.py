"""Transfer functions: from a picture's values, 0 to 1, to linear light, of which 1 is white.

BT.709 and its like mean what Chromium shows: what a screen of gamma 2.4 makes of them (ITU-R BT.1886).
"""

from collections.abc import Callable
from math import exp

Transfer = Callable[[float], float]

WHITE_NITS, PEAK_NITS = 203, 1000
"""White in PQ and HLG (ITU-R BT.2408), and the most that pictures in them are taken to show, in cd/m²."""


def srgb(value: float) -> float:
    """IEC 61966-2-1."""
    return float(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)


def smpte_240m(value: float) -> float:
    return float(value / 4 if value < 0.0913 else ((value + 0.1115) / 1.1115) ** (1 / 0.45))


def smpte_428(value: float) -> float:
    return float(52.37 / 48 * value**2.6)


def pq(value: float) -> float:
    """ITU-R BT.2100, table 4."""
    powered = value ** (4096 / 2523 / 128)
    ratio = max(powered - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * powered)
    return float(10_000 / WHITE_NITS * ratio ** (16384 / 2610))


def hlg(value: float) -> float:
    """Return the light of the scene, of which 1 is the most: ITU-R BT.2100, table 5."""
    return value * value / 3 if value <= 0.5 else (exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12


def gamma(exponent: float) -> Transfer:
    def power(value: float) -> float:
        return float(value**exponent)

    return power


BT1886 = gamma(2.4)
BY_CODE: dict[int, Transfer] = {
    1: BT1886,
    4: gamma(2.2),
    5: gamma(2.8),
    6: BT1886,
    7: smpte_240m,
    8: gamma(1),
    11: BT1886,
    13: srgb,
    14: BT1886,
    15: BT1886,
    16: pq,
    17: smpte_428,
    18: hlg,
}
"""By their code in ITU-T H.273, table 3. Not here: the two logarithmic ones and BT.1361's, which no browser knows."""
