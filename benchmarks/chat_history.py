"""
What a long history costs: opening the last page, searching, and memory, with 100,000 messages on the disk.

First the store alone, then a whole peer (`twistd punch-peer --json`) that is asked over its pipe for what a
view asks for when it opens: all conversations and the last page of one; then a chat in a terminal, from its
first line to the last message. Every round is a new process; the file system's cache is warm. The page in the
browser has a benchmark of its own, `web_history.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pty
import resource
import select
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from punch.apps.chat.protocol import MessageReceived
from punch.apps.chat.store import Store
from punch.identity import Identity
from punch.state import StateDirectory

ROUNDS = 5

#: Seconds, seconds, bytes: what is to be kept below.
OPENING, SEARCHING, MEMORY = 0.05, 0.2, 100 * 2**20
#: Seconds: what a view that opens asks for, through a whole peer.
WHOLE_OPENING = 0.3

OURS, THEIRS = b"ours" * 2, b"them" * 2
WORDS = 5000
NAME = "bench"
NOWHERE = "punch://127.0.0.1:1"


def peer(number: int = 1) -> Identity:
    """The same ones in each process."""
    return Identity.generate(lambda count: bytes([number]) * count)


def fill(path: Path, messages: int, peers: int) -> float:
    """Write a history of people who talk; returns seconds."""
    random = Random(1)
    words = [
        "".join(random.choices("abcdefghijklmnopqrstuvwxyzäé", k=random.randint(2, 9))) for _ in range(WORDS)
    ]
    begun = time.perf_counter()
    store = Store(path)
    ids = [peer(number).peer_id for number in range(1, peers + 1)]
    heard = dict.fromkeys(ids, 0)
    for each in ids:
        store.record(each, OURS)
    written = 0
    while written < messages:
        with store.group():
            for _ in range(500):
                who = random.choice(ids)
                text = " ".join(random.choices(words, k=random.randint(3, 20))).capitalize()
                if random.random() < 0.5:
                    store.add(who, OURS, text, float(written))
                else:
                    heard[who] += 1
                    store.receive(who, THEIRS, [MessageReceived(heard[who], text)], float(written))
                written += 1
            for each in ids:
                store.delivered_there(each, 2**62)
                store.read_here(each, None)
                store.delivered_here(each, THEIRS, heard[each])
    store.close()
    return time.perf_counter() - begun


def child(path: Path) -> None:
    """What a process that starts does; prints seconds and bytes."""
    results: dict[str, float] = {"interpreter": _memory()}

    def timed(name: str, call: Callable[[], object]) -> None:
        begun = time.perf_counter()
        call()
        results[name] = time.perf_counter() - begun

    who = peer().peer_id
    begun = time.perf_counter()
    store = Store(path)
    store.waiting()
    store.undelivered_here()
    store.overviews()
    store.history(who, limit=50)
    results["open"] = time.perf_counter() - begun
    timed("page", lambda: store.history(who, limit=50))
    timed("common word", lambda: store.search("ab"))
    timed("rare word", lambda: store.search("zzzqa"))
    timed("no match", lambda: store.search("nothing is like this"))
    timed("no match, one peer", lambda: store.search("nothing is like this", who))
    results["memory"] = _memory()
    print(json.dumps(results))


def whole(state: Path) -> dict[str, float]:
    """What a peer with this state directory does; seconds and bytes."""
    peer_process = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("twistd")), "-n", "punch-peer", "--json"),
            *("--state-dir", str(state), "--name", NAME, "--rendezvous", NOWHERE),
        ],
        cwd=state,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert peer_process.stdin is not None
    assert peer_process.stdout is not None
    who = str(peer().peer_id)

    def wait(event: str) -> None:
        assert peer_process.stdout is not None
        while json.loads(peer_process.stdout.readline())["event"] != event:
            pass

    def ask(**command: object) -> float:
        assert peer_process.stdin is not None
        begun = time.perf_counter()
        peer_process.stdin.write(json.dumps(command).encode() + b"\n")
        peer_process.stdin.flush()
        wait("result")
        return time.perf_counter() - begun

    try:
        wait("ready")
        idle = _resident(peer_process.pid)
        opened = ask(command="conversations") + ask(command="history", peer=who, limit=50)
        searched = max(ask(command="search", text=text) for text in ("ab", "zzzqa", "nothing is like this"))
        return {"open": opened, "search": searched, "idle": idle, "memory": _resident(peer_process.pid)}
    finally:
        peer_process.kill()
        peer_process.wait()


def terminal(state: Path) -> float:
    """Seconds from the first line of a chat in a terminal to the last message of the history there."""
    who = peer().peer_id
    store = Store(StateDirectory(state).peer(NAME).history_path)
    words = store.history(who, limit=1)[0].text.encode()[:20]
    store.close()
    process, screen = pty.fork()
    if process == 0:
        twistd = str(Path(sys.executable).with_name("twistd"))
        os.chdir(state)
        os.environ["TERM"] = "xterm"
        options = ["--state-dir", str(state), "--name", NAME, "--rendezvous", NOWHERE, "--peer", str(who)]
        os.execv(twistd, [twistd, "-n", "punch-peer", *options])
    seen, begun = b"", 0.0
    try:
        while words not in seen:
            if not select.select([screen], [], [], 30.0)[0]:
                raise RuntimeError(f"no history on the screen: {seen!r}")
            seen += os.read(screen, 65536)
            if not begun and b"Your ID" in seen:
                begun = time.perf_counter()
        return time.perf_counter() - begun
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(screen)


def _resident(process: int) -> float:
    """The most that a process has used, in bytes; 0 where the system doesn't say."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return float(status.split("VmHWM:")[1].split()[0]) * 1024


def _memory() -> float:
    """The most that this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    """Print the table; the exit status says whether the aims are met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--peers", type=int, default=10, help="how many they are spread over (default 10)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        state = StateDirectory(Path(directory))
        state.peer(NAME).identity()
        path = state.peer(NAME).history_path
        seconds = fill(path, options.messages, options.peers)
        print(
            f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores; "
            f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
        )
        print(
            f"{options.messages:,} messages with {options.peers} peers: "
            f"{path.stat().st_size / 2**20:.0f} MiB, written in {seconds:.1f} s"
        )
        rounds = []
        for _ in range(ROUNDS):
            output = subprocess.run(
                [sys.executable, __file__, "--child", str(path)], check=True, capture_output=True
            ).stdout
            rounds.append(json.loads(output))
        peers = [whole(Path(directory)) for _ in range(ROUNDS)]
        screens = [terminal(Path(directory)) for _ in range(ROUNDS)]
    median = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    met = True
    for name, aim in (
        ("open", OPENING),
        ("page", OPENING),
        ("common word", SEARCHING),
        ("rare word", SEARCHING),
        ("no match", SEARCHING),
        ("no match, one peer", SEARCHING),
    ):
        met = met and median[name] < aim
        print(f"{name:20}{median[name] * 1000:9.1f} ms   aim {aim * 1000:.0f} ms")
    print(
        f"{'memory':20}{median['memory'] / 2**20:9.0f} MiB ({median['interpreter'] / 2**20:.0f} MiB before)"
    )
    whole_median = {name: statistics.median(each[name] for each in peers) for name in peers[0]}
    for name, aim in (("open", WHOLE_OPENING), ("search", SEARCHING)):
        met = met and whole_median[name] < aim
        print(f"{'a peer: ' + name:20}{whole_median[name] * 1000:9.1f} ms   aim {aim * 1000:.0f} ms")
    screen = statistics.median(screens)
    met = met and whole_median["memory"] < MEMORY and screen < WHOLE_OPENING
    print(f"{'a terminal: open':20}{screen * 1000:9.1f} ms   aim {WHOLE_OPENING * 1000:.0f} ms")
    print(
        f"{'a peer: memory':20}{whole_median['memory'] / 2**20:9.0f} MiB  aim {MEMORY / 2**20:.0f} MiB "
        f"({whole_median['idle'] / 2**20:.0f} MiB before anything was asked)"
    )
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
