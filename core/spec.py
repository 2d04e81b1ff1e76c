"""What can be asked for, and what a request becomes once every default is filled in."""

import math
import secrets
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from core.config import Settings
from core.engines import SEED, SMOOTH_FPS, Engine, Range, find_engine, known_engines
from core.errors import InvalidParameter

# The engine's entry says what the native size and length is; an operator may set others for all engines.
OPERATOR_DEFAULTS = {"width": "video_width", "height": "video_height", "num_frames": "video_frames", "fps": "video_fps"}

LONGEST_SECONDS = 120  # of a video that is extended
LONGEST_CLIP = 20  # seconds, if an engine makes it in several parts

# Of the usual frames a second: a clip plays as slowly as this before it takes another part.
SLOWEST = 0.8

# Of an exact clip's work, in 25 steps at 1024×576: 9 full ones, and 16 that take 8.5 % of one (bench/flops.py).
FAST_WORK = 0.42


class ClipRequest(BaseModel):
    """The optional fields of a request. What is not given is filled from the engine's entry."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    engine: Annotated[str | None, Field(description="`svd-xt`, `svd`, `turbo`, `preview`, or `auto`")] = None
    prompt: Annotated[
        str | None, Field(max_length=4000, description="Kept on the task; no engine here reads it yet")
    ] = None
    width: Annotated[int | None, Field(description="Pixels")] = None
    height: Annotated[int | None, Field(description="Pixels")] = None
    num_frames: Annotated[int | None, Field(description="Frames in the clip")] = None
    seconds: Annotated[float | None, Field(gt=0, description="How long it plays, instead of `num_frames`")] = None
    fps: Annotated[int | None, Field(description="Frames a second")] = None
    smooth_fps: Annotated[
        int | None, Field(description="Frames a second as it plays, if those in between are worked out afterwards")
    ] = None
    num_inference_steps: Annotated[int | None, Field(description="Denoising steps")] = None
    motion_bucket_id: Annotated[int | None, Field(description="How much moves, 1–255")] = None
    noise_aug_strength: Annotated[
        float | None, Field(description="Noise added to the picture; more means freer motion")
    ] = None
    min_guidance_scale: Annotated[float | None, Field(description="Guidance at the first frame")] = None
    max_guidance_scale: Annotated[float | None, Field(description="Guidance at the last frame")] = None
    seed: Annotated[int | None, Field(description="Same seed, same clip; drawn and reported when not given")] = None
    decode_chunk_size: Annotated[int | None, Field(description="Frames decoded at once; fewer need less memory")] = None
    profile: Annotated[
        str | None, Field(description="`exact`, or `fast`: an approximation of the same clip, sooner")
    ] = None
    fit: Annotated[str | None, Field(description="`cover` crops, `contain` adds bars, `stretch` distorts")] = None
    motion: Annotated[str | None, Field(description="The preview engine's camera")] = None
    quality: Annotated[int | None, Field(description="x264's crf: 1 is the best, 51 the worst")] = None


class ClipSettings(BaseModel):
    """What an engine renders; None for what it has no use for."""

    model_config = ConfigDict(frozen=True)

    width: int
    height: int
    num_frames: int
    fps: int
    seed: int
    fit: str
    prompt: str | None = None
    num_inference_steps: int | None = None
    motion_bucket_id: int | None = None
    noise_aug_strength: float | None = None
    min_guidance_scale: float | None = None
    max_guidance_scale: float | None = None
    decode_chunk_size: int | None = None
    profile: str | None = None
    motion: str | None = None
    memory_plan: str | None = None
    """By which plan of worker/engines/svd/memory.py; open until a worker has it."""

    @property
    def size(self) -> str:
        """Clips of one size take about as long to make."""
        steps = f" in {self.num_inference_steps} steps" if self.num_inference_steps else ""
        fast = " fast" if self.profile == "fast" else ""
        return f"{self.width}x{self.height}x{self.num_frames}{steps}{fast}"

    @property
    def work(self) -> float:
        """Pixels to compute: what the time of clips of different sizes compares by."""
        share = FAST_WORK if self.profile == "fast" else 1
        return float(share * self.width * self.height * self.num_frames * (self.num_inference_steps or 1))


class Clip(ClipSettings):
    """A clip with every parameter filled in: what a task of one clip makes."""

    engine: str
    quality: int
    smooth_fps: int | None = None
    continues: int | None = None
    """How many frames come before it: those of the video whose last frame is its first."""

    @property
    def settings(self) -> ClipSettings:
        return ClipSettings(**self.model_dump(include=set(ClipSettings.model_fields)))

    @property
    def plays_fps(self) -> int:
        """Frames a second of the finished video."""
        return self.smooth_fps or self.fps

    @property
    def frames_played(self) -> int:
        """Of the clip itself in the finished video: smoothed, one at each multiple of 1 / smooth_fps seconds from its
        first rendered frame up to its last one."""
        return (self.num_frames - 1) * self.plays_fps // self.fps + 1

    @property
    def frames_in_all(self) -> int:
        """Of the video that this is, or ends: the frame where two clips meet is there once."""
        return self.frames_played if self.continues is None else self.continues + self.frames_played - 1

    @property
    def seconds_in_all(self) -> float:
        return self.frames_in_all / self.plays_fps

    @property
    def smoothed_size(self) -> str:
        """The same for smoothing it."""
        return f"{self.width}x{self.height}x{self.num_frames} to {self.frames_played}"

    @property
    def smoothed_work(self) -> float:
        """What smoothing takes, in the same unit: four times what the preview engine takes for as many frames."""
        return 4.0 * self.width * self.height * self.frames_played

    @property
    def joined_size(self) -> str:
        """The same for what it is joined to."""
        return f"{self.width}x{self.height}x{self.frames_in_all}"

    @property
    def joined_work(self) -> float:
        """What joining takes, in the same unit: a fifth of what the preview engine takes for as many frames (0.65 s
        for 50 of 1024×576, where making 25 took 1.7)."""
        return self.width * self.height * self.frames_in_all / 5


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
    fitting = math.floor(at_once / seconds)
    if round(seconds * usual) > at_once and fitting >= (SLOWEST * usual if engine.frames_at_once else lowest):
        values["fps"] = request.fps or fitting
    values["num_frames"] = round(seconds * values["fps"]) + overlap
    if values["num_frames"] not in frames or seconds > longest:
        allowed = Range(round((frames.low - overlap) / usual, 2), round(longest, 2))
        raise InvalidParameter(f"seconds must be {allowed}; got {request.seconds:g}", param="seconds")
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
    warning = f"it goes on for {most / request.fps:.3g} s instead of {request.seconds:g}: "
    warning += f"the engine {engine.name} makes at most {most + 1:g} frames at a time"
    return request.model_copy(update={"seconds": None, "num_frames": int(most + 1)}), [warning]


def nearest(pixels: float, allowed: Range) -> int:
    step = allowed.step or 1
    return round(pixels / step) * step


def check_defaults(settings: Settings) -> None:
    """Raises InvalidParameter if a request that names nothing would be refused for what the operator set."""
    engines = (
        [find_engine(settings.engine, settings)] if settings.engine != "auto" else known_engines(settings).values()
    )
    for engine in engines:
        resolve(ClipRequest(), engine, settings)


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
        raise InvalidParameter(f"max_guidance_scale must be {allowed}; got {high:g}", param="max_guidance_scale")


def check_limit(name: str, values: dict[str, Any], engine: Engine) -> None:
    if values[name] not in engine.limits[name]:
        raise InvalidParameter(f"{name} must be {engine.limits[name]}; got {values[name]}", param=name)


def frames_allowed(values: dict[str, Any], engine: Engine) -> Range:
    """Of the size and rate in `values`, which are allowed."""
    frames = cast(Range, engine.limits["num_frames"])
    if engine.frames_at_once:
        return Range(frames.low, min(frames.high, max(engine.frames_at_once, LONGEST_CLIP * values["fps"] + 1)))
    if engine.max_video_pixels:
        return Range(frames.low, min(frames.high, engine.max_video_pixels // (values["width"] * values["height"])))
    return frames
