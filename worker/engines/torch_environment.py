"""What torch reads from the environment as it is imported, set as this service wants it."""

import os
import platform
from pathlib import Path


def set_torch_environment() -> None:
    """Set what the operator has not set. Called before torch is imported, whose parts read it at once."""
    from huggingface_hub.constants import HF_HOME

    folder = Path(HF_HOME) / "kinora-compiled"  # in the model cache, so that it survives a restart
    wanted = {
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        # torch 2.13 walks over pixels in steps of hundreds of elements once it has fused GroupNorm's two halves
        # (pytorch#189488): tests/worker/test_generated_code.py reads the kernels that it writes, and fails once this is
        # needless.
        "TORCHINDUCTOR_LOOP_REINDEXING_AFTER_FUSION": "0",
    }
    # Under Windows the driver fails at the first of them on some machines (pytorch#192330).
    is_windows = "microsoft" in platform.release().lower()
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ and not is_windows:  # the older name
        # Blocks of one phase are of other sizes than those of the next: fixed segments would have holes of GBs.
        wanted["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
