"""Runs of a simulation side by side, in a process for each processor."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TypeVar

Case = TypeVar("Case")
Result = TypeVar("Result")

_SPAWN = multiprocessing.get_context("spawn")


class Workers:
    """Processes that start with the first call and end with `close`, or with this process."""

    def __init__(self) -> None:
        self._count = os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None
        self._life: Connection | None = None

    def run(self, function: Callable[[Case], Result], cases: Iterable[Case]) -> list[Result]:
        """
        What a function makes of each case; it, they, and what comes of them have to be picklable.

        :raise AssertionError: the function raised, or its process died; it names the case and has the cause.
        """
        pool = self._start()
        calls: list[tuple[Case, Future[Result]]] = []
        results = []
        broken: BrokenProcessPool | None = None
        try:
            for case in cases:
                try:
                    calls.append((case, pool.submit(_call, function, case)))
                except BrokenProcessPool as problem:
                    broken = problem  # most likely by an earlier case, which raises it below
                    break
            for case, call in calls:
                try:
                    results.append(call.result())
                except BrokenProcessPool as problem:
                    self.close()
                    left = [case for case, call in calls if isinstance(call.exception(), BrokenProcessPool)]
                    # They are taken in this order
                    running = ", ".join(map(str, left[: self._count]))
                    raise AssertionError(f"A process died that had one of these: {running}") from problem
                except Exception as problem:
                    raise AssertionError(f"{case}: {problem!r}") from problem
            if broken is not None:
                self.close()
                raise AssertionError("A process died that had none of these") from broken
        finally:
            for _, call in calls:
                call.cancel()
        return results

    def close(self) -> None:
        """End the processes at once, whatever they do."""
        if self._life is not None:
            self._life.close()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = self._life = None

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            theirs, self._life = _SPAWN.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(
                self._count, mp_context=_SPAWN, initializer=_begin, initargs=(theirs,)
            )
        return self._pool


def _begin(life: Connection) -> None:
    # Ctrl-C reaches all; who waits for the results ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()


def _call(function: Callable[[Case], Result], case: Case) -> Result:
    if not gc.get_freeze_count():
        # All that is imported by now isn't looked through for garbage in every run again
        gc.collect()
        gc.freeze()
    return function(case)


def _end_with(life: Connection) -> None:
    """The other end of the pipe is closed when it isn't needed any more, by the system at the latest."""
    life.poll(None)
    os._exit(1)
