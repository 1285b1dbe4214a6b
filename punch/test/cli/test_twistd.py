"""What the plugins share: how they write to their output and end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from punch.cli import twistd


class ConsoleTests(SynchronousTestCase):
    """The process's own stdout."""

    def setUp(self) -> None:
        self.reader, self.writer = os.pipe()
        self.addCleanup(self.close, self.reader)
        self.addCleanup(self.close, self.writer)

    def close(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            os.close(fd)

    def test_lines_in_order(self) -> None:
        console = twistd.OutputWriter(self.writer)
        for number in range(100):
            console.line(f"line {number} ✓")
        console.close()
        os.close(self.writer)
        with open(self.reader, encoding="utf-8", closefd=False) as file:
            self.assertEqual(file.read().splitlines(), [f"line {number} ✓" for number in range(100)])

    def test_reader_that_closed(self) -> None:
        os.close(self.reader)
        console = twistd.OutputWriter(self.writer)
        for _ in range(3):
            console.line("x")
            console.event({"event": "x"})
        console.close()
        self.assertTrue(console.broken)

    def test_reader_that_does_not_read_blocks_nothing(self) -> None:
        console = twistd.OutputWriter(self.writer, limit=10)
        for _ in range(1_000):
            console.line("x" * 4_000)
        console.close(timeout=0.01)
        os.close(self.reader)

    def test_events_are_json(self) -> None:
        console = twistd.OutputWriter(self.writer)
        console.event({"event": "a", "name": "ü"})
        console.line("{}")
        console.event({"event": "b"})
        console.close()
        lines = os.read(self.reader, 65_536).splitlines()
        self.assertEqual(
            [json.loads(line) for line in lines], [{"event": "a", "name": "ü"}, {}, {"event": "b"}]
        )

    def test_closed_before_the_start(self) -> None:
        self.patch(sys, "__stdout__", None)
        console = twistd.OutputWriter(1)
        console.line("x")
        console.event({})
        console.close()
        self.assertTrue(console.broken)


class StoppableReactor:
    """Just enough of one to be ended."""

    def __init__(self) -> None:
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1

    def callWhenRunning(self, function: Any, /, *args: Any) -> None:
        function(*args)


class EndTests(SynchronousTestCase):
    """How a program stops its reactor."""

    def test_the_reactor_stops_when_it_runs(self) -> None:
        reactor = StoppableReactor()
        twistd.end(reactor)
        self.assertEqual(reactor.stops, 1)
