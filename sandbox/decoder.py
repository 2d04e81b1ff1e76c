"""Uploads are decoded and encoded anew in a child with hard limits: what it gives back is a plain JPEG or PNG.

This is the asking side of sandbox/__main__.py. Of a child's answer nothing is believed but its shape, for hostile bytes
may have taken the child over."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from core import errors
from core.concurrency import COME_BACK_SECONDS, ConcurrencyLimit
from core.errors import ImageUnreadable, InvalidRequest, QueueFull
from sandbox.protocol import JOB, PID, REPLY, WALL_SECONDS, Kind
from sandbox.turns import Turns

AT_ONCE = 2
WAITING = 18

START_SECONDS = 20.0  # for the sandbox to load its code, on a machine that has much else to do
ANSWER_SECONDS = WALL_SECONDS + 5.0
PIECE_BYTES = 1 << 20  # of an upload, which is in a file for as long as it waits
MAX_REFUSAL_BYTES = 10_000
MAX_PICTURE_BYTES = 120_000_000  # 30 megapixels of noise as PNG; more does not fit the sandbox's memory

ROOT = Path(__file__).parent.parent
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
REFUSALS: dict[str, type[InvalidRequest]] = {
    kind.code: kind
    for kind in (errors.ImageUnsupported, errors.ImageUnreadable, errors.ImageTooLarge, errors.ImageTooSmall)
}


class Decoder:
    """Safe to use from many threads: two pictures at once, of one key one, and the others wait their turn. Nothing runs
    before the first picture comes, and its sandbox ends when this process does, or with `close`."""

    def __init__(self) -> None:
        self.limit = ConcurrencyLimit(AT_ONCE + WAITING, "as many pictures wait to be decoded as may")
        self._turns = Turns(AT_ONCE)
        self._lock = threading.Lock()
        self._sandbox: subprocess.Popen[bytes] | None = None
        self._asks: socket.socket | None = None
        """Where the sandbox is asked for children."""
        self._ready: socket.socket | None = None
        """To a child that waits for the next upload."""

    @contextmanager
    def decoding(self, upload: BinaryIO, max_megapixels: int, owner: str = "") -> Iterator[Callable[[], bytearray]]:
        """Yield what gives the picture as a JPEG or PNG with nothing else in it. If a turn is free a child is at it at
        once while the caller does something else; to leave the block without the picture ends the child.

        Raises what sandbox/pictures.read_picture does, and QueueFull if too many wait, or too many of `owner`'s."""
        # A slot is held for as long as the picture is in memory, a turn and a child until the answer is there.
        with ExitStack() as slot, ExitStack() as held:

            def begin() -> socket.socket:
                job, child = self._start_job(max_megapixels, upload)
                held.callback(self._have_child_ready)
                held.callback(end, job, child)
                return job

            begun = None
            if self._turns.take_now(owner):
                held.callback(self._turns.give_back, owner)
                slot.enter_context(self.limit.slot(owner))
                begun = begin()

            def picture() -> bytearray:
                """To be called once."""
                with held:
                    if begun:
                        return read_answer(begun)
                    slot.enter_context(self.limit.slot(owner))
                    held.enter_context(self._turns.turn(owner))
                    return read_answer(begin())

            yield picture

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _start_job(self, max_megapixels: int, upload: BinaryIO) -> tuple[socket.socket, int | None]:
        """The socket and the descriptor of a child that has its upload. A sandbox that does not answer is started
        again once."""
        for _ in range(2):
            with self._lock:
                try:
                    sandbox = self._running()
                    job, self._ready = self._ready or new_child(sandbox), None
                except OSError:
                    self._stop()
                    continue
            try:
                return job, give(job, max_megapixels, upload)
            except OSError:
                job.close()
                with self._lock:
                    if self._asks is sandbox:  # another upload may have had it started again meanwhile
                        self._stop()
        raise QueueFull("no process for decoding could be started", retry_after=COME_BACK_SECONDS)

    def _have_child_ready(self) -> None:
        """For the next upload: to make a child takes longer than to wake one."""
        if not self._lock.acquire(blocking=False):  # whoever holds it has one made, and this answer need not wait
            return
        try:
            sandbox = self._running()
            self._ready = self._ready or new_child(sandbox)
        except OSError:
            self._stop()
        finally:
            self._lock.release()

    def _running(self) -> socket.socket:
        """The socket to the sandbox, started if none runs."""
        if self._asks and self._sandbox and self._sandbox.poll() is None:
            return self._asks
        self._stop()
        self._asks, theirs = socket.socketpair()
        with theirs:
            # No environment: it holds secrets. A session of its own: signals to this process's group end this
            # one, which ends the sandbox by closing the socket, in order or not.
            self._sandbox = subprocess.Popen(
                [sys.executable, "-m", "sandbox"], stdin=theirs.fileno(), cwd=ROOT, env={}, start_new_session=True
            )
        return self._asks

    def _stop(self) -> None:
        for connection in (self._ready, self._asks):
            if connection:
                connection.close()
        if self._sandbox:
            self._sandbox.kill()
            self._sandbox.wait()
        self._ready = self._asks = self._sandbox = None


def new_child(sandbox: socket.socket) -> socket.socket:
    """Return the socket to a child that the sandbox is about to make. Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            socket.send_fds(sandbox, [b"\0"], [theirs.fileno()])
        except OSError:
            ours.close()
            raise
    return ours


def give(job: socket.socket, max_megapixels: int, upload: BinaryIO) -> int | None:
    """Send a child its upload, and return the descriptor of its process. Raises OSError if none is there."""
    job.settimeout(START_SECONDS)
    job.sendall(JOB.pack(Kind.PICTURE, max_megapixels, upload.seek(0, io.SEEK_END)))
    upload.seek(0)
    with suppress(ConnectionError):  # a child that has left has answered: an empty upload it knows without this
        while piece := upload.read(PIECE_BYTES):
            job.sendall(piece)
    (pid,) = PID.unpack(receive(job, PID.size, START_SECONDS))
    return handle_of(pid)


def read_answer(job: socket.socket) -> bytearray:
    try:
        is_picture, length = REPLY.unpack(receive(job, REPLY.size, ANSWER_SECONDS))
        if length > (MAX_PICTURE_BYTES if is_picture else MAX_REFUSAL_BYTES):
            raise OSError("no honest answer is so long")
        body = receive(job, length, ANSWER_SECONDS)
    except OSError as error:
        raise ImageUnreadable("file is broken: decoding it takes too long or breaks off", param="file") from error
    if is_picture and body.startswith(SIGNATURES):
        return body
    raise refusal(bytes(body))


def handle_of(pid: int) -> int | None:
    """Return a descriptor of the process, which from now on no later process with this id is taken for. None if it
    has ended already, and before Linux 5.3."""
    with suppress(OSError):
        return os.pidfd_open(pid)
    return None


def end(job: socket.socket, child: int | None) -> None:
    """End a child, by its descriptor: also one that has answered, for one that was taken over would stay."""
    job.close()
    if child is not None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)


def receive(job: socket.socket, length: int, seconds: float) -> bytearray:
    """Exactly so many bytes. Raises OSError if they do not come in time, or the other side is gone."""
    data, give_up = bytearray(length), time.monotonic() + seconds
    left = memoryview(data)
    while left:
        job.settimeout(max(0.001, give_up - time.monotonic()))
        got = job.recv_into(left)
        if not got:
            raise OSError("the other side ended")
        left = left[got:]
    return data


def refusal(body: bytes) -> InvalidRequest:
    try:
        said = json.loads(body)
        return REFUSALS[said["code"]](str(said["message"]), param="file")
    except (ValueError, LookupError, TypeError, RecursionError):
        return ImageUnreadable("file is broken: the picture in it cannot be decoded", param="file")
