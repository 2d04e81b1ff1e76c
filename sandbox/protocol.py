"""What a child of the sandbox is sent, and how it answers."""

import struct
from enum import IntEnum

CPU_SECONDS = 20  # 24 megapixels of a photo as PNG take 3 on a machine of today
WALL_SECONDS = 40

JOB = struct.Struct("!BIQ")  # the kind, its limit, bytes of the upload, which follows
PID = struct.Struct("!i")  # of the child that took the job
REPLY = struct.Struct("!?Q")  # whether it is what was asked for or an error as JSON, bytes of what follows


class Kind(IntEnum):
    """What an upload is to be read as, and what its limit counts."""

    PICTURE = 1
    """Megapixels; the answer is a JPEG or PNG."""
