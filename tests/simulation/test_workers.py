"""Whatever becomes of the processes for long simulations is told, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.workers import Workers


def half(number: int) -> int:
    """Of an even number; an odd one doesn't come back."""
    if number == 5:
        raise ArithmeticError("odd")
    if number == 7:
        os._exit(3)
    return number // 2


def say_and_wait(word: str) -> None:
    """Until it is ended from outside."""
    os.write(1, f"{word}\n".encode())  # in one piece, whatever the others write
    time.sleep(600)


def test_results_in_order(workers: Workers) -> None:
    assert workers.run(half, range(0, 40, 2)) == list(range(20))


def test_one_raises(workers: Workers) -> None:
    """The exception names the case and has its traceback; the other cases are done."""
    with pytest.raises(AssertionError, match=r"5: ArithmeticError\('odd'\)") as raised:
        workers.run(half, [2, 4, 5, 6])
    cause = raised.value.__cause__
    assert cause is not None
    assert 'raise ArithmeticError("odd")' in str(cause.__cause__)
    assert workers.run(half, [8]) == [4]


def test_one_dies(workers: Workers) -> None:
    """Those that may have done it are named; there are others for what comes next."""
    with pytest.raises(AssertionError, match=r"A process died.*\b7\b"):
        workers.run(half, [2, 4, 7, *range(8, 80, 2)])
    assert workers.run(half, [8]) == [4]


def test_one_dies_before_all_are_handed_out(workers: Workers) -> None:
    """The error is the same if a process ends while cases are still being handed out."""

    def cases() -> Iterator[int]:
        yield from (2, 7, 4)
        for _ in range(6000):  # no more are handed out once a process has ended
            time.sleep(0.01)
            yield 8

    with pytest.raises(AssertionError, match=r"A process died.*\b7\b"):
        workers.run(half, cases())
    assert workers.run(half, [8]) == [4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_they_end_with_who_started_them(number: int) -> None:
    """The workers end when the process that started them does."""
    code = (
        "from tests.simulation.test_workers import say_and_wait\n"
        "from tests.simulation.workers import Workers\n"
        "workers = Workers()\n"
        "try: workers.run(say_and_wait, ['here'] * 20)\n"
        "finally: workers.close()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        for _ in range(os.cpu_count() or 1):
            assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in said) is (number == signal.SIGINT)
