"""
Where the socket of a node is, who may use it (the user whose state directory it is in, and root), and what
the user is told if it can't be used.

The socket is in the state directory. If its path, with symbolic links followed, is too long for a socket
address, it is in a runtime directory: XDG_RUNTIME_DIR, /run/user/UID or punch-UID in the directory for
temporary files, the first of them that only this user can use. Whoever attaches looks in all of these places,
however the state directory is called.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path

NAME = "node.sock"
"""The name of the socket in the state directory of an identity."""
MAX_PATH = 103
"""The longest path of a socket in bytes, on the system that has the shortest; Linux takes 107."""


class SocketProblem(str, Enum):
    """Why the socket of a node can't be used."""

    NO_NODE = "no-node"
    """There is no socket of a node with this state directory."""
    NOBODY_LISTENS = "nobody-listens"
    NODE_ENDS = "node-ends"
    NOT_A_SOCKET = "not-a-socket"
    OTHER_USER = "other-user"
    UNREACHABLE = "unreachable"
    """The system does not let this process look at it."""
    STALE = "stale"
    """What an earlier process has left there can't be removed."""
    LONG_PATH = "long-path"
    """Its path is too long, and others may use the directory that would take it, `detail`."""


class SocketError(Exception):
    """
    The socket of a node can't be used.

    :ivar path: the socket; for `NO_NODE` and `LONG_PATH` the state directory.
    :ivar detail: the reason that the system gave, or "".
    """

    def __init__(self, problem: SocketProblem, path: Path, detail: str = "") -> None:
        super().__init__(problem.value, os.fspath(path), detail)
        self.problem = problem
        self.path = path
        self.detail = detail


class NotRunning(SocketError):
    """No node has its socket there."""


_SOCKETS = {
    SocketProblem.NO_NODE: "No node runs with the state directory {path}.",
    SocketProblem.NOBODY_LISTENS: "Nobody listens at {path}.",
    SocketProblem.NODE_ENDS: "The process of the node ends.",
    SocketProblem.NOT_A_SOCKET: "{path} is not a socket. Move it away.",
    SocketProblem.OTHER_USER: "The socket {path} belongs to another user: run this as that user.",
    SocketProblem.UNREACHABLE: "The socket {path} can't be reached: {detail}.",
    SocketProblem.STALE: "The socket {path} of an earlier process can't be removed: {detail}.",
    SocketProblem.LONG_PATH: f"The path of the socket in {{path}} is longer than {MAX_PATH} bytes, and "
    "{detail} can't be used in its place, since others may use it, too. Set XDG_RUNTIME_DIR, or choose a "
    "shorter --state-dir.",
}


def socket_sentence(error: SocketError) -> str:
    """Return the sentence that tells the user why the socket of a node can't be used."""
    return _SOCKETS[error.problem].format_map({"path": error.path, "detail": error.detail})


def own_uid() -> int:
    """Return the user of this process."""
    return os.geteuid()


def fits(path: Path) -> bool:
    """Whether a path is short enough for a socket."""
    return len(os.fsencode(path)) <= MAX_PATH


def listening_path(directory: Path, environ: Mapping[str, str]) -> Path:
    """
    Return where the node of a state directory listens, whose lock this process holds. What an earlier process
    has left there is removed.

    :raise SocketError: there is no place for it.
    """
    path = Path(os.path.realpath(directory)) / NAME
    if not fits(path):
        path = _runtime_path(directory, environ)
    for found in {path: None, **dict.fromkeys(_places(directory, environ))}:
        try:
            if stat.S_ISSOCK(found.lstat().st_mode):
                found.unlink()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise SocketError(SocketProblem.STALE, found, str(error.strerror)) from error
    return path


def remove_directory(path: Path) -> None:
    """Remove the directory of a socket that is gone, if it was made for sockets and has no other in it."""
    if path.parent == _temporary_directory():
        with suppress(OSError):
            path.parent.rmdir()


def attaching_path(directory: Path, environ: Mapping[str, str]) -> Path:
    """
    Return where the node of a state directory listens, if it does.

    :raise NotRunning: there is no socket.
    :raise SocketError: it belongs to somebody else, or can't be reached.
    """
    for path in _places(directory, environ):
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise SocketError(SocketProblem.UNREACHABLE, path, str(error.strerror)) from error
        if not stat.S_ISSOCK(found.st_mode):
            raise SocketError(SocketProblem.NOT_A_SOCKET, path)
        if not may_attach(found.st_uid):
            raise SocketError(SocketProblem.OTHER_USER, path)
        return path
    raise NotRunning(SocketProblem.NO_NODE, directory)


def may_attach(uid: int | None) -> bool:
    """
    Whether a user may be at the other end of the socket.

    :param uid: None: unknown, because the system does not tell; then only the permissions of the socket and
        of its directory count.
    """
    return uid is None or uid in (own_uid(), 0)


def peer_uid(connection: socket.socket) -> int | None:
    """Return the user of the process at the other end; None if this system can't tell."""
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        _pid, uid, _gid = struct.unpack(
            "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        return int(uid)
    if sys.platform == "darwin" or "bsd" in sys.platform:
        # struct xucred of LOCAL_PEERCRED at level 0: a version, then the user
        with suppress(OSError):
            _version, uid = struct.unpack("=II", connection.getsockopt(0, 1, 76)[:8])
            return int(uid)
    return None


def _places(directory: Path, environ: Mapping[str, str]) -> list[Path]:
    """Return where the socket of a state directory may be: earlier releases put it elsewhere."""
    paths = [Path(os.path.realpath(directory)) / NAME, directory / NAME]
    paths += [found / _short_name(directory) for found in _runtime_directories(environ)]
    return [path for path in paths if fits(path)]


def _short_name(directory: Path) -> str:
    digest = hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()
    return f"punch-{digest[:24]}.sock"


def _runtime_path(directory: Path, environ: Mapping[str, str]) -> Path:
    temporary = _temporary_directory()
    with suppress(OSError):
        temporary.mkdir(mode=0o700)
    for found in _runtime_directories(environ):
        path = found / _short_name(directory)
        if fits(path):
            return path
    raise SocketError(SocketProblem.LONG_PATH, directory, os.fspath(temporary))


def _temporary_directory() -> Path:
    return Path(tempfile.gettempdir()) / f"punch-{own_uid()}"


def _runtime_directories(environ: Mapping[str, str]) -> Iterator[Path]:
    """The directories for sockets that only this user can use."""
    configured = environ.get("XDG_RUNTIME_DIR", "")
    candidates = [Path(configured)] if configured.startswith("/") else []
    candidates += [Path(f"/run/user/{own_uid()}"), _temporary_directory()]
    for candidate in candidates:
        with suppress(OSError):
            found = candidate.lstat()
            private = not found.st_mode & 0o077 and found.st_uid == own_uid()
            if stat.S_ISDIR(found.st_mode) and private:
                yield candidate
