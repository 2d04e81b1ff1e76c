"""An uploaded picture, decoded and encoded anew, in a child of the sandbox."""

import io

from PIL import ExifTags, Image, TiffImagePlugin

from core.picture import is_webp, read_picture, too_much_memory

COMMON_SIDE = 512  # pixels; a larger one would keep the cores from who waits for a video


def read(data: bytes, max_megapixels: int) -> memoryview:
    """Return the picture as a JPEG or PNG with nothing else in it. Raises InvalidRequest."""
    return encode(read_picture(data, max_megapixels), data)


def encode(picture: Image.Image, upload: bytes) -> memoryview:
    """As JPEG what came with losses, which photos are and which PNG would take ten times as long; all else without
    loss. Only pixels: no metadata, no tail."""
    file = io.BytesIO()
    try:
        if is_lossy(upload):
            picture.save(file, "JPEG", quality=95, subsampling="4:4:4")
        else:
            picture.save(file, "PNG", compress_level=1)
    except MemoryError as error:
        raise too_much_memory() from error
    return file.getbuffer()


def is_lossy(upload: bytes) -> bool:
    return upload.startswith(b"\xff\xd8") or (is_webp(upload) and b"VP8L" not in upload)


def load_all_code() -> None:
    """Have Pillow import what it imports late: a child can open no file. And have the memory of a common picture at
    hand: to get that page by page takes as long as a fifth of the decoding."""
    _ = TiffImagePlugin  # EXIF is read with it
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    for format in ("JPEG", "PNG", "WEBP", "MPO"):
        file = io.BytesIO()
        side = COMMON_SIDE if format == "JPEG" else 16
        Image.new("RGB", (side, side)).save(file, format, exif=tags, save_all=format != "JPEG")
        encode(read_picture(file.getvalue(), 1), file.getvalue())
