"""The parts of `scripts/bench gpu`, of which each breaks once it has said its first row: in turn by an exception, by an
exit as of a lost GPU, by a signal, and by hanging."""

import os
import signal
import sys
import time
from typing import Any

from bench import gpu_parts

WAYS = ("raise", "exit", "kill", "hang")

say = gpu_parts.say


def breaks(*given: Any, **named: Any) -> None:
    say(*given, **named)
    match WAYS[list(gpu_parts.PARTS).index(sys.argv[1]) % len(WAYS)]:
        case "raise":
            raise KeyError("a fault that nobody expects")
        case "exit":
            os._exit(71)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(3600)


gpu_parts.say = breaks
for index, (name, (_, measure)) in enumerate(gpu_parts.PARTS.items()):
    seconds = 10.0 if WAYS[index % len(WAYS)] == "hang" else 60.0
    gpu_parts.PARTS[name] = seconds, measure
gpu_parts.main()
