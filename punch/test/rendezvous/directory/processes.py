"""Several processes of a rendezvous in memory, with a directory that is always right."""

from __future__ import annotations

from collections import deque

from punch.identity import PeerID
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.directory.remote_calls import AwaitReturn, Locate, RemoteCalls
from punch.rendezvous.registry.outputs import Deliver, DeliverToProcess, Disconnect, LimitHit
from punch.test.strategies import IDENTITIES
from punch.wire.control import (
    Accept,
    Reply,
)
from punch.wire.peers.sealed import Envelope

ALICE, BOB, CAROL = (identity.peer_id for identity in IDENTITIES[:3])
CALL = "00" * 16


def envelope(to: PeerID, number: int = 0) -> Envelope:
    return Envelope(to, b"body %d" % number, bytes(64))


class Processes:
    """
    Several processes, with a directory that is always right about who claimed last.

    :ivar got: what each peer was told, with the process that told it.
    :ivar hits: the limits that were hit, with the process.
    """

    def __init__(self, *names: str, limits: RendezvousLimits | None = None) -> None:
        self.now = 0.0
        self.limits = limits or RendezvousLimits()
        self.hits: list[tuple[str, LimitHit]] = []
        self.denied: dict[str, set[PeerID | str]] = {}
        """The peers and addresses that each process denies."""
        self.remote_calls = {
            name: RemoteCalls(
                self.limits,
                lambda peer, address, name=name: not self.denied.get(name, set()).isdisjoint({peer, address}),  # type: ignore[misc]
            )
            for name in names
        }
        self.where: dict[PeerID, str] = {}
        self.got: list[tuple[str, int, Reply]] = []
        self.held: deque[tuple[str, Locate]] = deque()
        self.holding = False
        self.awaiting: list[tuple[str, PeerID]] = []
        """The processes that want to be told when a peer is back."""
        self._connections = 0

    def register(self, process: str, peer: PeerID, address: str = "192.0.2.1") -> int:
        """Register a peer; returns its connection."""
        self._connections += 1
        registry = self.remote_calls[process].registry
        registry.register(self._connections, peer, "name", Accept.ASK, address, self.now)
        self.where[peer] = process
        self.run()
        for name, _ in [each for each in self.awaiting if each[1] == peer]:
            self.remote_calls[name].registry.returned(peer, self.now)
        self.awaiting = [each for each in self.awaiting if each[1] != peer]
        self.run()
        return self._connections

    def request(self, process: str, peer: PeerID, connection: int, request: object) -> None:
        """A peer sends a request."""
        registry = self.remote_calls[process].registry
        registry.request(peer, connection, request, self.now)  # type: ignore[arg-type]
        self.run()

    def replies(self, connection: int) -> list[Reply]:
        """What was sent on a connection."""
        return [reply for _, each, reply in self.got if each == connection]

    def kill(self, process: str) -> None:
        """A process dies, and the others notice."""
        del self.remote_calls[process]
        for remote_calls in self.remote_calls.values():
            remote_calls.process_lost(process, self.now)
        self.run()

    def release_held(self) -> None:
        """Answer the questions to the directory that were held."""
        self.holding = False
        while self.held:
            self._locate(*self.held.popleft())
        self.run()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        for remote_calls in self.remote_calls.values():
            remote_calls.registry.handle_timer(self.now)
            remote_calls.handle_timer(self.now)
        self.run()

    def run(self) -> None:
        """Carry everything to where it belongs."""
        busy = True
        while busy:
            busy = False
            for name, remote_calls in list(self.remote_calls.items()):
                while (output := remote_calls.registry.next_output()) is not None:
                    busy = True
                    if isinstance(output, Deliver):
                        self.got.append((name, output.connection, output.reply))
                    elif isinstance(output, Disconnect):
                        self.got.append((name, output.connection, output.error))
                    elif isinstance(output, DeliverToProcess):
                        remote_calls.send(
                            output.process, output.peer, output.reply, output.source, output.address
                        )
                    elif isinstance(output, LimitHit):
                        self.hits.append((name, output))
                while (todo := remote_calls.next_output()) is not None:
                    busy = True
                    if isinstance(todo, Locate):
                        if self.holding:
                            self.held.append((name, todo))
                        else:
                            self._locate(name, todo)
                    elif isinstance(todo, AwaitReturn):
                        self.awaiting.append((name, todo.peer))
                    elif todo.process not in self.remote_calls:
                        remote_calls.process_lost(todo.process, self.now)
                    else:
                        self.remote_calls[todo.process].receive(name, todo.message, self.now)

    def _locate(self, name: str, locate: Locate) -> None:
        found = self.where.get(locate.peer)
        if name in self.remote_calls:
            self.remote_calls[name].located(locate.key, None if found == name else found, self.now)
