"""Real peers, killed with -9 at every tenth of a thousand messages each way."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

from tests.processes import JSONProcess, Programs, programs

RENDEZVOUS = (
    "--control",
    "tcp:0:interface=127.0.0.1",
    "--reflector-port",
    "127.0.0.1:0",
    "--host",
    "127.0.0.1",
)
COUNT = 1000
PARTS = 10
#: Seconds that a restarted pair may take to say all that waits.
LONG = 90.0


class ScriptedPeer:
    """
    A script with a state directory, and process after process on it.

    :ivar heard: texts of all `message` events of all processes, and whether they were flagged as repeated.
    :ivar marked: the script's own ids of all messages that were marked as delivered.
    """

    def __init__(self, run: Programs, name: str, rendezvous: str) -> None:
        self._run = run
        self.name = name
        self._rendezvous = rendezvous
        self.id = ""
        self.other = ""
        self.heard: list[tuple[str, bool]] = []
        self.marked: set[str] = set()
        self._taken = 0
        self.start()

    def start(self) -> None:
        """A new process."""
        self._process: JSONProcess = self._run.peer(
            self.name, "--rendezvous", self._rendezvous, "--accept", "anyone"
        )
        self._taken = 0
        self.id = str(self._process.wait("ready")["id"])
        self._process.wait("registered")

    def say(self, first: int, last: int) -> None:
        """Messages of these numbers, under ids of the script's own."""
        for number in range(first, last + 1):
            self._process.command(
                "send", peer=self.other, text=f"{self.name} {number}", id=f"{self.name}-{number}"
            )

    def marks(self) -> int:
        """How many were marked so far."""
        self._take()
        return len(self.marked)

    def kill(self) -> None:
        """Now."""
        self._process.kill()
        self._process.exit()
        time.sleep(0.1)  # for what is still in the pipe
        self._take()

    def kept(self) -> list[dict[str, Any]]:
        """What is on the disk."""
        messages: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            self._process.command("export", after=after, request="all")
            page = self._process.wait("result", where=lambda event: event.get("request") == "all")
            self._take()
            messages += page["messages"]
            after = page["next"]
        return messages

    def _take(self) -> None:
        events = self._process.settle()
        for event in events[self._taken :]:
            if event["event"] == "message":
                self.heard.append((event["text"], bool(event.get("again"))))
            elif event["event"] == "delivered":
                self.marked.add(event["id"])
        self._taken = len(events)

    def waiting(self) -> int:
        """How many messages have no mark."""
        self._process.command("status", request="status")
        status = self._process.wait("result", where=lambda event: event.get("request") == "status")
        self._take()
        return sum(status["waiting"].values())


def test_every_message_once_and_in_order(tmp_path: Path) -> None:
    """A script that goes on where its disk says that it was loses nothing, and repeats nothing."""
    random = Random(1)
    with programs(tmp_path) as run:
        address = run.rendezvous(*RENDEZVOUS).wait("listening")
        alice = ScriptedPeer(run, "alice", address["address"])
        bob = ScriptedPeer(run, "bob", address["address"])
        peers = (alice, bob)
        alice.other, bob.other = bob.id, alice.id
        step = COUNT // PARTS
        for part in range(PARTS):
            for peer in peers:
                peer.say(part * step + 1, (part + 1) * step)
            # In the middle of it, on one side or both
            enough = part * step + random.randrange(step)
            end = time.monotonic() + LONG
            while alice.marks() < enough and time.monotonic() < end:
                time.sleep(0.002)
            victims = [(alice,), (bob,), (bob, alice)][part % 3]
            for victim in victims:
                victim.kill()
            for victim in victims:
                victim.start()
                done = sum(message["outgoing"] for message in victim.kept())
                assert done >= part * step, "what was told to be safe is lost"
                victim.say(done + 1, (part + 1) * step)
        end = time.monotonic() + LONG
        while any(peer.waiting() for peer in peers) and time.monotonic() < end:
            time.sleep(0.2)
        for peer, other in ((alice, bob), (bob, alice)):
            texts = [f"{peer.name} {number}" for number in range(1, COUNT + 1)]
            sent = [message for message in peer.kept() if message["outgoing"]]
            assert [message["text"] for message in sent] == texts
            assert {message["state"] for message in sent} == {"delivered"}
            assert [message["text"] for message in other.kept() if not message["outgoing"]] == texts
            fresh = [text for text, again in other.heard if not again]
            assert len(fresh) == len(set(fresh))
            assert {text for text, _ in other.heard} == set(texts)
            # A mark that was stored when the process was killed was told by the next one.
            assert peer.marked == {text.replace(" ", "-") for text in texts}
