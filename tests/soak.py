"""
A service that is used for a while does not grow.

    python -m tests.soak --minutes 10

Two rendezvous processes and a Redis, with two peers that stay. Others register at either process, call one of
these, chat and leave, one after the other. Memory and descriptors of all that stays are read after each. They
are to be as many in the last quarter of the time as in the second one. All processes end with this one.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.processes import JSONProcess, Programs, programs
from tests.service_processes import Redis, RendezvousProcesses

PEER = ("--accept", "anyone", "--no-history")
VISITORS = 24
"""Peers that take turns."""
PERIOD = 10.0
"""Seconds from the beginning of one visit to that of the next."""
MORE_MEMORY = 0.03
"""The part by which memory may be larger at the end, beside…"""
MORE_BYTES = 3_000_000
"""…this many bytes; and this many…"""
MORE_DESCRIPTORS = 4
"""…descriptors: of connections that come and go."""


@dataclass(frozen=True)
class Sample:
    """What a process has at one time, in bytes and in number."""

    memory: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        """:raise OSError: it has ended."""
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd")))


def growth(samples: Sequence[Sample]) -> list[str]:
    """What has grown from the second quarter of the samples to the last."""
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    found = []
    for what, more, most in (
        ("memory", MORE_BYTES, MORE_MEMORY),
        ("descriptors", MORE_DESCRIPTORS, 0.0),
    ):
        before, after = (statistics.median(getattr(each, what) for each in part) for part in (early, late))
        if after > before * (1.0 + most) + more:
            found.append(f"{what} grew from {before:,.0f} to {after:,.0f}")
    return found


def visit(run: Programs, number: int, addresses: Sequence[str], host: tuple[JSONProcess, str]) -> None:
    """A peer comes, chats with one that stays, and leaves."""
    name = f"visitor-{number % VISITORS}"
    first = number % len(addresses)
    order = ",".join([*addresses[first:], *addresses[:first]])
    guest = run.peer(name, *PEER, "--rendezvous", order, state=name)
    process, identity = host
    try:
        me = str(guest.wait("ready", 120.0)["id"])
        text = f"visit {number}"
        guest.command("send", peer=identity, text=text)
        process.wait("message", 120.0, lambda event: event["text"] == text)
        process.command("send", peer=me, text=f"{text}, seen")
        guest.wait("message", 60.0, lambda event: event["text"] == f"{text}, seen")
    finally:
        run.end(guest)
    process.forget()


def soak(directory: Path, seconds: float) -> dict[str, list[Sample]]:
    """Let the service be used for so long. Returns the samples of each process."""
    redis = Redis(directory)
    try:
        with programs(directory) as run:
            service = RendezvousProcesses(run, redis, 2)
            hosts: list[tuple[JSONProcess, str]] = []
            for name, address in zip(("alice", "bob"), service.addresses, strict=True):
                process = run.peer(name, *PEER, "--rendezvous", address, state=name)
                hosts.append((process, str(process.wait("ready", 120.0)["id"])))
            watched = {
                "rendezvous 1": service.processes[0].process.pid,
                "rendezvous 2": service.processes[1].process.pid,
                "alice": hosts[0][0].process.pid,
                "bob": hosts[1][0].process.pid,
                "Redis": redis.pid,
            }
            samples: dict[str, list[Sample]] = {name: [] for name in watched}
            begun = time.monotonic()
            number = 0
            while (due := begun + number * PERIOD) < begun + seconds:
                time.sleep(max(0.0, due - time.monotonic()))
                visit(run, number, service.addresses, hosts[number // 2 % 2])
                for name, pid in watched.items():
                    samples[name].append(Sample.of(pid))
                for process in (*service.processes, *(each for each, _ in hosts)):
                    process.forget()
                number += 1
                if time.monotonic() > begun + seconds:
                    break
            return samples
    finally:
        redis.stop()


def report(samples: Mapping[str, Sequence[Sample]]) -> list[str]:
    """Print what was read, and return what is wrong."""
    wrong = []
    for name, each in samples.items():
        if len(each) < 8:
            wrong.append(f"only {len(each)} visits, which is too few to say anything")
            break
        quarter = len(each) // 4
        for what, part in (
            ("second quarter", each[quarter : 2 * quarter]),
            ("last quarter", each[-quarter:]),
        ):
            memory = statistics.median(sample.memory for sample in part) / 1e6
            files = statistics.median(sample.descriptors for sample in part)
            print(f"{name:13} {what:15} {memory:7.1f} MB {files:5.0f} descriptors, {len(each)} visits")
        wrong += [f"{name}: {what}" for what in growth(each)]
    return wrong


def main(arguments: Sequence[str]) -> int:
    """:return: the exit status: 0 if nothing grew."""
    parser = argparse.ArgumentParser(description="Use a service for a while, and see that it does not grow.")
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args(arguments)
    # Whatever happens, this ends, and by the exception all processes that it has started.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.default_int_handler)
    signal.alarm(int(options.minutes * 60) + 300)
    with tempfile.TemporaryDirectory() as directory:
        wrong = report(soak(Path(directory), options.minutes * 60))
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
