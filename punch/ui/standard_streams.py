"""
The stdin and stdout of this process as one Twisted transport, whatever kind of file they are.

`twistd` replaces `sys.stdout` by a log stream, so the front ends write here. Three cases need care:

* epoll refuses regular files and `/dev/null`. Twisted's reactor polls those continuously, and reports their
  end like that of a pipe.
* A process may be started without stdin or stdout (`<&-`). Their descriptors would then go to the next files
  that are opened, so the null device is opened in their place.
* Non-blocking mode is a property of the open file, which this process shares with the shell that started it.
  So the flags are restored at the end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, IReactorFDSet
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure
from zope.interface import implementer

try:
    import fcntl
except ImportError:  # On Windows there are no such flags to restore.
    fcntl = None  # type: ignore[assignment]


class InputKind(Enum):
    """What stdin is, as far as a front end needs to know."""

    TERMINAL = "terminal"
    STREAM = "stream"
    """A pipe, a file or a socket, which has an end."""
    NOTHING = "nothing"
    """The null device, or a closed descriptor: there is no input."""


@dataclass(frozen=True)
class StreamDescriptors:
    """
    The descriptors of stdin and stdout, and what they are.

    :ivar output_is_file: whether stdout is a file, or a device that is no terminal. It has no reader that
        could close it: if its connection is lost, writing has failed.
    :ivar encoding: the text encoding of stdout.
    """

    stdin: int
    stdout: int
    input_kind: InputKind
    output_is_terminal: bool
    output_is_file: bool = False
    encoding: str = "utf-8"

    @classmethod
    def of_this_process(cls) -> StreamDescriptors:
        """
        Return those of this process.

        It must be called only when the service has started: before, a process that becomes a daemon may
        still change its descriptors.
        """
        has_stdin = sys.__stdin__ is not None and _is_open(0)
        has_stdout = sys.__stdout__ is not None and _is_open(1)
        stdin = 0 if has_stdin else os.open(os.devnull, os.O_RDONLY)
        stdout = 1 if has_stdout else os.open(os.devnull, os.O_WRONLY)
        if os.isatty(stdin):
            kind = InputKind.TERMINAL
        elif not has_stdin or _is_null(stdin):
            kind = InputKind.NOTHING
        else:
            kind = InputKind.STREAM
        encoding = getattr(sys.__stdout__, "encoding", None) or "utf-8"
        terminal = os.isatty(stdout)
        mode = os.fstat(stdout).st_mode
        file = stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not terminal)
        return cls(stdin, stdout, kind, terminal, file, encoding)


def occupy_standard_descriptors() -> None:
    """
    Open the null device in place of stdin, stdout or stderr if they are missing.

    Otherwise other files would get their descriptors, and a process that becomes a daemon closes those.
    """
    for descriptor in range(3):
        if not _is_open(descriptor):
            os.open(os.devnull, os.O_RDWR)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _is_null(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    if not stat.S_ISCHR(status.st_mode):
        return False
    with contextlib.suppress(OSError):
        return status.st_rdev == os.stat(os.devnull).st_rdev
    return False


@implementer(IPushProducer)
class _WriteMonitor:
    """A producer that writes nothing: the transport resumes it when all output has left the process."""

    def __init__(self) -> None:
        self.pending = False
        self.waiting: list[Deferred[None]] = []

    def pauseProducing(self) -> None:
        self.pending = True

    def resumeProducing(self) -> None:
        self.pending = False
        waiting, self.waiting = self.waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def stopProducing(self) -> None:
        self.pending = False
        self.waiting = []


@implementer(IHalfCloseableProtocol)
class _StreamProtocol(Protocol):
    """Tells the `StandardStreams` what is read from stdin, and when stdin or stdout is closed."""

    def __init__(self, console: StandardStreams) -> None:
        self._console = console

    def dataReceived(self, data: bytes) -> None:
        self._console.on_input(data)

    def readConnectionLost(self) -> None:
        self._console.input_lost()

    def writeConnectionLost(self) -> None:
        self._console.output_lost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._console.input_lost()
        self._console.output_lost()


class StandardStreams:
    """
    stdin and stdout of this process.

    :param on_input: is given the bytes that arrive on stdin.
    :param on_input_end: is called once, at the end of stdin.
    :param on_output_lost: is called once, when nobody reads stdout any more, or it can't be written.
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        streams: StreamDescriptors,
        on_input: Callable[[bytes], None],
        on_input_end: Callable[[], None],
        on_output_lost: Callable[[], None],
    ) -> None:
        self.streams = streams
        self.on_input = on_input
        self._on_input_end: Callable[[], None] | None = on_input_end
        self._on_output_lost: Callable[[], None] | None = on_output_lost
        self._output_end: Deferred[None] | None = None
        """Fires when stdout, which this side closes, is closed."""
        self._flags = _flags(streams)
        self._writes = _WriteMonitor()
        connect: Any = StandardIO  # untyped, and another class on Windows
        self._io = connect(_StreamProtocol(self), streams.stdin, streams.stdout, reactor)
        # With a buffer size of 0, every write pauses the producer until all is written.
        writer = getattr(self._io, "_writer", None)
        if writer is not None:
            writer.bufferSize = 0
        self._io.registerProducer(self._writes, True)

    def write(self, data: bytes) -> None:
        """Write `data` to stdout, in order, without blocking. After stdout was lost, it is dropped."""
        if data and self._on_output_lost is not None:
            self._io.write(data)

    def written(self) -> Deferred[None]:
        """Fires when all that was written until now has left this process; never if stdout was lost."""
        done: Deferred[None] = Deferred()
        if self._writes.pending or self._on_output_lost is None:
            self._writes.waiting.append(done)
        else:
            done.callback(None)
        return done

    def end_output(self) -> Deferred[None]:
        """
        Close stdout when all is written, so that its reader sees the end of the file. The null device
        takes its place.

        :return: fires when stdout is closed; never if it was lost.
        """
        return self.written().addCallback(lambda _: self._close_output())

    def _close_output(self) -> Deferred[None]:
        self._on_output_lost = None
        closed = self._output_end = Deferred[None]()
        descriptor = self.streams.stdout
        if fcntl is not None:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, self._flags.pop(descriptor))
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            # The same socket may be stdin, which must stay open: only its writing side is shut down.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                connection.shutdown(socket.SHUT_WR)
        self._io.unregisterProducer()
        self._io.loseWriteConnection()
        return closed

    def pause(self) -> None:
        """Stop reading stdin until `resume`."""
        self._io.pauseProducing()

    def resume(self) -> None:
        """Read stdin again, unless it has ended."""
        if self._on_input_end is not None:
            self._io.resumeProducing()

    def restore(self) -> None:
        """Restore the flags of the descriptors. Nothing may be called after it."""
        self._on_input_end = None
        self.pause()
        if fcntl is not None:
            for descriptor, flags in self._flags.items():
                with contextlib.suppress(OSError):
                    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)

    def input_lost(self) -> None:
        """stdin has ended."""
        told, self._on_input_end = self._on_input_end, None
        if told is not None:
            told()

    def output_lost(self) -> None:
        """stdout was closed by its reader, or can't be written."""
        told, self._on_output_lost = self._on_output_lost, None
        self._writes.waiting = []
        if told is not None:
            told()
        closed, self._output_end = self._output_end, None
        if closed is not None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.streams.stdout)
            os.close(null)
            closed.callback(None)


def _flags(streams: StreamDescriptors) -> dict[int, int]:
    if fcntl is None:
        return {}
    return {fd: fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (streams.stdin, streams.stdout)}
