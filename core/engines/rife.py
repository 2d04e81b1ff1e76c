"""The entry of what draws frames in between, which no request names."""

from core.engines.base import Engine

RIFE = Engine(
    name="rife",
    kind="motion",
    summary="Frames in between by RIFE 4.6",
    class_path="worker.engines.rife.rife:Rife",
    queue="gpu",
    licence="MIT",
    limits={},
    defaults={},
)
"""`RIFE_WEIGHTS` says where its weights are."""
