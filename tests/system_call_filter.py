"""
Run a command on a kernel that seems to lack something: a filter of system calls (seccomp) refuses it.

    python tests/system_call_filter.py segmentation COMMAND [ARGUMENT…]    no UDP_SEGMENT
    python tests/system_call_filter.py EPERM COMMAND [ARGUMENT…]           no recvmmsg and sendmmsg
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from pathlib import Path

from punch.net.udp.segmentation import UDP_SEGMENT

_SETSOCKOPT = {"x86_64": 54, "aarch64": 208}
_BATCHES = {"x86_64": (299, 307), "aarch64": (243, 269)}
"""recvmmsg and sendmmsg."""
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _THIRD_ARGUMENT = 0, 16 + 2 * 8
"""Where they stand in what a filter is shown (struct seccomp_data)."""


_COMMAND = (sys.executable, str(Path(__file__).resolve()))
WITHOUT_SEGMENTATION = [*_COMMAND, "segmentation"]
"""What a command line begins with to run without UDP_SEGMENT…"""


def without_batches(code: str) -> list[str]:
    """…and without recvmmsg and sendmmsg, which fail with the error of this name."""
    return [*_COMMAND, code]


def _instruction(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _without_segmentation() -> bytes:
    return b"".join(
        (
            _instruction(_LOAD, 0, 0, _NUMBER),
            _instruction(_JUMP_IF_EQUAL, 0, 3, _SETSOCKOPT[platform.machine()]),
            _instruction(_LOAD, 0, 0, _THIRD_ARGUMENT),
            _instruction(_JUMP_IF_EQUAL, 0, 1, UDP_SEGMENT),
            _instruction(_RETURN, 0, 0, _ERRNO | errno.ENOPROTOOPT),
            _instruction(_RETURN, 0, 0, _ALLOW),
        )
    )


def _without_batches(code: int) -> bytes:
    first, second = _BATCHES[platform.machine()]
    return b"".join(
        (
            _instruction(_LOAD, 0, 0, _NUMBER),
            _instruction(_JUMP_IF_EQUAL, 1, 0, first),
            _instruction(_JUMP_IF_EQUAL, 0, 1, second),
            _instruction(_RETURN, 0, 0, _ERRNO | code),
            _instruction(_RETURN, 0, 0, _ALLOW),
        )
    )


def main() -> None:
    """Install the filter, and become the command."""
    kind, command = sys.argv[1], sys.argv[2:]
    program = _without_segmentation() if kind == "segmentation" else _without_batches(getattr(errno, kind))
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(fprog), 0, 0),
    ):
        if libc.prctl(*map(ctypes.c_ulong, arguments)) != 0:
            raise OSError(ctypes.get_errno(), "the filter was not taken")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
