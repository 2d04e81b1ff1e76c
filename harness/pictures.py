"""Pictures to send: the samples, and plain ones of any size."""

from io import BytesIO
from pathlib import Path

from PIL import Image

SAMPLES = Path(__file__).parent.parent / "samples"
CAT = (SAMPLES / "cat.jpg").read_bytes()


def png(width: int, height: int) -> bytes:
    data = BytesIO()
    Image.new("L", (width, height)).save(data, "PNG")
    return data.getvalue()
