"""A filter of the kernel's (seccomp) after which this process can start threads and no other process.

libde265 decodes in a thread of its own, and RLIMIT_NPROC, which keeps all other children of the sandbox from either,
knows no difference between the two."""

import ctypes
import os
import platform
import struct

NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # prctl(2): PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER
# Of each machine: how the kernel names it, and the numbers of clone, clone3, and what else starts a process.
MACHINES = {
    "x86_64": (0xC000003E, 56, 435, (57, 58)),  # fork, vfork
    "aarch64": (0xC00000B7, 220, 435, ()),
}
CLONE_THREAD = 0x10000
X32 = 0x40000000  # the other numbering that an x86_64 kernel may know

LOAD, EQUAL, ABOVE, HAS_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = 1, 38


def forbid_processes() -> None:
    """Raises OSError if the kernel has no such filters, or none is written for this machine."""
    if platform.machine() not in MACHINES:
        raise OSError(f"no filter for {platform.machine()}")
    rules = filter_for(*MACHINES[platform.machine()])
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((NEW_PRIVILEGES, 1, 0, 0, 0), (SECCOMP, FILTER, program, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def filter_for(machine: int, clone: int, clone3: int, others: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Return the program: operation, steps to skip if true and if false, operand. clone3 is not known, so that the C
    library takes clone, whose flags a filter can read."""
    never = [rule for number in others for rule in ((EQUAL, 0, 1, number), (RETURN, 0, 0, FAIL | EPERM))]
    return [
        (LOAD, 0, 0, MACHINE),
        (EQUAL, 1, 0, machine),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (ABOVE, 0, 1, X32),
        (RETURN, 0, 0, KILL),
        *never,
        (EQUAL, 0, 1, clone3),
        (RETURN, 0, 0, FAIL | ENOSYS),
        (EQUAL, 0, 3, clone),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (HAS_BITS, 1, 0, CLONE_THREAD),
        (RETURN, 0, 0, FAIL | EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
