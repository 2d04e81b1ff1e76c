import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.config.settings import Settings
from core.engines.base import Range
from core.engines.known import find_engine, known_engines
from core.errors import InvalidParameter
from core.requests.clip import Clip, ClipRequest
from core.requests.resolve import check_defaults, fit_length, resolve
from core.shown import shown

SETTINGS = Settings(_env_file=None)


def resolved(engine: str, **values: object) -> tuple[Clip, list[str]]:
    return resolve(ClipRequest(**values), find_engine(engine, SETTINGS), SETTINGS)


def test_what_is_not_given_comes_from_the_engines_entry() -> None:
    clip, warnings = resolved("svd-xt", seed=1)
    assert (clip.width, clip.height, clip.num_frames, clip.num_inference_steps) == (1024, 576, 25, 25)
    assert warnings == []
    assert resolved("svd")[0].num_frames == 14


def test_an_operators_defaults_win_over_the_entrys() -> None:
    settings = Settings(_env_file=None, video_width=512, video_height=320, video_frames=8)
    clip, _ = resolve(ClipRequest(), find_engine("svd-xt", settings), settings)
    assert (clip.width, clip.height, clip.num_frames) == (512, 320, 8)


def test_a_seed_is_drawn_and_another_one_each_time() -> None:
    assert len({resolved("preview")[0].seed for _ in range(5)}) == 5
    assert resolved("preview", seed=7)[0].seed == 7


def test_fields_that_an_engine_does_not_use_are_said_and_left_out() -> None:
    clip, warnings = resolved("preview", prompt="a cat", motion_bucket_id=100)
    assert clip.motion_bucket_id is None
    assert clip.prompt == "a cat"
    assert sorted(warnings) == [
        "motion_bucket_id is not used by the engine preview",
        "prompt is not used by the engine preview",
    ]


def test_turbo_takes_4_to_8_steps_and_no_guidance() -> None:
    clip, warnings = resolved("turbo", min_guidance_scale=1, max_guidance_scale=3)
    assert (clip.num_inference_steps, clip.min_guidance_scale, clip.max_guidance_scale) == (4, None, None)
    assert warnings == [f"{name}_guidance_scale is not used by the engine turbo" for name in ("min", "max")]
    for steps in (3, 9):
        with pytest.raises(InvalidParameter, match=f"num_inference_steps must be from 4 to 8; got {steps}"):
            resolved("turbo", num_inference_steps=steps)


NUMBERS = [
    (engine.name, name)
    for engine in known_engines(SETTINGS).values()
    for name, limit in engine.limits.items()
    if isinstance(limit, Range)
]


@pytest.mark.parametrize(("engine", "name"), NUMBERS)
@pytest.mark.parametrize("side", ["below", "above"])
def test_a_value_out_of_range_names_the_field_the_value_and_the_range(engine: str, name: str, side: str) -> None:
    limit = find_engine(engine, SETTINGS).limits[name]
    value = limit.low - 1 if side == "below" else limit.high + 1
    with pytest.raises(InvalidParameter) as caught:
        resolved(engine, **{name: value})
    assert caught.value.param == name
    assert str(limit) in caught.value.message
    assert f"{value}" in caught.value.message


# What lets a number be as low or as high as its own limits say.
BESIDE: dict[str, dict[str, int]] = {
    "num_frames": {"fps": 30},
    "smooth_fps": {"fps": 1},
    "min_guidance_scale": {"max_guidance_scale": 10},
    "decode_chunk_size": {"width": 512, "height": 512},
}
TINY, HUGE = math.ulp(0.0), sys.float_info.max


@pytest.mark.parametrize(("engine", "name"), NUMBERS)
def test_a_number_is_taken_at_its_limits_and_refused_next_to_them(engine: str, name: str) -> None:
    limit = find_engine(engine, SETTINGS).limits[name]
    assert isinstance(limit, Range)
    for value in (limit.low, limit.high):
        clip, _ = resolved(engine, **BESIDE.get(name, {}) | {name: value})
        assert getattr(clip, name) == value
    outside = [limit.low - 1, limit.high + 1, math.nextafter(limit.low, -1), math.nextafter(limit.high, HUGE)]
    for value in (*outside, -TINY, HUGE, -HUGE, 2**63, 10**400, -(10**400), *([TINY, -0.0] * (limit.low > 0))):
        with pytest.raises((InvalidParameter, ValidationError)) as caught:  # the latter of what is no whole number
            resolved(engine, **BESIDE.get(name, {}) | {name: value})
        assert isinstance(caught.value, ValidationError) or caught.value.param == name


def test_a_zero_may_be_negative_or_nearly_one() -> None:
    for value in (-0.0, TINY, sys.float_info.min):
        assert resolved("svd-xt", noise_aug_strength=value)[0].noise_aug_strength == value
    assert resolved("svd-xt", seed=-0.0)[0].seed == 0


@pytest.mark.parametrize("engine", sorted(known_engines(SETTINGS)))
@pytest.mark.parametrize("seconds", [TINY, sys.float_info.min, 1e-9, 0.01, 600.5, 1e9, HUGE])
@pytest.mark.parametrize("fps", [None, 1, 30])
def test_seconds_that_no_clip_can_play_are_refused(engine: str, seconds: float, fps: int | None) -> None:
    with pytest.raises(InvalidParameter) as caught:
        resolved(engine, seconds=seconds, fps=fps)
    assert caught.value.param == "seconds"
    assert caught.value.message.endswith(f"; got {shown(seconds)}")


def test_limits_are_written_in_full() -> None:
    with pytest.raises(InvalidParameter) as caught:
        resolved("preview", seed=2**32)
    assert caught.value.message == "seed must be from 0 to 4294967295; got 4294967296"


def test_a_size_off_the_grid_is_refused_not_rounded() -> None:
    with pytest.raises(InvalidParameter, match="a multiple of 64"):
        resolved("svd-xt", width=1000)


def test_an_unknown_choice_lists_the_choices() -> None:
    with pytest.raises(InvalidParameter, match="cover, contain, stretch"):
        resolved("preview", fit="squash")
    with pytest.raises(InvalidParameter, match="auto, svd-xt, svd, turbo, preview"):
        find_engine("sora", SETTINGS)


@pytest.mark.parametrize(
    ("asked", "frames", "seconds"),
    [
        ({"smooth_fps": 30}, 103, 103 / 30),
        ({"smooth_fps": 14}, 49, 3.5),
        ({"smooth_fps": 8}, 28, 3.5),
        ({"smooth_fps": 30, "fps": 29, "num_frames": 2}, 2, 2 / 30),
        ({"smooth_fps": 2, "fps": 1, "num_frames": 25}, 49, 24.5),
    ],
)
def test_a_smoothed_clip_plays_from_its_first_frame_to_its_last(
    asked: dict[str, int], frames: int, seconds: float
) -> None:
    clip, _ = resolved("svd-xt", **asked)
    assert (clip.frames_played, clip.frames_in_all, clip.plays_fps) == (frames, frames, asked["smooth_fps"])
    assert clip.seconds_in_all == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({"smooth_fps": 7}, "more than fps and at most 30 if fps is 7; got 7"),
        ({"smooth_fps": 12, "fps": 24}, "more than fps and at most 30 if fps is 24; got 12"),
        ({"smooth_fps": 30, "fps": 30}, "left out if fps is 30; got 30"),
    ],
)
def test_smooth_motion_needs_more_frames_a_second_than_are_rendered(asked: dict[str, int], allowed: str) -> None:
    with pytest.raises(InvalidParameter, match=f"smooth_fps must be {allowed}") as no:
        resolved("svd-xt", **asked)
    assert no.value.param == "smooth_fps"


def test_the_preview_engine_renders_any_rate_and_smooths_none() -> None:
    clip, warnings = resolved("preview", smooth_fps=30)
    assert (clip.smooth_fps, clip.frames_played) == (None, clip.num_frames)
    assert warnings == ["smooth_fps is not used by the engine preview"]


def test_guidance_that_falls_from_first_to_last_frame_is_refused() -> None:
    with pytest.raises(InvalidParameter) as caught:
        resolved("svd-xt", min_guidance_scale=4, max_guidance_scale=2)
    assert caught.value.param == "max_guidance_scale"


@given(st.integers(-(10**6), 10**6))
def test_a_width_is_either_taken_as_it_is_or_refused(width: int) -> None:
    try:
        clip, _ = resolved("svd-xt", width=width)
    except InvalidParameter:
        assert width % 64 or not 64 <= width <= 1024
    else:
        assert clip.width == width


@pytest.mark.parametrize("wrong", [{"engine": "svd_xt"}, {"engine": "svd-xt", "video_width": 1000}, {"video_fps": 60}])
def test_an_operators_setting_that_no_request_could_use_is_refused_at_the_start(wrong: dict[str, object]) -> None:
    check_defaults(SETTINGS)
    with pytest.raises(InvalidParameter):
        check_defaults(SETTINGS.model_copy(update=wrong))


def test_more_frames_than_memory_should_hold_are_refused() -> None:
    assert resolved("preview", num_frames=600)[0].num_frames == 600
    with pytest.raises(InvalidParameter, match="num_frames must be from 2 to 96 at 1920×1920; got 600"):
        resolved("preview", num_frames=600, width=1920, height=1920)


def test_no_more_frames_are_decoded_at_once_than_torch_can_number() -> None:
    with pytest.raises(InvalidParameter) as caught:
        resolved("svd-xt", decode_chunk_size=15)
    assert caught.value.message == "decode_chunk_size must be from 1 to 14 at 1024×576; got 15"
    assert caught.value.param == "decode_chunk_size"
    resolved("svd-xt", decode_chunk_size=14)
    resolved("svd-xt", decode_chunk_size=25, width=576, height=512)
    resolved("svd", decode_chunk_size=25)  # of 14 frames


def test_every_engines_defaults_are_within_its_own_limits() -> None:
    for engine in known_engines(SETTINGS).values():
        assert set(engine.defaults) <= set(engine.limits)
        resolve(ClipRequest(), engine, SETTINGS)


@pytest.mark.parametrize(
    ("engine", "asked", "num_frames", "fps"),
    [
        ("svd-xt", {"seconds": 2}, 14, 7),
        ("svd-xt", {"seconds": 3.5}, 24, 7),  # 24.5 frames: the nearest even one
        ("svd-xt", {"seconds": 4}, 24, 6),  # rather than another part for three frames
        ("svd-xt", {"seconds": 4, "fps": 7}, 28, 7),
        ("svd-xt", {"seconds": 5}, 35, 7),
        ("svd-xt", {"seconds": 20}, 140, 7),
        ("svd-xt", {"seconds": 20, "fps": 30}, 600, 30),
        ("svd-xt", {"seconds": 1, "fps": 25}, 25, 25),
        ("svd-xt", {"seconds": 2, "smooth_fps": 30}, 15, 7),  # it ends with the last frame that is made
        ("svd-xt", {"seconds": 4, "smooth_fps": 24}, 25, 6),
        ("svd-xt", {"seconds": 20, "smooth_fps": 30}, 141, 7),
        ("preview", {"seconds": 12}, 84, 7),
        ("preview", {"seconds": 20, "width": 1920, "height": 1920}, 80, 4),
    ],
)
def test_a_clip_plays_for_so_many_seconds(engine: str, asked: dict[str, float], num_frames: int, fps: int) -> None:
    clip, warnings = resolved(engine, **asked)
    assert (clip.num_frames, clip.fps) == (num_frames, fps)
    assert clip.seconds_in_all == pytest.approx(asked["seconds"], abs=0.51 / fps)
    assert ["fps is" in said for said in warnings] == ([] if fps in (7, 25, 30) else [True])


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({"seconds": 20.1}, "from 0.29 to 20"),
        ({"seconds": 1e308}, "from 0.29 to 20"),
        ({"seconds": 20.2, "fps": 1}, "from 2 to 20"),
        ({"seconds": 0.1}, "from 0.29 to 20"),
        ({"seconds": 2, "num_frames": 14}, "not both"),
    ],
)
def test_seconds_that_cannot_be_are_refused(asked: dict[str, float], allowed: str) -> None:
    with pytest.raises(InvalidParameter, match=allowed) as refused:
        resolved("svd-xt", **asked)
    assert refused.value.param == "seconds"


def test_of_a_clip_that_continues_the_first_frame_was_there_before() -> None:
    request = ClipRequest(seconds=4, fps=6)
    clip, _ = resolve(request, find_engine("svd-xt", SETTINGS), SETTINGS, continues=24)
    assert (clip.num_frames, clip.frames_in_all, clip.seconds_in_all) == (25, 48, 8)


@pytest.mark.parametrize(("seconds", "num_frames"), [(3, None), (20, None), (20.1, 141), (30, 141)])
def test_a_video_goes_on_for_as_long_as_its_engine_can(seconds: float, num_frames: int | None) -> None:
    engine = find_engine("svd-xt", SETTINGS)
    asked = ClipRequest(seconds=seconds, fps=7, width=1024, height=576)
    request, warnings = fit_length(asked, engine)
    if num_frames is None:
        assert (request, warnings) == (asked, [])
    else:
        assert (request.seconds, request.num_frames) == (None, num_frames)
        assert warnings == [
            f"it goes on for 20 s instead of {seconds}: the engine svd-xt makes at most 141 frames at a time"
        ]
    clip, _ = resolve(request, engine, SETTINGS, continues=25)
    assert clip.num_frames <= 141
