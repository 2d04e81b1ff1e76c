"""python -m sandbox: one child for each upload, which decodes it under limits that the kernel keeps.

sandbox/decoder.py starts this process and asks it for children; it never sees a byte of an upload itself. It is a
process of its own because whoever asks has threads and secrets, which a fork would take along. Whatever hostile bytes
made of a child, it can open nothing, write nowhere but to its own socket, and is gone when its time is over.
"""

import gc
import json
import os
import resource
import select
import signal
import socket
from pathlib import Path
from typing import NoReturn

from core.errors import InvalidRequest
from sandbox import pictures
from sandbox.formats import is_heic
from sandbox.memory import MEMORY_BYTES
from sandbox.no_processes import forbid_processes
from sandbox.protocol import CPU_SECONDS, JOB, PID, REPLY, WALL_SECONDS, Kind

REST_SECONDS = 0.05  # before a child is made for what may come: who waits for the upload before has the cores then

READERS = {Kind.PICTURE: pictures.read}


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
    pictures.load_all_code()
    gc.freeze()  # or the first collection in each child would copy all pages that it shares
    server = socket.socket(fileno=0)
    while True:
        _, descriptors, *_ = socket.recv_fds(server, 1, 1)
        if not descriptors:  # whoever asked is gone, however it ended
            os.killpg(0, signal.SIGKILL)
        with socket.socket(fileno=descriptors[0]) as job:
            select.select([job, server], [], [], REST_SECONDS)
            if os.fork() == 0:
                server.close()
                work_in_child(job)


def work_in_child(job: socket.socket) -> NoReturn:
    """Wait for the upload, which may be long in coming, and decode it."""
    try:
        if not select.select([job], [], [], 0)[0]:
            # Once more: what it touches is copied for this child now, and not while an upload waits.
            pictures.load_all_code()
        limit_this_process()
        os.closerange(1, 3)  # or it could write into the log
        kind, limit, length = JOB.unpack(job.recv(JOB.size, socket.MSG_WAITALL))
        job.sendall(PID.pack(os.getpid()))  # before the upload is read, so that it can be believed
        signal.alarm(WALL_SECONDS)
        with job.makefile("rb") as sent:
            data = sent.read(length)
        start_no_process(needs_threads=kind == Kind.PICTURE and is_heic(data))
        was_read, body = answer(kind, data, limit)
        job.sendall(REPLY.pack(was_read, len(body)))
        job.sendall(body)
    finally:
        os._exit(0)  # without a trace: whoever asked knows by the missing answer


def limit_this_process() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: size + MEMORY_BYTES,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def start_no_process(needs_threads: bool) -> None:
    """From now on this process can start no other, nor a thread unless it needs some: those end with it."""
    if needs_threads:
        forbid_processes()
    else:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # which does not bind root


def answer(kind: int, data: bytes, limit: int) -> tuple[bool, bytes | memoryview]:
    """Return whether `data` could be read as this kind, and what came of it, or the error as JSON."""
    try:
        return True, READERS[Kind(kind)](data, limit)
    except InvalidRequest as error:
        return False, json.dumps({"code": error.code, "message": error.message, "param": error.param}).encode()


if __name__ == "__main__":
    main()
