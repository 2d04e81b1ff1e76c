"""Pictures through the sandbox, from bytes to bytes."""

import io

from sandbox.decoder import Decoder


def decoded(decoder: Decoder, upload: bytes, max_megapixels: int = 50, owner: str = "") -> bytearray:
    """Return the picture as a JPEG or PNG. Raises what `Decoder.decoding` does."""
    with decoder.decoding(io.BytesIO(upload), max_megapixels, owner) as picture:
        return picture()
