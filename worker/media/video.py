"""Our own MP4s read again, and nothing else: their frames, and two of them joined into one."""

from collections.abc import Callable, Container, Iterator, Sequence
from itertools import chain
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from core.errors import EncodingFailed
from worker.media.mp4 import created_mp4, encode_each
from worker.media.yuv import shown


def frames_of(path: Path, indices: Container[int] | None = None) -> Iterator[NDArray[np.uint8]]:
    """Each frame, or each of these, as sRGB, (height, width, 3). Raises EncodingFailed if the file is no video."""
    try:
        with av.open(path, format="mp4") as container:
            for index, frame in enumerate(container.decode(video=0)):
                if indices is None or index in indices:
                    yield shown(frame)
    except av.FFmpegError as error:
        raise unreadable(error) from error


def stored_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Each frame as worker/media/yuv.py has it. Raises EncodingFailed if the file is no video."""
    try:
        with av.open(path, format="mp4") as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray().astype(np.uint8)
    except av.FFmpegError as error:
        raise unreadable(error) from error


def last_frame(path: Path) -> NDArray[np.uint8]:
    """Raises EncodingFailed if the file is no video."""
    try:
        with av.open(path, format="mp4") as container:
            stream = container.streams.video[0]
            container.seek(stream.duration or 0, stream=stream)  # to the key frame before
            *_, last = container.decode(stream)
            return shown(last)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> EncodingFailed:
    return EncodingFailed(f"a stored video cannot be read: {error}")


def join_mp4(parts: Sequence[Path], path: Path, quality: int, check: Callable[[], None]) -> tuple[int, bool]:
    """Write one MP4 that plays `parts` one after another, all of one size and rate. Returns its number of frames, and
    whether it was encoded anew.

    What was encoded alike is copied as it is. Otherwise (another x264 made the first) all of it is encoded anew, with
    `quality` as x264's crf. `check()` is called all along and may raise to stop. Raises EncodingFailed.
    """
    if len({header_of(part) for part in parts}) == 1:
        return copy_packets(parts, path, check), False
    return encode_again(parts, path, quality, check), True


def header_of(path: Path) -> tuple[int, int, bytes]:
    """What a decoder must know before the first frame."""
    try:
        with av.open(path, format="mp4") as container:
            codec = container.streams.video[0].codec_context
            return codec.width, codec.height, codec.extradata or b""
    except (av.FFmpegError, IndexError) as error:
        raise unreadable(error) from error


def copy_packets(parts: Sequence[Path], path: Path, check: Callable[[], None]) -> int:
    count = 0
    with created_mp4(path) as joined:
        stream = None
        for part in parts:
            with av.open(part, format="mp4") as container:
                source = container.streams.video[0]
                stream = stream or joined.add_stream_from_template(source)
                # Not source.duration, which an MP4 may have in whole milliseconds only.
                begin = round(count / (rate_of(source) * (source.time_base or 1)))
                for packet in container.demux(source):
                    if packet.dts is None:  # the end
                        continue
                    check()
                    packet.pts, packet.dts = (packet.pts or 0) + begin, packet.dts + begin
                    packet.stream = stream
                    joined.mux(packet)
                    count += 1
    return count


def encode_again(parts: Sequence[Path], path: Path, quality: int, check: Callable[[], None]) -> int:
    with av.open(parts[0], format="mp4") as container:
        source = container.streams.video[0]
        width, height, fps = source.width, source.height, rate_of(source)
    frames, count = chain.from_iterable(map(stored_frames, parts)), sum(map(count_of, parts))
    return encode_each(frames, count, (width, height), fps, quality, path, lambda done: check())


def count_of(path: Path) -> int:
    """Frames in it."""
    with av.open(path, format="mp4") as container:
        return container.streams.video[0].frames


def rate_of(source: av.VideoStream) -> int:
    """Frames a second: a whole number in all that is made here."""
    return round(source.average_rate or 1)
