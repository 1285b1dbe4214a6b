"""
A peer that has proved its key floods another one with every frame type of RFC 9000 and RFC 9221, over real
sockets: what the victim's process takes of memory and time, and that it goes on.

PUNCH_FLOOD_SECONDS is how long each kind is sent. PUNCH_FLOOD_KINDS is which, with semicolons between, or
`all`, which takes 45 minutes at 60 seconds each.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from itertools import islice
from pathlib import Path

from punch.link.quic.packet import read_frames
from tests.link.link_flooder import ACK_RANGES, CHURN, FORGED
from tests.needs import need_namespaces
from tests.netns import Namespaces
from tests.processes import JSONProcess, Programs, cpu_seconds

FLOODER = str(Path(__file__).with_name("link_flooder.py"))
SECONDS = float(os.environ.get("PUNCH_FLOOD_SECONDS", "1.5"))
RATE = float(os.environ.get("PUNCH_FLOOD_RATE", "2000"))
"""Packets a second, of up to 1,150 bytes of frames each."""
MEMORY = 64 << 20
"""Bytes that the victim's process grows by at most, all kinds after each other (docs/security.md)."""
CPU_OF_LINK = 1.0
CPU_OF_PACKET = 0.005
"""Seconds of processor time at most, for a call and for each packet."""

QUICK = [
    "PADDING",
    "ACK, ranges",
    "CRYPTO",
    "STREAM, gaps",
    "STREAM, large",
    "STREAM, pieces",
    "STREAM, opened and reset",
    "MAX_STREAM_DATA",
    "NEW_CONNECTION_ID",
    "PATH_CHALLENGE",
    "DATAGRAM",
    "DATAGRAM, whole packets",
    "CONNECTION_CLOSE",
    "NEW_TOKEN",
]
REST = [
    "PING",
    "ACK",
    "ACK, ECN",
    "RESET_STREAM",
    "STOP_SENDING",
    "CRYPTO again",
    "STREAM, empty",
    "STREAM, again",
    "STREAM, runs",
    "STREAM, without length",
    "STREAM, the end again",
    "STREAM, opened and stopped",
    "STREAM, opened and ended",
    "STREAM, opened, then reset",
    "MAX_DATA",
    "MAX_STREAMS",
    "MAX_STREAMS, one-way",
    "DATA_BLOCKED",
    "STREAM_DATA_BLOCKED",
    "STREAMS_BLOCKED",
    "STREAMS_BLOCKED, one-way",
    "RETIRE_CONNECTION_ID",
    "PATH_RESPONSE",
    "CONNECTION_CLOSE, application",
    "DATAGRAM, empty",
    "unknown",
    "HANDSHAKE_DONE",
]

_CHOICE = os.environ.get("PUNCH_FLOOD_KINDS")
KINDS = QUICK if _CHOICE is None else QUICK + REST if _CHOICE == "all" else _CHOICE.split(";")


class Memory:
    """The resident memory of a process, watched: `peak` is the most since it was set."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/statm")
        self._over = threading.Event()
        self.peak = self.now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def now(self) -> int:
        """In bytes."""
        return int(self._path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """Watch no more."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, self.now())


def test_kinds() -> None:
    """They are those of the program, and have every frame type of RFC 9000, section 19, and RFC 9221."""
    assert sorted(QUICK + REST) == sorted((ACK_RANGES, *FORGED, *CHURN))
    payloads = [payload for kind in FORGED.values() for payload in islice(kind(), 4)]
    payloads += [frames(b"\x08") for frames in CHURN.values()]
    found = {payload[0] for payload in payloads}
    found |= {frame.frame_type for payload in payloads for frame in read_frames(payload)}
    assert found >= {*range(0x1F), 0x30, 0x31}


def test_every_kind_of_frame(running: Programs) -> None:
    need_namespaces()
    with Namespaces() as namespaces:
        # Its only network is the loopback interface, so that nothing leaves this machine.
        prefix = namespaces.host("flood").prefix
        rendezvous = running.rendezvous("--host", "127.0.0.1", state="state-service", prefix=prefix)
        address = rendezvous.wait("listening")["address"]
        options = ("--rendezvous", address, "--accept", "anyone")
        victim = running.peer("victim", *options, prefix=prefix)
        victim_id = victim.wait("ready")["id"]
        victim.wait("registered")
        talk(running, victim, victim_id, address, prefix)
        flood(running, victim, victim_id, address, prefix, KINDS)
        talk(running, victim, victim_id, address, prefix)
        assert "Traceback" not in victim.stderr, victim.stderr


def flood(
    running: Programs,
    victim: JSONProcess,
    victim_id: str,
    address: str,
    prefix: list[str],
    kinds: list[str],
) -> None:
    """Send these kinds in turn, and measure."""
    memory = Memory(victim.process.pid)
    start = memory.now()
    arguments = [sys.executable, FLOODER, address, victim_id, str(SECONDS), str(RATE), *kinds]
    attacker = running.start(arguments, prefix=prefix)
    attacker_id = attacker.wait("registered")["id"]
    print(f"start: {start >> 20} MiB")
    problems = []
    try:
        for kind in kinds:
            assert attacker.wait("began")["kind"] == kind
            memory.peak, before, cpu = memory.now(), memory.now(), cpu_seconds(victim.process.pid)
            while (event := attacker.wait(("call", "ended"), SECONDS + 60.0))["event"] == "call":
                victim.command("call", peer=attacker_id)
            took = cpu_seconds(victim.process.pid) - cpu
            packets, links = sum(event["packets"]), len(event["packets"])
            print(
                f"{kind}: RSS {before >> 20}, at most {memory.peak >> 20}, then {memory.now() >> 20} MiB; "
                f"CPU {took:.2f} s; {packets} packets, of each link {event['packets']}: {event['endings']}",
                flush=True,
            )
            if packets == 0:
                problems.append(f"{kind}: nothing was sent")
            if memory.peak > start + MEMORY:
                problems.append(f"{kind}: {memory.peak - start >> 20} MiB more than at the start")
            if took > CPU_OF_LINK * (links + 1) + CPU_OF_PACKET * packets:
                problems.append(f"{kind}: {took:.2f} s of CPU for {packets} packets, {links} links")
            asked = time.monotonic()
            victim.command("status", request=1)
            victim.wait("result", where=lambda event: event.get("request") == 1)
            print(f"    status after {time.monotonic() - asked:.2f} s")
        assert attacker.exit() == 0, attacker.said()
    finally:
        memory.stop()
    assert not problems, problems


def talk(running: Programs, victim: JSONProcess, victim_id: str, address: str, prefix: list[str]) -> None:
    """An honest peer calls the victim, and its message gets there."""
    text = f"hello {time.monotonic()}"
    honest = running.peer("honest", "--rendezvous", address, "--peer", victim_id, prefix=prefix)
    honest.wait("connected")
    honest.command("send", text=text)
    victim.wait("message", where=lambda event: event["text"] == text)
    honest.wait("delivered")
    honest.command("quit")
    assert honest.exit() == 0, honest.said()
