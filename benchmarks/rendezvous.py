"""
What a rendezvous holds and introduces: one process, two, and two on two cores, beside a bare TLS server.

    python -m benchmarks.rendezvous [--peers 15000] [--only one,bare,two,attacks]

The load (`rendezvous_load.py`) is peers in other processes, from 240 addresses in as many /24s, so that the
limits for each address stay out of the way. The service runs as operators run it, with larger limits for
connections and registrations. It has one core, the load has another. "Two on two cores" gives each process a
core, and the load takes what is left of both; so all rates are "a core", for a second of the processor that
the service used, and two processes are compared with one by these rates.

A registration is a TCP connection, a TLS handshake with a client certificate, `register` and `welcome`. An
introduction is `establish`, `incoming`, `answer`, `answered`, `cancel` and `ended`; its latency is from
`establish` to `answered`. With two processes, half of the introductions are between them, through a Redis
that is started for it. The bare server (`rendezvous_bare.py`) passes on the same lines.

In the attacks (`rendezvous_attacks.py`), each kind of hostile request comes as fast as one process can send
it, up to 50,000 a second, while peers register and are introduced. This part runs in a network namespace of
its own, which needs root or user namespaces.

The status is 1 if an aim is missed, 2 if a program is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.rendezvous_attacks import KINDS, prepare_namespace
from benchmarks.rendezvous_load import PING_AFTER
from benchmarks.rendezvous_processes import (
    ROOT,
    WINDOW,
    Lab,
    Process,
    Rate,
    Server,
    descriptors_for,
    redis_commands,
)
from punch.identity import Identity
from punch.net.segmented_table import PROBATION

CALLS = 4000
"""Introductions of one measurement."""
TWO_PEERS = 3000
ATTACKED_PEERS = 500
GROUPS = "X25519MLKEM768"
"""The key exchange of peers."""

MEMORY_AIM = 36.0
REGISTRATIONS_AIM = 450.0
INTRODUCTIONS_AIM = 1200.0
LATENCY_AIM = 0.050
FLAT_AIM = 1.15
"""What a registration costs at most at the end, in units of what it costs at 1,000 peers."""
TWO_AIM = 1.7
ATTACKED_AIM = 1.0
RETURNED_AIM = 0.25
"""The part of the memory of all peers that may be left when they are gone."""


class Report:
    """Prints figures and judges them."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def line(self, text: str = "") -> None:
        print(text, flush=True)

    def aim(self, text: str, met: bool) -> None:
        """Print what was to be reached."""
        self.line(f"  {text}: {'met' if met else 'MISSED'}")
        if not met:
            self.missed.append(text)


def held(lab: Lab, report: Report, server: Server, name: str, peers: int) -> dict[str, Rate]:
    """One process that gets more and more peers."""
    ours = name == "punch"
    load = lab.load([server])
    extra = WINDOW * 2
    load.do("keys", count=peers + extra)
    empty = server.process.memory
    steps = [step for step in (1000, 2000, 5000, 10_000) if step < peers] + [peers]
    registered = 0
    report.line(f"\n{name}: one process, {peers:,} peers")
    report.line(
        f"{'peers':>8}{'KiB each':>10}{'register: CPU ms':>18}{'a second':>10}{'a core':>8}"
        f"{'introduce: CPU ms':>19}{'a second':>10}{'a core':>8}"
    )
    rows: list[tuple[float, Rate, Rate]] = []
    for step in steps:
        window = min(WINDOW, step - registered)
        load.register(step - registered - window)
        rate = load.measure("register", window)
        registered = step
        memory = (server.process.memory - empty) / step / 1024
        calls = load.measure("introduce", CALLS)
        rows.append((memory, rate, calls))
        report.line(
            f"{step:8,}{memory:10.1f}{rate.cpu * 1e3:18.2f}{rate.rate:10.0f}{rate.a_core:8.0f}"
            f"{calls.cpu * 1e3:19.2f}{calls.rate:10.0f}{calls.a_core:8.0f}"
        )
        for each in (rate, calls):
            if each.failed:
                report.line(f"  failed: {each.reasons}")
    load.do("settle")
    before = server.process.cpu
    kept = load.do("keep", seconds=PING_AFTER)
    idle = (server.process.cpu - before) / PING_AFTER / peers
    report.line(f"held: {idle * 1e6:.1f} µs of CPU a peer and second (pings); {kept['lost']} lost")
    memory, rate, calls = rows[-1]
    half: dict[str, Rate] = {}
    for what, aim, count in (
        ("register", REGISTRATIONS_AIM, extra),
        ("introduce", INTRODUCTIONS_AIM, CALLS),
    ):
        half[what] = each = load.measure(what, count, aim / 2)
        report.line(
            f"{what} {aim / 2:.0f} a second: p50 {each.percentile(50) * 1e3:.1f} ms, "
            f"p99 {each.percentile(99) * 1e3:.1f} ms, worst {max(each.latencies, default=0.0) * 1e3:.0f} ms"
            + (f", failed: {each.reasons}" if each.failed else "")
        )
    full = server.process.memory
    load.do("drop", count=peers + extra)
    load.do("keep", seconds=8.0)
    left = (server.process.memory - empty) / (full - empty)
    report.line(f"of the memory of all peers, {left:.0%} is left 8 s after they are gone")
    if ours:
        report.aim(f"at most {MEMORY_AIM:g} KiB a peer", memory <= MEMORY_AIM)
        report.aim(f"{REGISTRATIONS_AIM:g} registrations/s a core", rate.a_core >= REGISTRATIONS_AIM)
        report.aim(f"{INTRODUCTIONS_AIM:g} introductions/s a core", calls.a_core >= INTRODUCTIONS_AIM)
        growth = rate.cpu / rows[0][1].cpu
        report.aim(f"cost of a registration flat: {growth:.2f}, at most {FLAT_AIM:g}", growth <= FLAT_AIM)
        late = max(each.percentile(99) for each in half.values())
        report.aim(f"p99 under {LATENCY_AIM * 1e3:.0f} ms at half the load", late < LATENCY_AIM)
        report.aim(f"at most {RETURNED_AIM:.0%} of the memory is left", left <= RETURNED_AIM)
    load.process.end()
    server.process.end()
    return {"register": rate, "introduce": calls}


def several(lab: Lab, report: Report, one: dict[str, Rate] | None, *, cores: int) -> None:
    """Two processes and a Redis."""
    redis, port = lab.redis()
    key = Identity.generate().to_pem()
    chosen = lab.server_cores[:1] * 2 if cores == 1 else lab.server_cores
    servers = [lab.punch(core, TWO_PEERS, f"redis://127.0.0.1:{port}/3", key) for core in chosen]
    where = "one core" if cores == 1 else "two cores"
    report.line(f"\ntwo processes on {where}, with Redis")
    rates = compare(lab, report, servers, (redis, port))
    if one is not None:
        for what, rate in rates.items():
            times = cores * one[what].cpu / rate.cpu
            if cores == 2:
                report.aim(f"{what}: {times:.2f} times one process, at least {TWO_AIM:g}", times >= TWO_AIM)
            else:
                report.line(f"  {what}: {times:.2f} times one process")
    redis.end()


def compare(
    lab: Lab, report: Report, servers: Sequence[Server], redis: tuple[Process, int] | None = None
) -> dict[str, Rate]:
    """Registrations and introductions at some processes with few peers."""
    load = lab.load(servers)
    load.do("keys", count=TWO_PEERS)
    load.register(WINDOW)
    rates: dict[str, Rate] = {}
    for what, count in (("register", TWO_PEERS - WINDOW), ("introduce", 2 * CALLS)):
        commands = redis_commands(redis[1]) if redis else 0
        used = redis[0].cpu if redis else 0.0
        rate = rates[what] = load.measure(what, count)
        text = (
            f"{what}: {rate.cpu * 1e3:.2f} ms of CPU, {rate.rate:.0f} a second, {rate.a_core:.0f} a core, "
            f"p50 {rate.percentile(50) * 1e3:.0f} ms, p99 {rate.percentile(99) * 1e3:.0f} ms"
        )
        if redis:
            commands = redis_commands(redis[1]) - commands
            used = redis[0].cpu - used
            text += f"; Redis: {commands / count:.1f} commands and {used / count * 1e6:.0f} µs for each"
        report.line(text + (f"; failed: {rate.reasons}" if rate.failed else ""))
    load.process.end()
    for server in servers:
        server.process.end()
    return rates


def attacks(lab: Lab, report: Report, kinds: Sequence[str], seconds: float) -> None:
    """Honest peers register and are introduced while the service is attacked."""
    server = lab.punch(lab.server_cores[0], 3000)
    load = lab.load([server], (0, 20))
    # Their keys were registered before the attack or were not: half of each.
    load.do("keys", count=ATTACKED_PEERS + 50 * len(KINDS))
    load.register(ATTACKED_PEERS)
    load.do("keep", seconds=PROBATION)
    load.do("mark")
    start = server.process.memory
    report.line(f"\nunder attack, {ATTACKED_PEERS} peers that are introduced, and others that register")
    report.line(
        f"{'attack':16}{'a second':>10}{'register p50':>14}{'worst ms':>10}{'failed':>8}"
        f"{'introduce p50':>15}{'worst ms':>10}{'failed':>8}{'memory +MiB':>13}"
    )
    for kind in kinds:
        load.do("keep", seconds=1.0)
        where = (str(server.port), str(server.reflector), "--seconds", str(seconds))
        command = ["nice", sys.executable, "-m", "benchmarks.rendezvous_attacks", kind, *where]
        attack = lab.run(command, lab.load_cores)
        time.sleep(1.0)
        found = []
        for what, rate in (("register", 10.0), ("introduce", 50.0)):
            count = int(rate * (seconds - 1.5) / 2)
            found.append(load.do(what, count=count, rate=rate))
        sent = attack.read(60.0)
        text = f"{kind:16}{sent['sent'] / sent['seconds']:10,.0f}"
        for width, each in zip((14, 15), found, strict=True):
            times = each["latencies"] or [float("inf")]
            text += f"{median(times) * 1e3:{width}.1f}{max(times) * 1e3:10.0f}{each['failed']:8}"
        attack.end()
        report.line(f"{text}{(server.process.memory - start) / 2**20:13.1f}")
        reasons = {reason for each in found for reason in each["reasons"]}
        if reasons:
            report.line(f"  failed: {', '.join(sorted(reasons))}")
        worst = max((time for each in found for time in each["latencies"]), default=float("inf"))
        if reasons or worst >= ATTACKED_AIM:
            report.aim(f"{kind}: all in under {ATTACKED_AIM:g} s", False)
    load.do("keep", seconds=10.0)
    kept = load.do("keep", seconds=0.0)
    grown = (server.process.memory - start) / 2**20
    report.line(
        f"10 s after the attacks: {grown:+.1f} MiB of memory; {kept['lost']} of the peers were lost, "
        f"{kept['lost_earlier']} of the {ATTACKED_PEERS} that were registered before"
    )
    if not report.missed:
        report.aim(f"all succeed in under {ATTACKED_AIM:g} s", True)


def in_namespace(arguments: Sequence[str]) -> int:
    """Run this program again in a network namespace of its own."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    command = [*unshare, sys.executable, "-m", "benchmarks.rendezvous", *arguments, "--in-namespace"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def describe() -> str:
    """The machine and the versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("txpunch", "twisted", "pyOpenSSL", "cryptography")
    )
    machine = f"{os.cpu_count()} × {(models or [platform.machine()])[0]}"
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{machine}, {system}\n{versions}"


def main() -> int:
    """Print the tables; the exit status says whether the aims are met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0].strip())
    parser.add_argument("--peers", type=int, default=15_000, help="held by one process (default 15000)")
    parser.add_argument("--only", default="one,bare,two", help="parts, of one,bare,two,attacks")
    parser.add_argument("--attacks", action="store_true", help="the attacks as well")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each attack (default 6)")
    parser.add_argument(
        "--groups", default=GROUPS, help=f"of the key exchange (default {GROUPS}, as peers have)"
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="of attacks (default: all)")
    parser.add_argument("--in-namespace", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    parts = set(options.only.split(",")) | ({"attacks"} if options.attacks else set())
    if options.peers < 1000 or not parts <= {"one", "bare", "two", "attacks"}:
        parser.error("--peers is at least 1000, and --only takes one, bare, two and attacks")
    for program in ["redis-server"] * ("two" in parts) + ["unshare", "ip"] * ("attacks" in parts):
        if shutil.which(program) is None:
            print(f"{program} is not installed.")
            return 2
    report = Report()
    if not options.in_namespace:
        report.line(describe())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < descriptors_for(options.peers + 2 * WINDOW):
        print(f"{hard} open files are too few for {options.peers} peers; raise the limit (ulimit -n).")
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lab = Lab(stack, directory, cores[:2], set(cores[1:] or cores), options.groups)
        if options.in_namespace:
            prepare_namespace()
            attacks(lab, report, options.kinds.split(","), options.seconds)
            return int(bool(report.missed))
        one = None
        if "one" in parts:
            one = held(lab, report, lab.punch(cores[0], options.peers + 2 * WINDOW), "punch", options.peers)
        if "bare" in parts:
            bare = held(lab, report, lab.bare(cores[0]), "bare TLS line server", options.peers)
            if one is not None:
                for what, rate in one.items():
                    report.line(f"  punch: {what} at {bare[what].cpu / rate.cpu:.2f} of its rate")
        if "two" in parts:
            report.line(f"\none process, {TWO_PEERS:,} peers")
            few = compare(lab, report, [lab.punch(cores[0], TWO_PEERS)])
            several(lab, report, few, cores=1)
            several(lab, report, few, cores=2)
    status = int(bool(report.missed))
    if "attacks" in parts:
        seconds = ("--seconds", str(options.seconds), "--groups", options.groups)
        status |= in_namespace(["--only", "attacks", "--kinds", options.kinds, *seconds])
    return status


if __name__ == "__main__":
    sys.exit(main())
