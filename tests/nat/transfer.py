"""A file-like transfer between two `--json` peers: many messages, their hash, and the pauses between them."""

from __future__ import annotations

import hashlib
import itertools
import random
import string
import threading
import time
from types import TracebackType

from tests.processes import JSONProcess

from .grid import peer_id

SIZE = 2048
"""Characters of a message."""
RATE = 50.0
"""Messages a second at most: the network is to be tested, not the machine."""
WINDOW = 24
"""Messages that may be without their mark: no more than a pipe holds, so a stalled peer does not stall us."""
_TURN = 0.01

_LETTERS = string.ascii_letters + string.digits


class MessageTransfer:
    """
    Sends messages from one peer to another, in a thread, until it is stopped.

    Nobody else may read the events of the two processes meanwhile.

    :ivar arrivals: when each message arrived, monotonic seconds.
    :ivar broken: events of either side that a link which lives on does not have.
    """

    def __init__(self, sender: JSONProcess, receiver: JSONProcess, seed: int = 0) -> None:
        self.arrivals: list[float] = []
        self.broken: list[str] = []
        self.paths: list[tuple[float, str]] = []
        self._sender = sender
        self._receiver = receiver
        self._ids = peer_id(sender), peer_id(receiver)
        self._random = random.Random(seed)
        self._sent_hash = hashlib.sha256()
        self._received_hash = hashlib.sha256()
        self._sent = 0
        self._delivered = 0
        self._seen = [len(process.settle()) for process in (sender, receiver)]
        self._sending = True
        self._over = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> MessageTransfer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def intact(self) -> bool:
        """Whether all that was sent has arrived, once, in order."""
        same = self._sent_hash.digest() == self._received_hash.digest()
        return same and self._sent == self._delivered == len(self.arrivals)

    def finish(self, timeout: float) -> None:
        """
        Send no more, and wait until all has arrived and is marked as delivered.

        :raise AssertionError: it has not, `timeout` seconds later.
        """
        self._sending = False
        deadline = time.monotonic() + timeout
        while not self.intact and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(_TURN)
        self._over.set()
        self._thread.join()
        if self._problem is not None:
            raise self._problem
        counts = f"{self._sent} messages sent, {len(self.arrivals)} arrived, {self._delivered} marked"
        assert self.intact, f"{counts}; {self.broken}"

    def pause(self, since: float) -> float:
        """The longest time without a message from a moment on, until the last one."""
        times = [since, *(time for time in self.arrivals if time > since)]
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    def _work(self) -> None:
        try:
            start = time.monotonic()
            while not self._over.is_set():
                self._read()
                due = (time.monotonic() - start) * RATE
                while self._sending and self._sent < due and self._sent - self._delivered < WINDOW:
                    self._send()
                time.sleep(_TURN)
        except BaseException as problem:
            self._problem = problem

    def _send(self) -> None:
        text = "".join(self._random.choices(_LETTERS, k=SIZE))
        self._sent_hash.update(text.encode())
        self._sent += 1
        self._sender.command("send", peer=self._ids[1], text=text)

    def _read(self) -> None:
        now = time.monotonic()
        for side, process in enumerate((self._sender, self._receiver)):
            events = process.settle()
            for event in events[self._seen[side] :]:
                name = event["event"]
                if event.get("peer") not in (None, self._ids[1 - side]):
                    continue
                if name == "message" and side == 1:
                    self._received_hash.update(event["text"].encode())
                    self.arrivals.append(now)
                elif name == "delivered" and side == 0:
                    self._delivered += 1
                elif name == "path":
                    self.paths.append((now, event["path"]))
                elif name in ("connected", "disconnected", "failed", "error"):
                    self.broken.append(f"{name}: {event.get('text', '')}")
            self._seen[side] = len(events)
