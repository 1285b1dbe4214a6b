"""
A file that is sent through two kernel NATs while everything happens to it: the receiver is killed twice, the
public address of the sender's NAT changes, and the sender's machine sleeps.
"""

from __future__ import annotations

import filecmp
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

from tests.needs import need, need_namespaces
from tests.processes import PUNCH, JSONProcess, Programs

from .events import flush, renumber
from .grid import start_rendezvous
from .kernel_network import KernelNetwork, Site
from .test_events import HOMES, sites

MB = 1_000_000
MOST_MEMORY = 100 * MB
"""Of each end, resident, whatever the size of the file."""
LOST = 16 * MB
"""Bytes that may have to be sent again after a kill: what was in flight or not on disk yet."""
RATE = "100mbit"
"""Of the sender's access link, as a small file would be over before anything can happen to it."""


class TransferEnd:
    """A command for files at a site, with a state directory of its own."""

    def __init__(self, running: Programs, site: Site, address: str) -> None:
        self._running = running
        self.site = site
        self._state = running.directory / f"state-{site.name}"
        self._address = address
        self._process: JSONProcess | None = None
        self.memory = 0
        shown = subprocess.run(
            [PUNCH, "id", "--name", "me", "--state-dir", str(self._state)],
            capture_output=True,
            check=True,
            text=True,
        )
        self.id = shown.stdout.split()[0]

    @property
    def process(self) -> JSONProcess:
        assert self._process is not None
        return self._process

    def know(self, other: TransferEnd, name: str) -> None:
        who = ["--name", "me", "--state-dir", str(self._state)]
        subprocess.run([PUNCH, "peers", "add", *who, other.id, name], capture_output=True, check=True)

    def start(self, command: str, *words: str) -> None:
        options = ["--json", "--name", "me", "--state-dir", str(self._state), "--rendezvous", self._address]
        self._process = self._running.start([PUNCH, command, *options, *words], prefix=self.site.host.prefix)

    def note_memory(self) -> None:
        """Note the peak of the resident memory of the process so far."""
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        if found is not None:
            self.memory = max(self.memory, int(found[1]) * 1024)


def test_a_file_through_whatever_happens(
    running: Programs, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """It arrives intact, goes on where it was, and takes little memory."""
    need_namespaces()
    need("conntrack")
    whole = pytestconfig.getoption("--whole-transfer")
    size, asleep = (1 << 30, 60.0) if whole else (60 * MB, 3.0)
    source = tmp_path / "film.mkv"
    with source.open("wb") as file:
        random = Random(1)
        for _ in range(0, size, MB):
            file.write(random.randbytes(MB))
    target = tmp_path / "to"
    target.mkdir()
    with KernelNetwork() as network:
        _, address = start_rendezvous(running, network)
        left, right = sites(network, "files", 1, HOMES)
        if not whole:
            router, interface = left.access
            shape = ["rate", RATE, "burst", "256k", "latency", "50ms"]
            router.run("tc", "qdisc", "add", "dev", interface, "root", "tbf", *shape)
        sender, receiver = (TransferEnd(running, site, address) for site in (left, right))
        sender.know(receiver, "bob")
        receiver.know(sender, "alice")

        def receive() -> None:
            receiver.start("receive", "--yes", "--output", str(target))
            receiver.process.wait("ready", 60.0)

        def killed() -> None:
            receiver.process.kill()
            receive()

        def slept() -> None:
            sender.process.kill(signal.SIGSTOP)
            time.sleep(asleep)
            flush(left)
            sender.process.kill(signal.SIGCONT)

        def reach(position: int) -> None:
            names = ["transfer-progress", "transfer-done"]
            found = sender.process.wait(names, 180.0, lambda event: event.get("position", 0) >= position)
            assert found["event"] == "transfer-progress"

        receive()
        sender.start("send", "--wait", str(source), "bob")
        events = [killed, lambda: renumber(network, left), killed, slept]
        for number, event in enumerate(events, 1):
            reach(size * number // (len(events) + 1))
            for end in (sender, receiver):
                end.note_memory()
            event()
        receiver.process.wait("transfer-done", 180.0)
        receiver.note_memory()
        done = sender.process.wait("transfer-done", 60.0)
        assert sender.process.exit() == 0
    peaks = f"{sender.memory / MB:.0f} MB (sender), {receiver.memory / MB:.0f} MB (receiver)"
    print(f"{size / MB:,.0f} MB, {done['sent'] / MB:,.0f} since the second kill; peak memory: {peaks}")
    assert os.listdir(target) == [source.name]
    assert filecmp.cmp(source, target / source.name, shallow=False)
    # It counts from the last time that the transfer was resumed, after the second kill.
    assert done["sent"] <= size - size * 3 // 5 + LOST
    assert max(sender.memory, receiver.memory) < MOST_MEMORY
