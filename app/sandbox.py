"""python -m app.sandbox: one child for each upload, which decodes it under limits that the kernel keeps.

app/decoder.py starts this process and asks it for children; it never sees a byte of an upload itself. It is a
process of its own because the API server has threads and secrets, which a fork would take along. Whatever hostile bytes
made of a child, it can open nothing, write nowhere but to its own socket, and is gone when its time is over.
"""

import gc
import io
import json
import os
import resource
import select
import signal
import socket
import struct
from pathlib import Path
from typing import NoReturn

from PIL import ExifTags, Image, TiffImagePlugin

from core.errors import InvalidRequest
from core.picture import MEMORY_BYTES, is_webp, read_picture, too_much_memory

CPU_SECONDS = 20  # 24 megapixels of a photo as PNG take 3 on a machine of today
WALL_SECONDS = 40
COMMON_SIDE = 512  # pixels; a larger one would keep the cores from who waits for a video
REST_SECONDS = 0.05  # before a child is made for what may come: who waits for the upload before has the cores then

JOB = struct.Struct("!IQ")  # megapixels allowed, bytes of the upload, which follows
PID = struct.Struct("!i")  # of the child that took the job
REPLY = struct.Struct("!?Q")  # whether it is a picture or an error as JSON, bytes of what follows


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
    load_all_code()
    gc.freeze()  # or the first collection in each child would copy all pages that it shares
    server = socket.socket(fileno=0)
    while True:
        _, descriptors, *_ = socket.recv_fds(server, 1, 1)
        if not descriptors:  # the API server is gone, however it ended
            os.killpg(0, signal.SIGKILL)
        with socket.socket(fileno=descriptors[0]) as job:
            select.select([job, server], [], [], REST_SECONDS)
            if os.fork() == 0:
                server.close()
                work_in_child(job)


def load_all_code() -> None:
    """Have Pillow import what it imports late: a child can open no file. And have the memory of a common picture at
    hand: to get that page by page takes as long as a fifth of the decoding."""
    _ = TiffImagePlugin  # EXIF is read with it
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6
    for format in ("JPEG", "PNG", "WEBP", "MPO"):
        file = io.BytesIO()
        side = COMMON_SIDE if format == "JPEG" else 16
        Image.new("RGB", (side, side)).save(file, format, exif=tags, save_all=format != "JPEG")
        encode(read_picture(file.getvalue(), 1), file.getvalue())


def work_in_child(job: socket.socket) -> NoReturn:
    """Wait for the upload, which may be long in coming, and decode it."""
    try:
        if not select.select([job], [], [], 0)[0]:
            load_all_code()  # once more: what it touches is copied for this child now, and not while an upload waits
        limit_this_process()
        os.closerange(1, 3)  # or it could write into the API server's log
        max_megapixels, length = JOB.unpack(job.recv(JOB.size, socket.MSG_WAITALL))
        job.sendall(PID.pack(os.getpid()))  # before the upload is read, so that it can be believed
        signal.alarm(WALL_SECONDS)
        with job.makefile("rb") as sent:
            data = sent.read(length)
        is_picture, body = decode_upload(data, max_megapixels)
        job.sendall(REPLY.pack(is_picture, len(body)))
        job.sendall(body)
    finally:
        os._exit(0)  # without a trace: the API server knows by the missing answer


def limit_this_process() -> None:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: size + MEMORY_BYTES,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def decode_upload(data: bytes, max_megapixels: int) -> tuple[bool, bytes | memoryview]:
    try:
        return True, encode(read_picture(data, max_megapixels), data)
    except InvalidRequest as error:
        return False, json.dumps({"code": error.code, "message": error.message, "param": error.param}).encode()


def encode(picture: Image.Image, upload: bytes) -> memoryview:
    """As JPEG what came with losses, which photos are and which PNG would take ten times as long; all else without
    loss. Only pixels: no metadata, no tail."""
    file = io.BytesIO()
    try:
        if is_lossy(upload):
            picture.save(file, "JPEG", quality=95, subsampling="4:4:4")
        else:
            picture.save(file, "PNG", compress_level=1)
    except MemoryError as error:
        raise too_much_memory() from error
    return file.getbuffer()


def is_lossy(upload: bytes) -> bool:
    return upload.startswith(b"\xff\xd8") or (is_webp(upload) and b"VP8L" not in upload)


if __name__ == "__main__":
    main()
