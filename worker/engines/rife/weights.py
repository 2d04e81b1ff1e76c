"""IFNet's weights from the file that RIFE_WEIGHTS names."""

import hashlib
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors.torch import load as load_safetensors

from core.errors import EngineFailed, EngineUnavailable, OutOfMemory
from worker.engines.gpu_faults import told_apart
from worker.engines.rife.ifnet import IFNet

# What training alone needs; the files of some versions have it still.
TRAINING = ("block_tea.", "teacher.", "caltime.")


def read_ifnet(path: Path, device: str) -> tuple[IFNet, str]:
    """The net with the weights of the file, and the file's SHA-256. Raises EngineUnavailable with one line on what to
    do, if these are not exactly the weights of RIFE 4.6; GpuLost."""
    with torch.device("meta"):  # without memory, nor time for random weights
        net = IFNet()
    try:
        data = path.read_bytes()
        net.load_state_dict(named_as_here(tensors_in(data, path)), assign=True)
    except Exception as exc:  # whatever a library raises: the file may be anything
        advice = "set RIFE_WEIGHTS to the flownet.pkl of RIFE 4.6, or to a safetensors of the same, or leave it empty"
        reason = f"{type(exc).__name__}: {exc}"
        raise EngineUnavailable(f"{advice}: {path} cannot be used: {shorten(reason, 250)}") from exc
    try:
        with told_apart(lambda: "the loading of RIFE", lambda: "free some of the GPU's memory: RIFE does not fit"):
            return net.float().eval().to(device), hashlib.sha256(data).hexdigest()
    except (OutOfMemory, EngineFailed) as error:
        raise EngineUnavailable(error.message) from error


def tensors_in(data: bytes, path: Path) -> dict[str, Any]:
    """Nothing else is made of the bytes: of a pickle torch reads no more than tensors in a dict."""
    if path.suffix == ".safetensors":
        return load_safetensors(data)
    return dict(torch.load(BytesIO(data), map_location="cpu", weights_only=True))


def named_as_here(weights: dict[str, Any]) -> dict[str, Any]:
    """Without the `module.` that training on several GPUs puts before each name."""
    named = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in named.items() if not name.startswith(TRAINING)}
