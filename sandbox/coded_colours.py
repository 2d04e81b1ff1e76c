"""Colours that a file names by codes or numbers instead of a profile: primaries and a transfer function.

The codes are those of ITU-T H.273. PNG's cICP, AVIF, HEIC and an ICC profile's cicp tag carry them; PNG's gAMA and
cHRM are numbers."""

from typing import NamedTuple

from PIL import Image

from sandbox import light, primaries, transfers
from sandbox.primaries import BT2020, SRGB, Primaries, between, to_xyz
from sandbox.tone_map import shown, tone_mapped
from sandbox.transfers import Transfer


class CodedColours(NamedTuple):
    primaries: Primaries
    transfer: Transfer

    def to_srgb(self, strip: Image.Image) -> Image.Image:
        """Return an RGB picture with 8 bits in sRGB."""
        if self == (SRGB, transfers.srgb):
            return strip
        bands = light.decode(strip, self.transfer)
        if self.transfer is transfers.hlg:
            bands = shown(bands, to_xyz(self.primaries)[1])
        if self.transfer not in (transfers.pq, transfers.hlg):
            return light.encode(light.times(between(self.primaries, SRGB), bands))
        mapped = tone_mapped(light.times(between(self.primaries, BT2020), bands))
        return light.encode(light.times(between(BT2020, SRGB), mapped))


def coded_colours(primary: int, transfer: int) -> CodedColours | None:
    """Return what codes of H.273 mean; None for what no browser shows as they say."""
    if primary not in primaries.BY_CODE or transfer not in transfers.BY_CODE:
        return None
    return CodedColours(primaries.BY_CODE[primary], transfers.BY_CODE[transfer])
