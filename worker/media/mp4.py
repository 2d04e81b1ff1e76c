"""Frames into an MP4 that every browser plays, and the pictures that show what is in it."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray
from PIL import Image

from core.errors import EncodingFailed
from worker.media.yuv import as_rgb, size_of

# Everything that x264 is held to, but the quality.
X264 = {
    "profile": "high",
    # 25 frames of 1024×576 at crf 18 on two cores: ultrafast 0.19 s and 1562 kB (it leaves out what makes H.264 High),
    # superfast 0.25 s and 613 kB, veryfast 0.31 s and 402 kB, medium 0.60 s and 392 kB.
    "preset": "veryfast",
    # Without blocks of 8×8 in what is predicted from other frames: 12 to 36 % less work, 0 to 8 % larger, 0.1 dB at
    # most.
    "partitions": "i8x8,i4x4",
    # By itself x264 takes what the processor does fastest, also if that rounds otherwise; and what it takes on one
    # with AVX-512 (its macroblock tree) reads memory that nobody wrote: small clips came out otherwise each time.
    "x264-params": "cpu-independent=1",
}

# x264's output depends on its number of threads, so that is fixed: one clip, one file, whatever the machine's cores.
THREADS = 4

# swscale's default is the matrix of BT.601 and chroma in the middle of four pixels; H.264 decoders expect what the
# tags say and chroma at the left.
TO_BT709 = "out_color_matrix=bt709:out_range=tv:out_chroma_loc=left:flags=bicubic+accurate_rnd+full_chroma_inp"

KEY_FRAMES_APART = 60
"""Frames from one key frame to the next, at most. To show one frame a player decodes all from the key frame before; and
where one stands, all of the picture is coded anew. docs/performance.md has what other distances cost."""

THUMBNAIL_SIDE = 640
TILE_SIDE, TILES, COLUMNS = 256, 25, 5

Advance = Callable[[int, int], None]


def encoder() -> dict[str, Any]:
    """By what a video is encoded here, for whoever wants the same bytes again."""
    return {"name": "libx264", **X264, "threads": THREADS, "key_frames_apart": KEY_FRAMES_APART}


def encode_mp4(
    frames: NDArray[np.uint8], fps: int, quality: int, path: Path, advance: Advance = lambda done, total: None
) -> None:
    """Write `frames` as H.264 High, yuv420p, BT.709 limited range: sRGB (n, height, width, 3) with even sides, or
    (n, height * 3 / 2, width) as worker/media/yuv.py has it.

    `quality` is x264's crf, 1 to 51; 0 would be lossless, which the High profile cannot hold. `advance(done, total)`
    is called after each frame and may raise to stop. Equal frames give equal bytes. Raises EncodingFailed; what lies
    at `path` is then no video.
    """
    count = len(frames)
    encode_each(frames, count, size_of(frames[0]), fps, quality, path, lambda done: advance(done, count))


def encode_each(
    frames: Iterable[NDArray[np.uint8]],
    count: int,
    size: tuple[int, int],
    fps: int,
    quality: int,
    path: Path,
    after: Callable[[int], None],
) -> int:
    """The same of `count` frames that come one by one; returns how many came. `after(done)` is called behind each and
    may raise to stop."""
    width, height = size
    if width % 2 or height % 2:
        raise EncodingFailed(f"yuv420p needs even sides; got {width}×{height}")
    done, apart = 0, key_frame_distance(count)
    with created_mp4(path) as container:
        stream = add_stream(container, width, height, fps, quality)
        for done, frame in enumerate(in_bt709(frames, width, height, fps), 1):
            if (done - 1) % apart == 0:
                frame.pict_type = PictureType.I
            container.mux(stream.encode(frame))
            after(done)
        container.mux(stream.encode(None))
    return done


def key_frame_distance(count: int) -> int:
    """Frames from one key frame to the next in a video of `count`: the same all along, so that none is near the end,
    where the camera is slow and what a key frame changes would be seen."""
    return -(-count // -(-count // KEY_FRAMES_APART))


@contextmanager
def created_mp4(path: Path) -> Iterator[av.container.OutputContainer]:
    """Raises EncodingFailed."""
    try:
        # A real path, not a BytesIO: there faststart fails as the file is closed (PyAV 18.1).
        with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            yield container
    except av.FFmpegError as error:
        raise EncodingFailed(f"the MP4 could not be written: {error.strerror}") from error


def add_stream(
    container: av.container.OutputContainer, width: int, height: int, fps: int, quality: int
) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=fps, options={"crf": str(quality), **X264})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.thread_count = THREADS
    # sRGB and BT.709 share primaries. Their curves differ, yet everyone tags sRGB video as BT.709 and players show it
    # as sRGB; the honest tag (iec61966-2-1) is the one that some of them do not know.
    stream.codec_context.color_primaries = ColorPrimaries.BT709
    stream.codec_context.color_trc = ColorTrc.BT709
    stream.codec_context.colorspace = Colorspace.ITU709
    stream.codec_context.color_range = ColorRange.MPEG
    return stream


def in_bt709(frames: Iterable[NDArray[np.uint8]], width: int, height: int, fps: int) -> Iterator[av.VideoFrame]:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1, fps))
    graph.link_nodes(
        source, graph.add("scale", TO_BT709), graph.add("format", "yuv420p"), graph.add("buffersink")
    ).configure()
    for index, pixels in enumerate(frames):
        rgb = pixels.ndim == 3
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24" if rgb else "yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, fps)
        if rgb:
            graph.vpush(frame)
            frame = graph.vpull()
        yield frame


def first_frame_jpeg(frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> bytes:
    """The first frame as JPEG, its longer side at most 640 px."""
    return jpeg(reduced(frames[0], THUMBNAIL_SIDE))


def tile_indices(count: int) -> list[int]:
    """Which of `count` frames a spritesheet shows: 25 evenly spaced ones, the first and the last among them, or all."""
    return [round(place) for place in np.linspace(0, count - 1, min(count, TILES)).tolist()]


def spritesheet_jpeg(tiles: Sequence[NDArray[np.uint8]]) -> bytes:
    """The frames as one JPEG: row by row, five in a row, each with its longer side at most 256 px."""
    pictures = [reduced(tile, TILE_SIDE) for tile in tiles]
    (width, height), columns = pictures[0].size, min(COLUMNS, len(pictures))
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % columns * width, index // columns * height))
    return jpeg(sheet)


def reduced(frame: NDArray[np.uint8], side: int) -> Image.Image:
    picture = Image.fromarray(as_rgb(frame))
    # reducing_gap: by whole numbers first, all the way. 25 tiles of 1024×576 take 0.03 s of a core instead of 0.12.
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=1.0)
    return picture


def jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
