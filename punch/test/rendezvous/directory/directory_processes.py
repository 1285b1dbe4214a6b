"""Processes with a directory in a simulated Redis, and runs in which both fail at random."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import txredisapi  # noqa: F401 (it asks for a reactor when it is imported, and tests have none)

from punch.identity import PeerID, RandomBytes
from punch.rendezvous.directory.messages import PeerLost, PeerReply, PeerRequest
from punch.rendezvous.directory.redis import RedisDirectory
from punch.rendezvous.directory.redis_address import RedisAddress
from punch.test.internet import Internet
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis
from punch.test.strategies import IDENTITIES
from punch.test.system import EPOCH

REDIS = "198.51.100.9"


class Process:
    """One process of the service, as the user of its directory, which notes what it is told."""

    def __init__(
        self,
        net: Internet,
        number: int,
        *,
        key: bytes = b"key",
        url: str = f"redis://{REDIS}",
        wall: Callable[[], float] | None = None,
        name: str = "",
        random: RandomBytes | None = None,
    ) -> None:
        self.net = net
        self.host = net.host(f"process {number}", f"198.51.100.{number}")
        self.problems: list[str | None] = []
        self.directory = RedisDirectory(
            RedisAddress.parse(url),
            secret=key,
            reactor=self.host.reactor,
            monotonic=self.host.monotonic,
            wall=wall or (lambda: EPOCH + net.now),
            random=random or net.random_bytes(f"process {name or number}"),
            report=lambda problem: self.problems.append(problem),
        )
        self.peers: dict[PeerID, None] = {}
        self.needs: set[str] = set()
        self.messages: list[tuple[str, object]] = []
        self.replaced: list[PeerID] = []
        self.gone: list[str] = []
        self.lost: list[PeerRequest] = []
        self.awaited: list[PeerID] = []
        self.returned: list[PeerID] = []
        self.directory.start(self)

    @property
    def name(self) -> str:
        return self.directory.name

    def register(self, peer: PeerID) -> None:
        self.peers[peer] = None
        self.directory.claim(peer)

    def leave(self, peer: PeerID) -> None:
        del self.peers[peer]
        self.directory.release(peer)

    def await_return(self, peer: PeerID) -> None:
        self.awaited.append(peer)
        self.directory.await_return(peer)

    def locate(self, peer: PeerID) -> str | None:
        """Ask, and wait for the answer."""
        return self.net.wait(self.directory.locate(peer), 5.0)

    # DirectoryUser

    def depends_on(self) -> set[str]:
        return self.needs

    def message_received(self, process: str, message: PeerRequest | PeerReply | PeerLost) -> None:
        self.messages.append((process, message))

    def peer_replaced(self, peer: PeerID) -> None:
        self.replaced.append(peer)
        self.leave(peer)

    def peer_returned(self, peer: PeerID) -> None:
        self.returned.append(peer)
        if peer in self.awaited:
            self.awaited.remove(peer)

    def awaited_peers(self) -> list[PeerID]:
        return self.awaited

    def process_lost(self, process: str) -> None:
        self.gone.append(process)

    def request_lost(self, message: PeerRequest) -> None:
        self.lost.append(message)


def run_seed(net: Internet, seed: int, steps: int = 60) -> list[str]:
    """
    Let peers come and go, and processes and Redis fail, at random; then let all be well.

    :return: what is wrong at the end. Each peer is to be at one process at most, the one where it registered
        last, and where the directory says.
    """
    random = Random(seed)
    redis = SimulatedRedis(net, net.host("redis", REDIS))
    processes = [Process(net, number, name=f"{seed}-{number}") for number in (1, 2, 3)]
    peers = [identity.peer_id for identity in IDENTITIES]
    newest: dict[PeerID, Process] = {}
    running = True
    for _ in range(steps):
        net.advance(random.choice((0.01, 0.1, 1.0, 3.0)))
        event, peer, process = random.random(), random.choice(peers), random.choice(processes)
        if event < 0.5:
            if peer in process.peers:
                process.leave(peer)
                if newest.get(peer) is process:
                    del newest[peer]
            else:
                process.register(peer)
                newest[peer] = process
        elif event < 0.6:
            redis.data.clear()
        elif event < 0.8:
            (redis.stop if running else redis.start)()
            running = not running
        else:
            redis.delay = random.choice((0.0, 0.0, 0.2, 5.0))
    redis.delay = 0.0
    if not running:
        redis.start()
    net.advance(15.0)
    wrong = [
        f"{process.name}: {process.directory.problem}" for process in processes if process.directory.problem
    ]
    for peer in peers:
        holders = [process for process in processes if peer in process.peers]
        if len(holders) > 1 or (peer in newest and holders != [newest[peer]]):
            wrong.append(f"{peer.short} is at {[process.name for process in holders]}")
        for process in processes:
            expected = holders[0].name if holders and holders[0] is not process else None
            if process.locate(peer) != expected:
                wrong.append(f"{peer.short} is not where the directory says")
    for process in processes:
        process.directory.stop()
    net.advance(1.0)
    return wrong
