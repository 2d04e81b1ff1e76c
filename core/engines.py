"""The engines Kinora knows, as data. docs/engines.md says how to add one."""

from dataclasses import dataclass
from typing import Any

from core.config import Settings
from core.errors import InvalidParameter


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, in steps of `step` if it is given."""

    low: float
    high: float
    step: int | None = None

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and (self.step is None or value % self.step == 0)

    def __str__(self) -> str:
        multiple = f", a multiple of {self.step}" if self.step else ""
        return f"from {self.low:g} to {self.high:g}{multiple}"


@dataclass(frozen=True)
class Choice:
    values: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return "one of " + ", ".join(self.values)


Limit = Range | Choice

SEED = Range(0, 2**32 - 1)
SMOOTH_FPS = Range(2, 30)
QUALITY = Range(1, 51)  # 0 would be lossless, which is not High profile and plays nowhere
FIT = Choice(("cover", "contain", "stretch"))
PROFILE = Choice(("exact", "fast"))
MOTIONS = ("auto", "zoom_in", "zoom_out", "pan_left", "pan_right", "pan_up", "pan_down", "orbit")


@dataclass(frozen=True)
class Approximation:
    """The work that `profile=fast` leaves out. docs/performance.md has what each costs in quality."""

    full_every: int
    """Steps from one full one to the next; between them only `fresh_layers` of the UNet are worked out anew."""
    fresh_layers: int
    """1 to 3, of the UNet's last ones."""
    guided_part: float
    """Of the steps, from the first on; in the others the last difference that guidance made is made again."""


@dataclass(frozen=True)
class UnetFile:
    """A UNet's weights as one file of safetensors, in a repository `model` of the hub."""

    model: str
    name: str
    revision: str


@dataclass(frozen=True)
class Engine:
    """One engine: `limits` names the parameters it uses and what each may be, `defaults` their values.

    `class_path` is "module:Class" of a `worker.engines.base.Hosted`, for the kind "clip" of a `Renderer`; only a worker
    imports it.
    """

    name: str
    summary: str
    class_path: str
    queue: str
    licence: str
    limits: dict[str, Limit]
    defaults: dict[str, Any]
    model: str | None = None
    revision: str | None = None
    unet: UnetFile | None = None
    """What stands in place of the model's own UNet."""
    kind: str = "clip"
    """What it makes: "clip" from a picture, "motion" (frames in between) of a clip."""
    gpu_memory_gb: float | None = None
    """Of the smallest card that it runs on."""
    needs_cuda: bool = False
    """Too slow to be chosen by `ENGINE=auto` without a GPU."""
    approximation: Approximation | None = None
    """What its profile `fast` is, if it has one."""
    frames_at_once: int | None = None
    """Where it can go on from its own last frames: how many it makes in one go. More are made in several."""
    fits_pictures: bool = False
    """Whether it begins with the picture at the clip's size, which then may be done before its turn."""
    max_decoded_pixels: int | None = None
    """The most pixels of the frames that are decoded at once."""
    max_video_pixels: int | None = None
    """The most pixels of all frames together, if frames are held in memory at 3 bytes each."""


COMMON_LIMITS: dict[str, Limit] = {"seed": SEED, "fit": FIT, "quality": QUALITY}
COMMON_DEFAULTS: dict[str, Any] = {"fit": "cover", "quality": 18}

# The UNet halves its latents three times (8 × 8 = 64 pixels), as the VAE's factor of 8 stands before it.
SVD_LIMITS: dict[str, Limit] = COMMON_LIMITS | {
    "width": Range(64, 1024, 64),
    "height": Range(64, 1024, 64),
    "num_frames": Range(2, 601),  # 20 s at 30 a second, and the one that an extended video shares
    "fps": Range(1, 30),
    "smooth_fps": SMOOTH_FPS,
    "num_inference_steps": Range(1, 50),
    "motion_bucket_id": Range(1, 255),
    "noise_aug_strength": Range(0, 1),
    "min_guidance_scale": Range(1, 10),
    "max_guidance_scale": Range(1, 10),
    "decode_chunk_size": Range(1, 25),
    "profile": PROFILE,
}
SVD_DEFAULTS: dict[str, Any] = COMMON_DEFAULTS | {
    "width": 1024,
    "height": 576,
    "num_frames": 25,
    "fps": 7,
    "num_inference_steps": 25,
    "motion_bucket_id": 127,
    "noise_aug_strength": 0.02,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 3.0,
    "profile": "exact",
}

# 256 channels of 15 frames of 1024×576 are more than 2³¹ numbers, which torch's nearest upsampling counts in 32 bits in
# some versions: zeros or an error come out (pytorch#141831, #81665). No GPU has shown yet that this version is right.
SVD_DECODED = 14 * 1024 * 576

SVD_FAST = Approximation(full_every=3, fresh_layers=1, guided_part=1.0)

NOT_TURBOS = ("min_guidance_scale", "max_guidance_scale", "profile")
TURBO_LIMITS = {name: limit for name, limit in SVD_LIMITS.items() if name not in NOT_TURBOS}
TURBO_DEFAULTS = {name: value for name, value in SVD_DEFAULTS.items() if name not in NOT_TURBOS}


def known_engines(settings: Settings) -> dict[str, Engine]:
    """All entries by name; `MODEL_ID` and `MODEL_REVISION` apply to `svd-xt`, and to what `turbo` shares with it."""
    entries = (
        Engine(
            name="svd-xt",
            summary="Stable Video Diffusion XT, 25 frames at 1024×576",
            class_path="worker.engines.svd.svd:Svd",
            queue="gpu",
            licence="Stability AI Community License",
            model=settings.model_id,
            revision=settings.model_revision,
            gpu_memory_gb=8,
            needs_cuda=True,
            limits=SVD_LIMITS,
            defaults=SVD_DEFAULTS,
            approximation=SVD_FAST,
            frames_at_once=25,
            fits_pictures=True,
            max_decoded_pixels=SVD_DECODED,
        ),
        Engine(
            name="svd",
            summary="Stable Video Diffusion, trained for 14 frames at 1024×576",
            class_path="worker.engines.svd.svd:Svd",
            queue="gpu",
            licence="Stability AI Community License",
            model="stabilityai/stable-video-diffusion-img2vid",
            revision="9cf024d5bfa8f56622af86c884f26a52f6676f2e",
            gpu_memory_gb=8,
            needs_cuda=True,
            limits=SVD_LIMITS,
            defaults=SVD_DEFAULTS | {"num_frames": 14},
            approximation=SVD_FAST,
            frames_at_once=25,
            fits_pictures=True,
            max_decoded_pixels=SVD_DECODED,
        ),
        Engine(
            name="turbo",
            summary="Stable Video Diffusion XT distilled for 4 to 8 steps by AnimateLCM: sooner, and other clips",
            class_path="worker.engines.svd.turbo:Turbo",
            queue="gpu",
            licence="Stability AI Community License; for AnimateLCM's UNet see its page as well",
            model=settings.model_id,
            revision=settings.model_revision,
            unet=UnetFile(
                model="wangfuyun/AnimateLCM-SVD-xt",
                name="AnimateLCM-SVD-xt.safetensors",
                revision="ceaa884185c3ed436e1bb1193e119ee4df4d29af",
            ),
            gpu_memory_gb=8,
            needs_cuda=True,
            frames_at_once=25,
            fits_pictures=True,
            max_decoded_pixels=SVD_DECODED,
            limits=TURBO_LIMITS | {"num_inference_steps": Range(4, 8)},
            defaults=TURBO_DEFAULTS | {"num_inference_steps": 4},
        ),
        Engine(
            name="preview",
            summary="A moving camera over the still, on the CPU, in about a second",
            class_path="worker.engines.camera:Camera",
            queue="cpu",
            licence="Apache-2.0",
            limits=COMMON_LIMITS
            | {
                "width": Range(64, 1920, 2),
                "height": Range(64, 1920, 2),
                "num_frames": Range(2, 600),
                "fps": Range(1, 60),
                "motion": Choice(MOTIONS),
            },
            max_video_pixels=600 * 1024 * 576,  # about 1 GB
            defaults=COMMON_DEFAULTS | {"width": 1024, "height": 576, "num_frames": 25, "fps": 7, "motion": "auto"},
        ),
    )
    return {entry.name: entry for entry in entries}


def motion_engine(settings: Settings) -> Engine | None:
    """Return the entry of what draws frames in between, if its weights are configured."""
    if settings.rife_weights is None:
        return None
    return Engine(
        name="rife",
        kind="motion",
        summary="Frames in between by RIFE 4.6",
        class_path="worker.engines.rife.rife:Rife",
        queue="gpu",
        licence="MIT",
        model=str(settings.rife_weights),
        limits={},
        defaults={},
    )


def find_engine(name: str, settings: Settings) -> Engine:
    """Raises InvalidParameter that lists the choices."""
    engines = known_engines(settings)
    if name not in engines:
        choices = ", ".join(["auto", *engines])
        raise InvalidParameter(f"engine must be one of {choices}; {name!r} is not known", param="engine")
    return engines[name]
