"""The three colours and the white that a picture mixes its colours of, and how light goes from one set to another."""

from collections.abc import Sequence
from typing import NamedTuple

Pair = tuple[float, float]
Row = tuple[float, float, float]
Matrix = tuple[Row, Row, Row]


class Primaries(NamedTuple):
    """Chromaticities: CIE 1931 x and y."""

    white: Pair
    red: Pair
    green: Pair
    blue: Pair


D65, C, E = (0.3127, 0.3290), (0.310, 0.316), (1 / 3, 1 / 3)
SRGB = Primaries(D65, (0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
BT2020 = Primaries(D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
SMPTE_C = Primaries(D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070))
BY_CODE = {
    1: SRGB,
    4: Primaries(C, (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: Primaries(D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: SMPTE_C,
    7: SMPTE_C,
    8: Primaries(C, (0.681, 0.319), (0.243, 0.692), (0.145, 0.049)),
    9: BT2020,
    10: Primaries(E, (1, 0), (0, 1), (0, 0)),
    11: Primaries((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: Primaries(D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: Primaries(D65, (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
"""By their code in ITU-T H.273, table 2."""

BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
"""From XYZ to the responses of the eye's cones, in which white is adapted (ICC.1:2022, annex E)."""


def between(these: Primaries, those: Primaries) -> Matrix:
    """Return the matrix from linear light of these primaries to that of those, white to white. Raises
    ZeroDivisionError if the primaries lie on one line."""
    return product(inverse(cone_responses(those)), cone_responses(these))


def cone_responses(primaries: Primaries) -> Matrix:
    """Return the matrix from linear light to the responses of the cones, relative to those to white."""
    columns = product(BRADFORD, to_xyz(primaries))
    return tuple(tuple(value / sum(row) for value in row) for row in columns)  # type: ignore[return-value]  # three


def to_xyz(primaries: Primaries) -> Matrix:
    """Return the matrix from linear light to CIE XYZ, in which white has the luminance 1: its second row holds how much
    each colour adds to that."""
    colours = transposed([whole(pair) for pair in primaries[1:]])
    white = whole(primaries.white)
    amounts = [sum(a * b for a, b in zip(row, white, strict=True)) / white[1] for row in inverse(colours)]
    return tuple(  # type: ignore[return-value]  # three
        tuple(value * amount for value, amount in zip(row, amounts, strict=True)) for row in colours
    )


def whole(pair: Pair) -> Row:
    x, y = pair
    return x, y, 1 - x - y


def transposed(rows: Sequence[Sequence[float]]) -> Matrix:
    return tuple(zip(*rows, strict=True))  # type: ignore[return-value]  # three


def product(left: Matrix, right: Matrix) -> Matrix:
    return tuple(  # type: ignore[return-value]  # three
        tuple(sum(a * b for a, b in zip(row, column, strict=True)) for column in transposed(right)) for row in left
    )


def inverse(matrix: Matrix) -> Matrix:
    """By the adjugate. Raises ZeroDivisionError if there is none."""
    (a, b, c), (d, e, f), (g, h, i) = matrix
    adjugate = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    determinant = a * adjugate[0][0] + b * adjugate[1][0] + c * adjugate[2][0]
    return tuple(tuple(value / determinant for value in row) for row in adjugate)  # type: ignore[return-value]  # three
