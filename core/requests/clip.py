"""A clip as it is asked for, and with every parameter filled in (resolve.py fills them in)."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError, PydanticKnownError

MAX_PROMPT, MAX_PROMPT_BYTES = 4000, 12_000  # characters; bytes for so many of nearly every script
# Of an exact clip's work, in 25 steps at 1024×576: 9 full ones, and 16 that take 8.5 % of one (bench/flops.py).
FAST_WORK = 0.42


def no_boolean(kind: Literal["int_type", "float_type"]) -> BeforeValidator:
    """Return what refuses `true`, which Python takes for 1, as pydantic refuses what is not of this kind."""

    def check(value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticKnownError(kind)
        return value

    return BeforeValidator(check)


Whole = Annotated[int, no_boolean("int_type")]
Number = Annotated[float, no_boolean("float_type")]


def bounded_bytes(text: str | None) -> str | None:
    """Refuse, as pydantic does, a text of more bytes than the ledger is to keep of it."""
    if text is not None and len(text.encode()) > MAX_PROMPT_BYTES:
        bounds = {"max_bytes": MAX_PROMPT_BYTES, "bytes": len(text.encode())}
        raise PydanticCustomError("too_many_bytes", "at most {max_bytes} bytes", bounds)
    return text


Prompt = Annotated[str | None, Field(max_length=MAX_PROMPT), AfterValidator(bounded_bytes)]


class ClipRequest(BaseModel):
    """The optional fields of a request. What is not given is filled from the engine's entry."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    engine: Annotated[str | None, Field(description="`svd-xt`, `svd`, `turbo`, `preview`, or `auto`")] = None
    prompt: Annotated[Prompt, Field(description="Kept on the task; no engine here reads it yet")] = None
    width: Annotated[Whole | None, Field(description="Pixels")] = None
    height: Annotated[Whole | None, Field(description="Pixels")] = None
    num_frames: Annotated[Whole | None, Field(description="Frames in the clip")] = None
    seconds: Annotated[Number | None, Field(gt=0, description="How long it plays, instead of `num_frames`")] = None
    fps: Annotated[Whole | None, Field(description="Frames a second")] = None
    smooth_fps: Annotated[
        Whole | None, Field(description="Frames a second as it plays, if those in between are worked out afterwards")
    ] = None
    num_inference_steps: Annotated[Whole | None, Field(description="Denoising steps")] = None
    motion_bucket_id: Annotated[Whole | None, Field(description="How much moves, 1–255")] = None
    noise_aug_strength: Annotated[
        Number | None, Field(description="Noise added to the picture; more means freer motion")
    ] = None
    min_guidance_scale: Annotated[Number | None, Field(description="Guidance at the first frame")] = None
    max_guidance_scale: Annotated[Number | None, Field(description="Guidance at the last frame")] = None
    seed: Annotated[Whole | None, Field(description="Same seed, same clip; drawn and reported when not given")] = None
    decode_chunk_size: Annotated[Whole | None, Field(description="Frames decoded at once; fewer need less memory")] = (
        None
    )
    profile: Annotated[
        str | None, Field(description="`exact`, or `fast`: an approximation of the same clip, sooner")
    ] = None
    fit: Annotated[str | None, Field(description="`cover` crops, `contain` adds bars, `stretch` distorts")] = None
    motion: Annotated[str | None, Field(description="The preview engine's camera")] = None
    quality: Annotated[Whole | None, Field(description="x264's crf: 1 is the best, 51 the worst")] = None


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
    goes_on: bool | None = None
    """Whether it begins with a frame that a viewer has just seen; open until a worker has it."""

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
