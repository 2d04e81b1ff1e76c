"""The files that users download: decoded again, and measured."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from numpy.typing import NDArray
from PIL import Image

from core.errors import EncodingFailed
from worker.attempt import Attempt, Stopped
from worker.media.mp4 import KEY_FRAMES_APART, encode_mp4, first_frame_jpeg, in_bt709

Frames = NDArray[np.uint8]


def moving(count: int = 9, width: int = 96, height: int = 64) -> Frames:
    """A soft wave that travels, in other colours per channel."""
    time, y, x = np.mgrid[0:count, 0:height, 0:width]
    waves = [np.sin(x / 15 + time / 4), np.cos(y / 11 - time / 5), np.sin((x + y) / 19)]
    return (128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def still(frame: Frames, count: int = 3) -> Frames:
    return np.repeat(frame[np.newaxis], count, axis=0)


def encoded(frames: Frames, tmp_path: Path, fps: int = 7, quality: int = 18) -> Path:
    path = tmp_path / "video.mp4"
    encode_mp4(frames, fps, quality, path)
    return path


# swscale's default rounds everything down; this is how a player shows it.
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def decoded(path: Path) -> Frames:
    """RGB as a player sees it that obeys the tags."""
    with av.open(path) as container:
        shown = [
            frame.reformat(
                format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG, interpolation=EXACT
            )
            for frame in container.decode(video=0)
        ]
    return np.stack([frame.to_ndarray() for frame in shown]).astype(np.uint8)


@pytest.mark.parametrize("fps", [1, 7, 25, 60])
@pytest.mark.parametrize("count", [2, 25])
def test_frames_rate_and_length_are_exact(tmp_path: Path, fps: int, count: int) -> None:
    path = encoded(moving(count), tmp_path, fps)
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.frames == count
        assert stream.average_rate == stream.base_rate == Fraction(fps)
        assert stream.time_base is not None
        assert stream.duration == Fraction(count, fps) / stream.time_base
        times = [Fraction(frame.pts or 0) * stream.time_base for frame in container.decode(stream)]
    assert times == [Fraction(index, fps) for index in range(count)]


def key_frames(path: Path) -> list[int]:
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
    packets.sort(key=lambda packet: packet.pts or 0)
    return [index for index, packet in enumerate(packets) if packet.is_keyframe]


@pytest.mark.parametrize("count", [2, 25, KEY_FRAMES_APART, KEY_FRAMES_APART + 1, 3 * KEY_FRAMES_APART + 5])
def test_a_key_frame_is_never_far_and_none_is_near_the_end(tmp_path: Path, count: int) -> None:
    keys = [*key_frames(encoded(moving(count), tmp_path)), count]
    apart = np.diff(keys)
    assert keys[0] == 0
    assert apart.max() <= KEY_FRAMES_APART
    assert set(apart[:-1]) <= {apart[0]}
    assert apart[0] - apart[-1] < len(apart)


def test_each_frame_can_be_sought_alone(tmp_path: Path) -> None:
    path = encoded(moving(2 * KEY_FRAMES_APART + 9), tmp_path)
    frames = decoded(path)
    with av.open(path) as container:
        stream = container.streams.video[0]
        for index in range(len(frames) - 1, -1, -7):
            at = index * (stream.duration or 0) // len(frames)
            container.seek(at, stream=stream)
            sought = next(frame for frame in container.decode(stream) if (frame.pts or 0) >= at)
            shown = sought.reformat(
                format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG, interpolation=EXACT
            )
            assert np.array_equal(shown.to_ndarray(), frames[index])


def test_it_is_what_browsers_play(tmp_path: Path) -> None:
    with av.open(encoded(moving(), tmp_path)) as container:
        assert len(container.streams) == 1
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.profile, codec.pix_fmt) == ("h264", "High", "yuv420p")
        assert (codec.width, codec.height) == (96, 64)


def test_the_colours_are_tagged_as_bt709_limited_in_the_stream_and_in_the_file(tmp_path: Path) -> None:
    path = encoded(moving(), tmp_path)
    with av.open(path) as container:
        codec = container.streams.video[0].codec_context
        tags = (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range)
    assert tags == (ColorPrimaries.BT709, ColorTrc.BT709, Colorspace.ITU709, ColorRange.MPEG)
    assert b"colrnclx\0\1\0\1\0\1\0" in path.read_bytes()


def test_it_can_play_before_it_is_loaded_fully(tmp_path: Path) -> None:
    data = encoded(moving(), tmp_path).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    frames = moving(30, 256, 144)
    assert encoded(frames, tmp_path).read_bytes() == encoded(frames.copy(), tmp_path).read_bytes()


def test_frames_that_are_yuv_already_are_stored_as_they_are(tmp_path: Path) -> None:
    frames = moving(9, 96, 66)
    stored = np.stack([frame.to_ndarray() for frame in in_bt709(frames, 96, 66, fps=7)])
    assert stored.shape == (9, 99, 96)
    assert encoded(stored, tmp_path).read_bytes() == encoded(frames, tmp_path).read_bytes()
    assert np.abs(np.asarray(Image.open(io.BytesIO(first_frame_jpeg(stored)))).astype(float) - frames[0]).mean() < 3


def test_a_grey_ramp_survives(tmp_path: Path) -> None:
    ramp = np.repeat(np.repeat(np.arange(256, dtype=np.uint8)[np.newaxis, :, np.newaxis], 64, axis=0), 3, axis=2)
    shown = decoded(encoded(still(ramp), tmp_path)).astype(float)
    assert np.abs(shown - ramp).mean() < 0.5
    assert abs((shown - ramp).mean()) < 0.1
    assert np.abs(shown - shown.mean(axis=-1, keepdims=True)).mean() < 0.1  # grey stays grey


def test_saturated_bars_survive(tmp_path: Path) -> None:
    colours = np.array(np.meshgrid([0, 255], [0, 255], [0, 255])).reshape(3, 8).T
    bars = np.repeat(np.repeat(colours[np.newaxis], 32, axis=1), 96, axis=0).astype(np.uint8)
    shown = decoded(encoded(still(bars), tmp_path)).astype(float)
    for index, colour in enumerate(colours):
        inside = shown[:, :, index * 32 + 8 : index * 32 + 24].mean(axis=(0, 1, 2))
        assert np.abs(inside - colour).max() < 1.5, colour


def test_colour_stays_where_the_brightness_is(tmp_path: Path) -> None:
    """Chroma in the place that decoders expect: with the wrong siting it lies half a pixel aside."""
    x = np.arange(128)
    red = 128 + 100 * np.sin(x / 8)
    stripes = np.stack([red, 178 - 0.5 * red, np.full(128, 110.0)], axis=-1).astype(np.uint8)
    path = encoded(still(np.repeat(stripes[np.newaxis], 64, axis=0)), tmp_path, quality=4)
    with av.open(path) as container:
        cr = next(container.decode(video=0)).to_ndarray()[64 + 16 :, :].reshape(32, 64)[16].astype(float)
    r, g, b = stripes.astype(float).T
    exact = 128 + 224 / 255 * (r - (0.2126 * r + 0.7152 * g + 0.0722 * b)) / 1.5748
    smooth = (np.roll(exact, 1) + 2 * exact + np.roll(exact, -1)) / 4
    at_left, between = smooth[::2], (exact[::2] + exact[1::2]) / 2
    assert np.abs(cr - at_left)[2:-2].mean() < 0.5
    assert np.abs(cr - between)[2:-2].mean() > 1


@pytest.mark.parametrize(("width", "height"), [(64, 64), (66, 98), (64, 1920), (1920, 64)])
def test_sizes_that_are_no_multiple_of_16_come_back_whole(tmp_path: Path, width: int, height: int) -> None:
    frames = moving(3, width, height)
    shown = decoded(encoded(frames, tmp_path))
    assert shown.shape == frames.shape
    assert np.abs(shown.astype(float) - frames).mean() < 2


def test_a_lower_quality_makes_a_smaller_and_worse_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), np.uint8)
    sizes, errors = [], []
    for quality in (1, 18, 35, 51):
        path = encoded(noise, tmp_path, quality=quality)
        sizes.append(path.stat().st_size)
        errors.append(np.abs(decoded(path).astype(float) - noise).mean())
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors)
    assert sizes[0] > 4 * sizes[-1]


def test_frames_in_any_memory_order_are_the_same_video(tmp_path: Path) -> None:
    frames = moving()
    planes = np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    assert not planes.flags.c_contiguous
    assert encoded(planes, tmp_path).read_bytes() == encoded(frames, tmp_path).read_bytes()


@pytest.mark.parametrize(("width", "height"), [(97, 64), (96, 65)])
def test_an_odd_side_is_refused(tmp_path: Path, width: int, height: int) -> None:
    with pytest.raises(EncodingFailed, match=f"even sides; got {width}×{height}"):
        encoded(moving(2, width, height), tmp_path)


def test_lossless_is_refused_because_high_cannot_hold_it(tmp_path: Path) -> None:
    with pytest.raises(EncodingFailed):
        encoded(moving(), tmp_path, quality=0)


def test_a_folder_that_is_not_there_fails_cleanly(tmp_path: Path) -> None:
    with pytest.raises(EncodingFailed, match="could not be written: No such file"):
        encode_mp4(moving(), 7, 18, tmp_path / "nowhere" / "video.mp4")


def test_a_full_disk_fails_cleanly() -> None:
    with pytest.raises(EncodingFailed, match="could not be written"):
        encode_mp4(moving(25, 256, 144), 7, 18, Path("/dev/full"))


def test_it_says_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    encode_mp4(moving(5), 7, 18, tmp_path / "video.mp4", lambda done, total: told.append((done, total)))
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_stopped_attempt_ends_it(tmp_path: Path) -> None:
    attempt = Attempt()
    attempt.stop()
    with pytest.raises(Stopped):
        encode_mp4(moving(), 7, 18, tmp_path / "video.mp4", attempt.advance)


def test_the_thumbnail_is_the_first_frame_no_longer_than_640_px() -> None:
    frames = moving(2, 1280, 720)
    picture = Image.open(io.BytesIO(first_frame_jpeg(frames)))
    assert (picture.format, picture.size, picture.mode) == ("JPEG", (640, 360), "RGB")
    reduced = Image.fromarray(frames[0]).resize((640, 360), Image.Resampling.BOX)
    assert np.abs(np.asarray(picture).astype(float) - np.asarray(reduced)).mean() < 3


def test_a_small_frame_is_not_enlarged_for_the_thumbnail() -> None:
    assert Image.open(io.BytesIO(first_frame_jpeg(moving(2, 64, 96)))).size == (64, 96)
