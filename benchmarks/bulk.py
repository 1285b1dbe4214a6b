"""
How fast one stream goes over loopback, and what it costs: our link beside others, in the same run.

    python benchmarks/bulk.py [--rounds 5] [--only punch,tls]

Each transport runs between two real processes, in turn, and the rounds are interleaved, since a machine is
never equally fast twice; the median of the rounds is reported. MB is 10^6 bytes, GiB 2^30; CPU seconds are
those of both ends together, from the moment the connection is ready until the receiver's application has the
last byte. The status is 1 if an aim is missed: at least 0.35 of the throughput of TLS in the same run, and at
most 12 CPU seconds a GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

ENDS = Path(__file__).with_name("bulk_ends.py")
MIB = 1024 * 1024
RATIO_AIM = 0.35
CPU_AIM = 12.0
TIMEOUT = 180


@dataclass(frozen=True)
class BulkTransport:
    """One line of the table. `size` is chosen so that a round takes a few seconds."""

    key: str
    title: str
    size: int
    module: str | None = None


TRANSPORTS = [
    BulkTransport("punch", "Punch link (qh3, batched sockets)", 512 * MIB),
    BulkTransport("punch-portable", "Punch link (qh3, portable sockets)", 128 * MIB),
    BulkTransport("tls", "Twisted TCP + TLS 1.3", 1024 * MIB),
    BulkTransport("aioquic", "aioquic, its asyncio driver", 16 * MIB, "aioquic"),
    BulkTransport("aiortc", "aiortc data channel", 8 * MIB, "aiortc"),
]


@dataclass(frozen=True)
class Sample:
    """One round of one transport."""

    megabytes_per_second: float
    cpu_per_gib: float


def start_end(transport: BulkTransport, role: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ENDS), transport.key, role, str(transport.size)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def next_line(end: subprocess.Popen[str]) -> dict[str, Any]:
    assert end.stdout is not None
    line = end.stdout.readline()
    if not line:
        raise SystemExit(f"An end of the benchmark stopped without a result: see above. ({end.args!r})")
    fields: dict[str, Any] = json.loads(line)
    return fields


def pass_signal(source: subprocess.Popen[str], target: subprocess.Popen[str]) -> None:
    assert target.stdin is not None
    target.stdin.write(json.dumps(next_line(source)["signal"]) + "\n")
    target.stdin.flush()


def measure(transport: BulkTransport) -> Sample:
    receiver, sender = start_end(transport, "receive"), start_end(transport, "send")
    try:
        if transport.key == "aiortc":
            pass_signal(sender, receiver)
        pass_signal(receiver, sender)
        results = [next_line(sender)["result"], next_line(receiver)["result"]]
        for end in (sender, receiver):
            end.wait(TIMEOUT)
    finally:
        for end in (sender, receiver):
            end.kill()
            end.wait()
    cpu = sum(result["cpu"] for result in results)
    return Sample(transport.size / results[0]["seconds"] / 1e6, cpu / (transport.size / 2**30))


def describe_machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
        model = names[0] if names else model
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} × {model}, {system}"


def describe_versions() -> str:
    found = []
    for name in ("txpunch", "qh3", "aioquic", "aiortc", "twisted", "pyOpenSSL", "cryptography"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def report(samples: dict[str, list[Sample]]) -> bool:
    """Print the table; whether the aims are met (those that can be judged)."""
    rates = {key: median(sample.megabytes_per_second for sample in rows) for key, rows in samples.items()}
    costs = {key: median(sample.cpu_per_gib for sample in rows) for key, rows in samples.items()}
    tls = rates.get("tls")
    print(f"\n{'transport':40} {'MB/s':>8} {'of TLS':>8} {'CPU s/GiB':>10}   rounds (MB/s)")
    for transport in TRANSPORTS:
        if transport.key not in rates:
            continue
        ratio = f"{rates[transport.key] / tls:.2f}" if tls else "-"
        rounds = " ".join(f"{sample.megabytes_per_second:.0f}" for sample in samples[transport.key])
        rate, cost = rates[transport.key], costs[transport.key]
        print(f"{transport.title:40} {rate:8.1f} {ratio:>8} {cost:10.1f}   {rounds}")
    met = True
    if "punch" in rates:
        met = costs["punch"] <= CPU_AIM
        print(f"\nCPU: {costs['punch']:.1f} s/GiB (aim: at most {CPU_AIM:g})")
        if tls:
            met = met and rates["punch"] / tls >= RATIO_AIM
            print(f"throughput: {rates['punch'] / tls:.2f} of TLS (aim: at least {RATIO_AIM:g})")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description="Bulk throughput of one stream over loopback.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each transport (default: 5)")
    parser.add_argument(
        "--only", default="", help="comma-separated transports (default: all that are installed)"
    )
    options = parser.parse_args()
    wanted = set(options.only.split(",")) if options.only else {transport.key for transport in TRANSPORTS}
    chosen = []
    for transport in TRANSPORTS:
        if transport.key in wanted:
            if transport.module is not None and find_spec(transport.module) is None:
                print(f"{transport.title}: left out, {transport.module} is not installed")
            else:
                chosen.append(transport)
    print(describe_machine())
    print(describe_versions())
    samples: dict[str, list[Sample]] = {transport.key: [] for transport in chosen}
    for number in range(options.rounds):
        for transport in chosen:
            sample = measure(transport)
            samples[transport.key].append(sample)
            print(
                f"round {number + 1}: {transport.title}: {sample.megabytes_per_second:.1f} MB/s, "
                f"{sample.cpu_per_gib:.1f} CPU s/GiB",
                flush=True,
            )
    return 0 if report(samples) else 1


if __name__ == "__main__":
    raise SystemExit(main())
