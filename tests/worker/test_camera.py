"""The preview engine's frames, measured: where things are in them, and what must not be seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from core.config.settings import Settings
from core.engines.camera import MOTIONS
from core.engines.known import find_engine
from core.requests.clip import Clip, ClipRequest
from core.requests.resolve import resolve
from worker.attempt import Attempt, Stopped
from worker.engines.base import Frames
from worker.engines.camera import Camera, camera_path, prepare
from worker.media.fit import fit_picture
from worker.media.mp4 import in_bt709
from worker.media.yuv import as_rgb, planes

SETTINGS = Settings(_env_file=None)
ENGINE = find_engine("preview", SETTINGS)
FITS = ("cover", "contain", "stretch")
SHAPES = st.tuples(st.integers(16, 16384), st.integers(16, 16384))
FRAMES = st.tuples(st.integers(64, 1920), st.integers(64, 1920))


def clip(width: int = 256, height: int = 144, num_frames: int = 9, **fields: object) -> Clip:
    request = ClipRequest.model_validate({"width": width, "height": height, "num_frames": num_frames, **fields})
    return resolve(request, ENGINE, SETTINGS)[0]


def sampled(picture: Image.Image, wanted: Clip) -> Frames:
    frames = Camera(ENGINE, SETTINGS).render(picture, wanted, Attempt(Camera.phases))
    assert frames.shape == (wanted.num_frames, wanted.height * 3 // 2, wanted.width)
    assert frames.dtype == np.uint8
    return frames


def render(picture: Image.Image, wanted: Clip) -> Frames:
    """As a player shows them."""
    return np.stack([as_rgb(frame) for frame in sampled(picture, wanted)])


# Motion: soft dots on a picture, found again in each frame to a fraction of a pixel

Points = NDArray[np.float64]


def dotted(size: tuple[int, int], points: Points, radius: float) -> Image.Image:
    """Gaussian dots; a pixel's middle lies at its index + 0.5, as in Pillow's boxes."""
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1])[:, np.newaxis] + 0.5
    dots = np.zeros((size[1], size[0]))
    for point_x, point_y in points:
        dots += np.exp(-(((x - point_x) / radius) ** 2 + ((y - point_y) / radius) ** 2) / 2)
    return Image.fromarray((255 * dots).round().clip(0, 255).astype(np.uint8)).convert("RGB")


def centroid(frame: NDArray[np.uint8], near: Points) -> Points:
    """The middle of the light within 14 px of `near`."""
    y, x = np.mgrid[0 : frame.shape[0], 0 : frame.shape[1]] + 0.5
    light = frame[:, :, 1] * (np.hypot(x - near[0], y - near[1]) < 14)
    middle: Points = np.array([(light * x).sum(), (light * y).sum()]) / light.sum()
    return middle


def expected_points(picture: tuple[int, int], points: Points, wanted: Clip) -> Points:
    """(frames, points, 2): where the path says that each point of the picture is seen."""
    frame = (wanted.width, wanted.height)
    shape = frame if wanted.fit == "stretch" else picture  # the path then leads over the fitted frame
    path = camera_path(wanted.motion or "", wanted.num_frames, shape, frame, wanted.fit == "contain")[:, np.newaxis]
    seen: Points = (points * np.divide(shape, picture) - path[..., :2]) / (path[..., 2:] - path[..., :2]) * frame
    return seen


# Smaller than the frame, about equal, and so large that it is reduced first. All fit a frame without rounding.
@pytest.mark.parametrize("size", [(128, 96), (320, 240), (1920, 720)])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("motion", MOTIONS[1:])
def test_things_move_as_the_path_says_to_a_fraction_of_a_pixel(size: tuple[int, int], fit: str, motion: str) -> None:
    wanted = clip(fit=fit, motion=motion, num_frames=15)
    apart = 2 if fit == "contain" else 1  # seen from farther back, they would come too near to each other
    points = (0.5 + apart * np.array([[-0.07, -0.08], [0.08, -0.05], [0, 0.1]])) * size
    radius = 3.0 * size[0] / wanted.width
    frames = render(dotted(size, points, radius), wanted)
    for frame, seen in zip(frames, expected_points(size, points, wanted), strict=True):
        for point in seen:
            assert np.abs(centroid(frame, point) - point).max() < 0.05


@pytest.mark.parametrize("size", [(200, 120), (320, 180), (1920, 1080)])
def test_a_slow_pan_does_not_tremble(size: tuple[int, int]) -> None:
    """Waves on the picture, and their phase in each frame. Coordinates in 1/32 px would be off by 0.014 px."""
    wanted = clip(num_frames=200, motion="pan_right")
    path = camera_path("pan_right", 200, size, (256, 144))
    wave = size[0] / 10
    column = (128 + 120 * np.sin(2 * np.pi * (np.arange(size[0]) + 0.5) / wave)).round().astype(np.uint8)
    frames = render(Image.fromarray(np.tile(column, (size[1], 1))).convert("RGB"), wanted)
    seen_wave = wave / (path[0, 2] - path[0, 0]) * 256
    turns = np.hanning(256) * np.exp(-2j * np.pi * np.arange(256) / seen_wave)
    phase = np.unwrap(np.angle((frames[:, :, :, 0].mean(axis=1) - 128) @ turns))
    moved, expected = phase * seen_wave / (2 * np.pi), path[:, 0] * seen_wave / wave
    assert np.diff(expected).max() < 0.5
    assert np.abs((moved - moved[0]) - (expected - expected[0])).max() < 0.008


# The path


@given(SHAPES, FRAMES, st.integers(2, 600), st.sampled_from(MOTIONS))
def test_the_camera_stays_inside_the_picture_and_keeps_the_frames_shape(
    picture: tuple[int, int], frame: tuple[int, int], num_frames: int, motion: str
) -> None:
    path = camera_path(motion, num_frames, picture, frame)
    assert path.shape == (num_frames, 4)
    assert path[:, :2].min() >= 0
    assert (path[:, 2:] <= np.array(picture) * (1 + 1e-12)).all()
    assert has_the_shape_of(path, frame)


def has_the_shape_of(path: NDArray[np.float64], frame: tuple[int, int]) -> bool:
    size = path[:, 2:] - path[:, :2]
    return bool(np.allclose(size[:, 0] / size[:, 1], frame[0] / frame[1]))


@given(SHAPES, FRAMES, st.integers(2, 600), st.sampled_from(MOTIONS))
def test_a_contained_picture_stays_inside_what_the_camera_sees_and_no_smaller_than_that_takes(
    picture: tuple[int, int], frame: tuple[int, int], num_frames: int, motion: str
) -> None:
    path = camera_path(motion, num_frames, picture, frame, contain=True)
    around = np.hstack([-path[:, :2], path[:, 2:] - picture]) / (path[:, 2:] - path[:, :2]).repeat(2, axis=1)
    assert around.min() == pytest.approx(0, abs=1e-9)
    assert has_the_shape_of(path, frame)


@pytest.mark.parametrize("contain", [False, True])
@given(picture=SHAPES, frame=FRAMES, motion=st.sampled_from(MOTIONS))
def test_the_camera_starts_and_stops_gently(
    contain: bool, picture: tuple[int, int], frame: tuple[int, int], motion: str
) -> None:
    path = camera_path(motion, 25, picture, frame, contain)
    step = np.abs(np.diff(path, axis=0)).max(axis=1)
    assert step[0] < 0.35 * step.max()
    assert step[-1] < 0.35 * step.max()
    assert step.max() > 0


@pytest.mark.parametrize("contain", [False, True])
@given(frame=FRAMES, num_frames=st.integers(2, 600), motion=st.sampled_from(MOTIONS))
def test_a_video_that_goes_on_begins_with_its_whole_last_frame_and_leaves_it_gently(
    contain: bool, frame: tuple[int, int], num_frames: int, motion: str
) -> None:
    path = camera_path(motion, num_frames, frame, frame, contain, goes_on=True)
    assert path[0] == pytest.approx([0, 0, *frame])
    beyond = np.hstack([-path[:, :2], path[:, 2:] - frame]) * (1 if contain else -1)
    assert beyond.min() >= -1e-9
    assert has_the_shape_of(path, frame)
    step = np.abs(np.diff(camera_path(motion, 25, frame, frame, contain, goes_on=True), axis=0)).max(axis=1)
    assert max(step[0], step[-1]) < 0.45 * step.max()


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("pan_left", 0, -1), ("pan_right", 0, 1), ("pan_up", 1, -1), ("pan_down", 1, 1)]
)
def test_a_pan_that_goes_on_moves_in_its_direction_only(motion: str, axis: int, sign: int) -> None:
    path = camera_path(motion, 25, (1024, 576), (1024, 576), goes_on=True)
    middle = (path[:, :2] + path[:, 2:]) / 2
    assert (np.diff(middle[:, axis]) * sign > 0).all()
    assert np.ptp(middle[:, 1 - axis]) == pytest.approx(0)


def middles(motion: str, picture: tuple[int, int] = (1920, 1080)) -> NDArray[np.float64]:
    path = camera_path(motion, 25, picture, (1024, 576))
    return (path[:, :2] + path[:, 2:]) / 2


def widths(motion: str) -> NDArray[np.float64]:
    path = camera_path(motion, 25, (1920, 1080), (1024, 576))
    return path[:, 2] - path[:, 0]


def test_a_zoom_goes_from_the_whole_view_to_four_fifths_or_back() -> None:
    assert widths("zoom_in")[[0, -1]] == pytest.approx([1920, 1536])
    assert widths("zoom_out") == pytest.approx(widths("zoom_in")[::-1])
    assert (np.diff(widths("zoom_in")) < 0).all()
    assert middles("zoom_in") == pytest.approx(np.tile([960.0, 540.0], (25, 1)))


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("pan_left", 0, -1), ("pan_right", 0, 1), ("pan_up", 1, -1), ("pan_down", 1, 1)]
)
def test_a_pan_moves_the_camera_in_its_direction_only(motion: str, axis: int, sign: int) -> None:
    middle = middles(motion)
    assert (np.diff(middle[:, axis]) * sign > 0).all()
    assert np.ptp(middle[:, 1 - axis]) == 0
    assert np.ptp(widths(motion)) == pytest.approx(0)


def test_a_pan_uses_what_the_picture_has_to_spare() -> None:
    path = camera_path("pan_right", 25, (1500, 576), (1024, 576))
    assert path[0] == pytest.approx([0, 0, 1024, 576])
    assert path[-1] == pytest.approx([476, 0, 1500, 576])


def test_a_pan_over_a_long_picture_is_no_faster_than_the_eye_follows() -> None:
    short, long = (camera_path("pan_right", count, (16000, 576), (1024, 576)) for count in (25, 250))
    assert np.diff(short[:, 0]).max() < 0.04 * 1024
    assert np.diff(long[:, 0]).max() < 0.04 * 1024
    assert np.ptp(long[:, 0]) == pytest.approx(10 * np.ptp(short[:, 0]))


def test_an_orbit_goes_around_the_middle_and_ends_where_it_began() -> None:
    around = middles("orbit") - [960, 540]
    angles = np.unwrap(np.arctan2(around[:, 1] / 1080, around[:, 0] / 1920))
    assert angles[-1] - angles[0] == pytest.approx(2 * np.pi)
    assert (np.diff(angles) > 0).all()
    path = camera_path("orbit", 25, (1920, 1080), (1024, 576))
    assert path[-1] == pytest.approx(path[0])


@pytest.mark.parametrize(
    ("picture", "frame", "motion"),
    [
        ((1920, 1080), (1024, 576), "zoom_in"),
        ((4032, 3024), (1024, 576), "zoom_in"),
        ((3000, 1000), (1024, 576), "pan_right"),
        ((1920, 1080), (576, 1024), "pan_right"),
        ((1080, 1920), (1024, 576), "pan_up"),
        ((1000, 1000), (1024, 576), "pan_up"),
    ],
)
def test_auto_looks_at_both_shapes(picture: tuple[int, int], frame: tuple[int, int], motion: str) -> None:
    assert (camera_path("auto", 9, picture, frame) == camera_path(motion, 9, picture, frame)).all()


# What is seen


@pytest.mark.parametrize("size", [(100, 80), (256, 144), (900, 300), (300, 1200), (1600, 1000)])
@pytest.mark.parametrize("fit", ["cover", "stretch"])
@pytest.mark.parametrize("motion", MOTIONS)
def test_no_border_is_ever_seen(size: tuple[int, int], fit: str, motion: str) -> None:
    assert render(Image.new("RGB", size, "white"), clip(fit=fit, motion=motion)).min() == 255


@pytest.mark.parametrize("picture", [(400, 600), (600, 400), (1000, 100), (250, 250)])
@pytest.mark.parametrize("size", [(256, 144), (144, 256), (160, 160)])
@pytest.mark.parametrize("motion", MOTIONS)
def test_no_motion_cuts_anything_from_a_contained_picture(
    picture: tuple[int, int], size: tuple[int, int], motion: str
) -> None:
    """All of its light is there, and none is beside it; each side of it has its colour in each frame."""
    wanted = clip(*size, fit="contain", motion=motion)
    path = camera_path(motion, wanted.num_frames, picture, size, contain=True)
    seen = np.prod(picture) / np.prod(path[:, 2:] - path[:, :2], axis=1)
    light = render(Image.new("RGB", picture, "white"), wanted).mean(axis=(1, 2, 3)) / 255
    assert light == pytest.approx(seen, rel=0.03)
    shown = render(framed(picture), wanted).astype(int)
    for colour in SIDES.values():
        assert (np.abs(shown - colour).max(axis=-1) < 60).any(axis=(1, 2)).all(), colour


SIDES = {"left": (255, 0, 0), "top": (0, 255, 0), "right": (0, 0, 255), "bottom": (255, 255, 0)}


def framed(size: tuple[int, int]) -> Image.Image:
    """Grey, with a colour along each side."""
    picture = Image.new("RGB", size, (128, 128, 128))
    (width, height), thick = size, round(0.06 * max(size))
    boxes = (
        (0, 0, thick, height),
        (thick, 0, width - thick, thick),
        (width - thick, 0, width, height),
        (thick, height - thick, width - thick, height),
    )
    for box, colour in zip(boxes, SIDES.values(), strict=True):
        picture.paste(colour, box)
    return picture


def test_a_zoom_to_a_contained_picture_ends_as_large_as_it_can_be() -> None:
    frames = render(Image.new("RGB", (300, 600), "white"), clip(fit="contain", motion="zoom_in"))
    seen = [[(frame > 127).any(axis=(axis, 2)).sum() for axis in (0, 1)] for frame in frames]
    assert seen[0] == pytest.approx([72 / 1.25, 144 / 1.25], abs=1)
    assert seen[-1] == [72, 144]


def test_a_pan_moves_a_contained_picture_over_the_black_beside_it() -> None:
    frames = render(Image.new("RGB", (300, 600), "white"), clip(fit="contain", motion="pan_right"))
    assert ((frames > 127).any(axis=(1, 3)).sum(axis=1) == 72).all()
    lefts = [int((frame > 127).any(axis=(0, 2)).argmax()) for frame in frames]
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[0] - lefts[-1] == pytest.approx(0.2 * 256, abs=1)


@pytest.mark.parametrize("fit", FITS)
def test_colours_stay_exact(fit: str) -> None:
    frames = render(Image.new("RGB", (320, 180), (200, 100, 50)), clip(fit=fit))
    assert (frames[:, 30:-30, 50:-50] == (200, 100, 50)).all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(160, 120), (1000, 750)])
def test_a_zoom_begins_with_the_fitted_picture_or_ends_with_it_if_contained(fit: str, size: tuple[int, int]) -> None:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    waves = [np.sin(20 * x / size[0]), np.cos(15 * y / size[1]), np.sin(12 * (x + y) / size[0])]
    picture = Image.fromarray((128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8))
    whole = sampled(picture, clip(fit=fit, motion="zoom_in"))[-1 if fit == "contain" else 0].astype(float)
    fitted = np.asarray(fit_picture(picture, 256, 144, fit))
    (stored,) = in_bt709([fitted], 256, 144, fps=7)
    assert np.abs(whole - stored.to_ndarray()).mean() < 0.6  # an edge on black is resampled together with the black


def test_colour_lies_where_the_brightness_does() -> None:
    """Chroma's own place, against what swscale makes of the same frame: half a pixel aside would be 0.5 here."""
    x = np.arange(1024)
    waves = 128 + 100 * np.stack([np.sin(x / 30), np.cos(x / 30), np.zeros(1024)], axis=-1)
    picture = Image.fromarray(np.tile(waves, (576, 1, 1)).astype(np.uint8))
    first = sampled(picture, clip(1024, 576, motion="zoom_in"))[0]
    (stored,) = in_bt709([np.asarray(picture)], 1024, 576, fps=7)
    ours, theirs = (frame[576 : 576 + 144].reshape(288, 512).astype(float) for frame in (first, stored.to_ndarray()))
    slope = np.gradient(theirs, axis=1)
    assert abs(((ours - theirs) * slope).sum() / (slope**2).sum()) < 0.03


@pytest.mark.parametrize("period", [1, 2, 3])
@pytest.mark.parametrize("motion", MOTIONS)
def test_detail_too_fine_for_the_frame_is_even_grey_and_does_not_shimmer(period: int, motion: str) -> None:
    board = (np.indices((1440, 2560)) // period).sum(axis=0) % 2 * 255
    frames = render(Image.fromarray(board.astype(np.uint8)).convert("RGB"), clip(motion=motion))
    assert np.abs(frames.astype(float) - 127.5).max() < 4


def test_detail_as_fine_as_the_frame_does_not_pulse_as_it_passes_the_pixels() -> None:
    noise = np.random.default_rng(0).normal(128, 40, (230, 308)).clip(0, 255).astype(np.uint8)
    frames = render(Image.fromarray(noise).convert("RGB"), clip(num_frames=60, motion="pan_right"))
    detail = np.abs(np.diff(frames[:, :, :, 0].astype(float), axis=2)).mean(axis=(1, 2))
    assert np.ptp(detail) / detail.mean() < 0.05  # 0.11 without the denser stage


def test_a_large_picture_stays_sharp_as_the_camera_comes_near() -> None:
    """Stripes 2.5 px wide in the last frame: there only if its pixels come from the picture, not from frame 0."""
    stripes = np.tile(np.arange(2560) // 20 % 2 * 255, (1440, 1)).astype(np.uint8)
    last = render(Image.fromarray(stripes).convert("RGB"), clip(motion="zoom_in"))[-1, 72, :, 0].astype(float)
    assert np.ptp(last) > 240


def test_a_small_picture_is_enlarged_without_blocks() -> None:
    halves = np.tile(np.repeat([60, 200], 16), (18, 1)).astype(np.uint8)
    frames = render(Image.fromarray(halves).convert("RGB"), clip(512, 288, motion="zoom_in")).astype(float)
    assert np.abs(np.diff(frames, axis=2)).max() < 20  # blocks would jump by 140
    assert np.abs(np.diff(frames, axis=1)).max() == 0


def test_a_picture_enlarged_twice_or_more_is_resampled_once() -> None:
    picture = Image.effect_noise((128, 72), 50).convert("RGB")
    frames = sampled(picture, clip(motion="zoom_in"))
    for frame, box in zip(frames, camera_path("zoom_in", 9, picture.size, (256, 144)), strict=True):
        once = planes(picture)[0].resize((256, 144), Image.Resampling.BICUBIC, box=tuple(box))
        assert (frame[:144] == np.asarray(once)).all()


@pytest.mark.parametrize(("motion", "axis"), [("pan_left", 1), ("pan_down", 0)])
def test_what_a_pan_does_not_move_along_is_resampled_once_for_all_frames(motion: str, axis: int) -> None:
    stage, path = prepare(Image.new("RGB", (1600, 1000)), clip(motion=motion))
    assert stage.size[axis] == (256, 144)[axis]
    assert path[:, [axis, axis + 2]] == pytest.approx(np.tile([0, stage.size[axis]], (9, 1)))


@pytest.mark.parametrize("size", [(16, 16), (16384, 16), (16, 16384), (6000, 4000)])
@pytest.mark.parametrize("frame", [(64, 64), (64, 1920), (1024, 576)])
@pytest.mark.parametrize("fit", FITS)
def test_any_picture_makes_a_clip_of_any_shape(size: tuple[int, int], frame: tuple[int, int], fit: str) -> None:
    frames = render(Image.new("RGB", size, "white"), clip(*frame, num_frames=2, fit=fit))
    assert frames.max() > 60  # where contain leaves one row of the picture, it is grey
    assert fit == "contain" or frames.min() == 255


# As an engine


def test_the_seed_does_not_change_the_look() -> None:
    picture = Image.effect_noise((300, 200), 50).convert("RGB")
    assert (render(picture, clip(seed=1)) == render(picture, clip(seed=2))).all()


def test_progress_reaches_the_end() -> None:
    attempt = Attempt(Camera.phases)
    Camera(ENGINE, SETTINGS).render(Image.new("RGB", (64, 64)), clip(), attempt)
    assert attempt.progress == 99
    assert attempt.seconds["render"] > 0


class StopsAfter(Attempt):
    """Is canceled once so many frames are done."""

    def __init__(self, frames: int) -> None:
        super().__init__(Camera.phases)
        self.frames = frames

    def advance(self, done: int, total: int) -> None:
        if done == self.frames:
            self.stop()
        super().advance(done, total)


def test_a_stopped_attempt_ends_after_the_frame_at_hand() -> None:
    attempt = StopsAfter(3)
    with pytest.raises(Stopped):
        Camera(ENGINE, SETTINGS).render(Image.new("RGB", (64, 64)), clip(num_frames=600), attempt)
    assert attempt.progress == 0  # 3 of 600 frames


def test_it_names_the_libraries_that_make_its_pixels() -> None:
    camera = Camera(ENGINE, SETTINGS)
    camera.load()
    assert set(camera.versions()) == {"pillow", "numpy", "av"}
