"""
Files of the state directory: their errors (`StateError`), the lock of an identity, and how they are read and
written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

from punch.files import (
    check_regular,
    make_private_directory,
    open_regular,
    read_regular,
    replace_private,
    try_lock,
)
from punch.identity import Identity, IdentityError, RandomBytes, load_identity

_MAX_PROGRAM = 100
"""How many bytes are read of the name of the program that has a lock."""


class StateProblem(str, Enum):
    """Why something that is kept can't be read or written."""

    HOME = "home"
    """The state directory begins with the ~ of a user who does not exist, or has no home: `path`."""
    NAME = "name"
    """No identity can have this name."""
    NO_IDENTITY = "no-identity"
    """There is no identity of this name in the state directory `path`."""
    FILE = "file"
    """The system refuses to open, read or write the file `path`: `cause` is an `OSError`."""
    KEY = "key"
    """`cause` is an `IdentityError`."""
    ADDRESS_BOOK = "address-book"
    """`cause` is an `AddressBookError`."""
    IN_USE = "in-use"
    """Another process runs with the identity."""


class StateError(Exception):
    """
    Something kept can't be read or written. `str()` is for logs, and `punch.sentences` has the sentence for
    users.

    :ivar problem: why not.
    :ivar path: the file or directory, if that is the problem.
    :ivar name: the name of the identity, if that is the problem, or "".
    :ivar cause: the error that is the cause, if there is one.
    """

    def __init__(
        self,
        problem: StateProblem,
        *,
        path: Path | None = None,
        name: str = "",
        cause: Exception | None = None,
    ) -> None:
        super().__init__(": ".join(str(part) for part in (problem.value, name, path, cause) if part))
        self.problem = problem
        self.path = path
        self.name = name
        self.cause = cause


class IdentityInUse(StateError):
    """
    Another process runs with an identity.

    :ivar holder: the name of its program, if that could use the node of another process as well; or "".
    """

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(StateProblem.IN_USE, name=name)
        self.holder = holder


class Lock:
    """
    A lock that the operating system releases when its process ends, in whatever way.

    The open descriptor holds the lock, not the file, so a file that is left behind blocks nobody.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Release the lock, so that another process can have the identity. It may be called again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class state_errors:
    """Turns an `OSError` about a path into a `StateError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            raise StateError(StateProblem.FILE, path=self._path, cause=error) from error


def lock_identity(path: Path, name: str, program: str) -> Lock:
    """
    Lock the file that stands for an identity, until released or until this process ends.

    :param name: the name of the identity.
    :param program: what this process is, if it could use the node of another process as well; or "".
    :raise IdentityInUse: another process has the lock.
    :raise StateError: the file can't be locked.
    """
    with state_errors(path):
        make_private_directory(path.parent)
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    try:
        with state_errors(path):
            locked = try_lock(descriptor)
        if not locked:
            raise IdentityInUse(name, _holder(descriptor))
        with suppress(OSError):  # The disk may be full. The name is needed for a sentence only
            os.ftruncate(descriptor, 0)
            os.write(descriptor, program.encode())
    except StateError:
        os.close(descriptor)
        raise
    return Lock(descriptor)


def _holder(descriptor: int) -> str:
    """Return the name of the program that has the lock of a file; "" if that is not known."""
    holder = ""
    with suppress(OSError):  # Some systems do not allow reading a locked file
        holder = os.read(descriptor, _MAX_PROGRAM).decode("utf-8", "replace")
    return holder if holder.isprintable() else ""


def prepare_files(log: Path, others: Sequence[Path]) -> None:
    """
    Make a log file and its directory, and check that `others` are regular files or do not exist.

    :raise StateError: the log can't be made, or something that is no regular file has the name of one.
    """
    for path in others:
        with state_errors(path):
            check_regular(path)
    with state_errors(log):
        make_private_directory(log.parent)
        # A log contains names of peers, so nobody but its owner may read it, from the first line on.
        os.close(open_regular(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND))


def kept_identity(directory: Path, random: RandomBytes) -> Identity:
    """
    Return the identity whose key is in a directory. The key is made on first use.

    :raise StateError: it can't be loaded or made.
    """
    try:
        return load_identity(directory / "identity.key", random)
    except IdentityError as error:
        raise StateError(StateProblem.KEY, cause=error) from error


def read_file(path: Path, limit: int = 65536) -> bytes | None:
    """
    Return the content of a file of at most `limit` bytes; None if there is no such file.

    :raise StateError: it can't be read.
    """
    with state_errors(path):
        try:
            return read_regular(path, limit)
        except FileNotFoundError:
            return None


def read_line(path: Path) -> str | None:
    """
    Return the first line of a file, without the spaces around it; None if there is none.

    :raise StateError: it can't be read.
    """
    content = read_file(path)
    if content is None:
        return None
    lines = content.decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else None


def write_file(path: Path, content: bytes) -> None:
    """
    Write a file, and make the directories above it, for their owner only.

    :raise StateError: it can't be written.
    """
    with state_errors(path):
        make_private_directory(path.parent)
        replace_private(path, content)
