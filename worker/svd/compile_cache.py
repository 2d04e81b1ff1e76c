"""Where torch keeps what it has compiled."""

import os
from pathlib import Path


def keep_compiled() -> None:
    """In the model cache, so that it survives a restart; an operator's own folders stay. Called before torch is
    imported, whose parts settle on a folder for themselves."""
    from huggingface_hub.constants import HF_HOME

    folder = Path(HF_HOME) / "kinora-compiled"
    for name, part in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        os.environ.setdefault(name, str(folder / part))
