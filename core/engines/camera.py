"""The entry of the camera that moves over the still; on the wire it is `preview`."""

from core.engines.base import COMMON_DEFAULTS, COMMON_LIMITS, Choice, Engine, Range

MOTIONS = ("auto", "zoom_in", "zoom_out", "pan_left", "pan_right", "pan_up", "pan_down", "orbit")

CAMERA = Engine(
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
)
