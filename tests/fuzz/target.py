"""What a target is: a function of bytes that raises if anything is wrong, and inputs to begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from tests.fuzz import corpus

Run = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """
    One target.

    :ivar run: reads an input. It raises `AssertionError` if the result is wrong; any other exception is one
        that the code did not declare.
    :ivar seeds: returns real messages, so that fuzzing need not find the formats out.
    :ivar longest: bytes of the longest input.
    """

    name: str
    run: Run
    seeds: Callable[[], Iterable[bytes]]
    longest: int

    def inputs(self) -> list[bytes]:
        """All inputs to begin with: the seeds and the corpus."""
        return list(dict.fromkeys((*self.seeds(), *corpus.read(self.name))))


TARGETS: dict[str, Target] = {}
"""All targets by name. The modules of this package fill it."""


def target(seeds: Callable[[], Iterable[bytes]] = lambda: (), *, longest: int = 4096) -> Callable[[Run], Run]:
    """
    Declare that a function is a target. Its name begins with that of its module: `server` of turn.py is the
    target turn-server.
    """

    def declare(run: Run) -> Run:
        group, name = run.__module__.rpartition(".")[2], run.__name__.replace("_", "-")
        TARGETS[f"{group}-{name}"] = Target(f"{group}-{name}", run, seeds, longest)
        return run

    return declare


class Reader:
    """Reads an input as a list of steps. What is missing at its end is zero or empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """The next byte."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def chunk(self) -> bytes:
        """The next bytes, after two bytes that say how many they are."""
        size = self.byte() << 8 | self.byte()
        chunk = self._data[self._at : self._at + size]
        self._at += size
        return chunk

    def rest(self) -> bytes:
        """All that is left."""
        rest = self._data[self._at :]
        self._at = len(self._data)
        return rest


def chunk(data: bytes) -> bytes:
    """What `Reader.chunk` reads as `data`."""
    return len(data).to_bytes(2, "big") + data


@implementer(ILogObserver)
class _Errors:
    """Collects the errors that are logged instead of raised."""

    def __init__(self) -> None:
        self.found: list[LogEvent] = []
        globalLogPublisher.addObserver(self)

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level")
        if level is not None and level >= LogLevel.error:
            self.found.append(event)


_ERRORS = _Errors()


def check_log() -> None:
    """
    Check that no error was logged, for targets whose code runs on Twisted, which logs what it catches.

    :raise AssertionError: one was.
    """
    found, _ERRORS.found = _ERRORS.found, []
    for event in found:
        failure = event.get("log_failure")
        if failure is not None:
            failure.raiseException()
        raise AssertionError(formatEvent(event))
