"""What a request becomes once every default is filled in, and which values an engine takes."""

import math
import secrets
from typing import Any, cast

from core.config.settings import Settings
from core.engines.base import SEED, SMOOTH_FPS, Engine, Range
from core.engines.known import find_engine, known_engines
from core.errors import InvalidParameter
from core.requests.clip import Clip, ClipRequest
from core.shown import shown

# The engine's entry says what the native size and length is; an operator may set others for all engines.
OPERATOR_DEFAULTS = {"width": "video_width", "height": "video_height", "num_frames": "video_frames", "fps": "video_fps"}

LONGEST_SECONDS = 120  # of a video that is extended
LONGEST_CLIP = 20  # seconds, if an engine makes it in several parts

# Of the usual frames a second: a clip plays as slowly as this before it takes another part.
SLOWEST = 0.8


def resolve(
    request: ClipRequest, engine: Engine, settings: Settings, continues: int | None = None
) -> tuple[Clip, list[str]]:
    """The clip that `request` means on `engine`, and a warning for each field that this engine does not use.

    `continues`: after how many frames of a video that is there. Raises InvalidParameter for the first value outside
    the engine's limits; nothing is clamped.
    """
    given = request.model_dump(exclude_none=True, exclude={"engine", "prompt", "seconds"})
    warnings = [f"{name} is not used by the engine {engine.name}" for name in given if name not in engine.limits]
    if request.prompt:
        warnings.append(f"prompt is not used by the engine {engine.name}")
    values: dict[str, Any] = engine.defaults | operator_defaults(engine, settings)
    values |= {name: value for name, value in given.items() if name in engine.limits}
    if request.seconds is not None:
        for name in ("width", "height", "fps"):
            check_limit(name, values, engine)
        # A smooth clip plays from its first frame to its last, and no longer.
        shared = continues is not None or values.get("smooth_fps") is not None
        warnings += set_length(values, request, engine, overlap=int(shared))
    values.setdefault("seed", secrets.randbelow(int(SEED.high) + 1))
    check_limits(values, engine)
    clip = Clip(engine=engine.name, prompt=request.prompt, continues=continues, **values)
    if continues is not None and clip.seconds_in_all > LONGEST_SECONDS:
        raise InvalidParameter(
            f"the video may have at most {LONGEST_SECONDS} s; it would have {clip.seconds_in_all:g}", param="seconds"
        )
    return clip, warnings


def set_length(values: dict[str, Any], request: ClipRequest, engine: Engine, overlap: int) -> list[str]:
    """Sets `num_frames` so that the clip plays for `request.seconds`, to the nearest frame, beside `overlap` frames
    that take no time of it. Where these are too many, or a few too many for one part, and no `fps` was asked for, it
    plays slower, with a warning. Raises InvalidParameter."""
    if request.num_frames is not None:
        raise InvalidParameter("give seconds or num_frames, not both", param="seconds")
    usual, frames = values["fps"], frames_allowed(values, engine)
    lowest = request.fps or cast(Range, engine.limits["fps"]).low
    at_once = (engine.frames_at_once or frames.high) - overlap
    longest = LONGEST_CLIP if engine.frames_at_once else at_once / lowest
    # More are too many even at one frame a second; and their frames might be infinite.
    seconds = min(request.seconds or 0.0, frames.high + 1)
    if round(seconds * usual) > at_once:  # of the fewest seconds no number tells how many fit
        fitting = math.floor(at_once / seconds)
        if fitting >= (SLOWEST * usual if engine.frames_at_once else lowest):
            values["fps"] = request.fps or fitting
    values["num_frames"] = round(seconds * values["fps"]) + overlap
    if values["num_frames"] not in frames or seconds > longest:
        allowed = Range(round((frames.low - overlap) / usual, 2), round(longest, 2))
        raise InvalidParameter(f"seconds must be {allowed}; got {shown(request.seconds or 0)}", param="seconds")
    if values["fps"] == usual:
        return []
    most = f"{at_once + overlap:g} frames at once"
    return [f"fps is {values['fps']} instead of {usual}: the engine {engine.name} makes {most}"]


def fit_size(request: ClipRequest, engine: Engine) -> tuple[ClipRequest, list[str]]:
    """`request` as it is if the engine can make that size; else with its largest size of that shape, and a
    warning."""
    if request.width is None or request.height is None:
        return request, []
    widths, heights = cast(Range, engine.limits["width"]), cast(Range, engine.limits["height"])
    if request.width in widths and request.height in heights:
        return request, []
    scale = min(widths.high / request.width, heights.high / request.height)
    width, height = nearest(request.width * scale, widths), nearest(request.height * scale, heights)
    warning = f"size is {width}x{height} instead of {request.width}x{request.height}: the engine {engine.name} makes "
    warning += f"at most {widths.high:g}x{heights.high:g}"
    return request.model_copy(update={"width": width, "height": height}), [warning]


def fit_length(request: ClipRequest, engine: Engine) -> tuple[ClipRequest, list[str]]:
    """`request` for a video that goes on, as it is if the engine can make so many seconds; else with as many frames
    as it can, and a warning."""
    if request.seconds is None or request.fps is None:
        return request, []
    size_and_rate = {"width": request.width, "height": request.height, "fps": request.fps}
    most = frames_allowed(size_and_rate, engine).high - 1
    if request.seconds * request.fps < most + 0.5:
        return request, []
    warning = f"it goes on for {most / request.fps:.3g} s instead of {shown(request.seconds)}: "
    warning += f"the engine {engine.name} makes at most {most + 1:g} frames at a time"
    return request.model_copy(update={"seconds": None, "num_frames": int(most + 1)}), [warning]


def nearest(pixels: float, allowed: Range) -> int:
    step = allowed.step or 1
    return round(pixels / step) * step


def check_defaults(settings: Settings) -> None:
    """Raises InvalidParameter, with the setting's name, if a request that names nothing would be refused for what the
    operator set."""
    try:
        engines = (
            known_engines(settings).values() if settings.engine == "auto" else [find_engine(settings.engine, settings)]
        )
        for engine in engines:
            resolve(ClipRequest(), engine, settings)
    except InvalidParameter as error:
        setting = OPERATOR_DEFAULTS.get(error.param or "", "engine").upper()
        raise InvalidParameter(f"{setting}: {error.message}") from error


def operator_defaults(engine: Engine, settings: Settings) -> dict[str, Any]:
    values = {name: getattr(settings, setting) for name, setting in OPERATOR_DEFAULTS.items()}
    return {name: value for name, value in values.items() if value is not None}


def check_limits(values: dict[str, Any], engine: Engine) -> None:
    for name in values:
        check_limit(name, values, engine)
    frames = frames_allowed(values, engine)
    if values["num_frames"] not in frames:
        at = f"{values['fps']} fps" if engine.frames_at_once else f"{values['width']}×{values['height']}"
        message = f"num_frames must be {frames} at {at}; got {values['num_frames']}"
        raise InvalidParameter(message, param="num_frames")
    if engine.max_decoded_pixels:
        width, height, chunk = values["width"], values["height"], values.get("decode_chunk_size") or 1
        most = engine.max_decoded_pixels // (width * height)
        if min(chunk, values["num_frames"]) > most:
            message = f"decode_chunk_size must be {Range(1, most)} at {width}×{height}; got {chunk}"
            raise InvalidParameter(message, param="decode_chunk_size")
    fps, smooth_fps = values["fps"], values.get("smooth_fps")
    if smooth_fps is not None and smooth_fps <= fps:
        rates = f"more than fps and at most {SMOOTH_FPS.high:g}" if fps < SMOOTH_FPS.high else "left out"
        message = f"smooth_fps must be {rates} if fps is {fps}; got {smooth_fps}"
        raise InvalidParameter(message, param="smooth_fps")
    low, high = values.get("min_guidance_scale"), values.get("max_guidance_scale")
    if low is not None and high is not None and low > high:
        allowed = Range(low, 10)
        raise InvalidParameter(f"max_guidance_scale must be {allowed}; got {shown(high)}", param="max_guidance_scale")


def check_limit(name: str, values: dict[str, Any], engine: Engine) -> None:
    if values[name] not in engine.limits[name]:
        raise InvalidParameter(f"{name} must be {engine.limits[name]}; got {shown(values[name])}", param=name)


def frames_allowed(values: dict[str, Any], engine: Engine) -> Range:
    """Of the size and rate in `values`, which are allowed."""
    frames = cast(Range, engine.limits["num_frames"])
    if engine.frames_at_once:
        return Range(frames.low, min(frames.high, max(engine.frames_at_once, LONGEST_CLIP * values["fps"] + 1)))
    if engine.max_video_pixels:
        return Range(frames.low, min(frames.high, engine.max_video_pixels // (values["width"] * values["height"])))
    return frames
