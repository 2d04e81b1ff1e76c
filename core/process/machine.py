"""Which machine this is."""

import socket
from pathlib import Path


def machine_id() -> str:
    """The same for every process and container on one running machine (Linux's boot id), else the host's name."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    return boot_id.read_text().strip() if boot_id.exists() else socket.gethostname()
