"""
A service of several processes for a long time: peers that come, call and go, while processes and Redis fail.

Sessions, registries, remote calls and directories are those of the rendezvous; only TLS is left out, and
Redis is simulated. A checker over the events of all processes and peers notes

- calls of which the caller learns no outcome in time (stuck introductions);
- calls and answers that come to a connection that its peer has long replaced, and peers that are not found
  though they have been there for a while (stale entries);
- what is left in the tables when all peers have gone.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

import txredisapi  # noqa: F401 (it asks for a reactor when it is imported, and tests have none)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from punch.identity import Identity, PeerID
from punch.net.driver import Driver, Timed
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.control_session import ControlSession
from punch.rendezvous.directory.connector import DirectoryConnector
from punch.rendezvous.directory.redis import RedisDirectory
from punch.rendezvous.directory.redis_address import RedisAddress
from punch.rendezvous.directory.remote_calls import RemoteCalls
from punch.rendezvous.registry.outputs import Deliver, Disconnect
from punch.test.internet import Internet
from punch.test.rendezvous.directory.simulated_redis import SimulatedRedis
from punch.wire.control import (
    Accept,
    Answer,
    Answered,
    Cancel,
    Ended,
    Error,
    ErrorCode,
    Establish,
    Incoming,
    Ping,
    Probe,
    Probed,
    ProbeOutcome,
    Register,
    Reject,
    Request,
    Trickle,
    Welcome,
)
from punch.wire.control_lines import decode_reply, encode
from punch.wire.peers.sealed import Envelope

REDIS = "198.51.100.9"
BACK_TIME = 10.0
"""Seconds after a failure within which all peers can be called again."""
_LATE = 10.0
"""Seconds that an outcome may be late."""
_PING = 20
_BODY_SIZE = 1200
"""As of an offer with a few candidates."""


def _identity(random: Random) -> PeerID:
    return Identity(Ed25519PrivateKey.from_private_bytes(random.randbytes(32))).peer_id


class _NoProbing:
    port = 0
    addresses: tuple[str, ...] = ()

    def probe(self, peer: PeerID, request: Probe, now: float) -> Probed:
        return Probed(request.transaction, ProbeOutcome.UNAVAILABLE)


class ServiceProcess:
    """
    One process of the service.

    :ivar connected: what takes the lines of each connection.
    """

    def __init__(self, net: Internet, number: int) -> None:
        self.net = net
        self.limits = RendezvousLimits()
        self.host = net.host(f"process {number}", f"198.51.100.{number}")
        self.running = False
        self.started = 0
        self._number = number
        self.connected: dict[int, Callable[[bytes], None]] = {}
        self.sessions: dict[int, ControlSession] = {}
        self.start()

    def start(self) -> None:
        """Start it, with nothing in it."""
        self.running = True
        self.started += 1
        self.remote_calls = RemoteCalls(self.limits)
        self.directory = RedisDirectory(
            RedisAddress.parse(f"redis://{REDIS}"),
            secret=b"key",
            reactor=self.host.reactor,
            monotonic=self.net.monotonic,
            wall=lambda: 1_700_000_000.0 + self.net.now,
            random=self.net.random_bytes(f"process {self._number} {self.started}"),
        )
        self._driver = Driver(self.host.reactor, self.net.monotonic, self._deliver_all, self._cores)
        self._link = DirectoryConnector(
            self.directory, self.remote_calls, self.net.monotonic, self._driver.run
        )
        self._link.start()

    def kill(self) -> None:
        """It ends without a word; its connections are reset."""
        self.running = False
        self.directory.stop()
        self._driver.stop()
        lost, self.connected, self.sessions = self.connected, {}, {}
        for receive in lost.values():
            receive(b"")

    def connect(self, connection: int, peer: PeerID, address: str, receive: Callable[[bytes], None]) -> None:
        """A peer has proved its key. `receive` is called with each line, and with b"" at the end."""
        self.connected[connection] = receive
        self.sessions[connection] = ControlSession(
            self.remote_calls.registry,
            connection,
            peer,
            address,
            reflector_port=3478,
            limits=self.limits,
            now=self.net.now,
            probing=_NoProbing(),
        )

    def line(self, connection: int, request: Request) -> None:
        """A peer sends a line."""
        session = self.sessions.get(connection)
        if session is not None:
            session.receive_line(encode(request), self.net.now)
            self._flush(connection)
            self._driver.run()

    def disconnect(self, connection: int) -> None:
        """A connection is gone."""
        session = self.sessions.pop(connection, None)
        self.connected.pop(connection, None)
        if session is not None:
            session.connection_lost(self.net.now)
            self._driver.run()

    def handle_timers(self) -> None:
        """End the connections on which nothing was heard for long."""
        for connection, session in list(self.sessions.items()):
            session.handle_timer(self.net.now)
            if session.closed:
                self._flush(connection)
        self._driver.run()

    def left(self) -> list[str]:
        """What is in its tables."""
        registry = self.remote_calls.registry
        counts = {
            "connections": len(self.sessions),
            "registrations": len(registry),
            "introductions": registry.introduction_count,
            "calls to other processes": len(self.remote_calls),
            "other processes": len(self.remote_calls.processes),
            "timers": 2 - [registry.get_timer(), self.remote_calls.get_timer()].count(None),
        }
        return [f"process {self._number}: {count} {what}" for what, count in counts.items() if count]

    def _cores(self) -> Sequence[Timed]:
        return self.remote_calls.registry, self.remote_calls

    def _deliver_all(self, now: float) -> bool:
        touched = {}
        while (output := self.remote_calls.registry.next_output()) is not None:
            if isinstance(output, (Deliver, Disconnect)):
                session = self.sessions.get(output.connection)
                if session is not None:
                    touched[output.connection] = session
                    if isinstance(output, Deliver):
                        session.send(output.reply)
                    else:
                        session.close(output.error, now)
            self._link.note(output)
        for connection in touched:
            self._flush(connection)
        return self._link.pass_on() or bool(touched)

    def _flush(self, connection: int) -> None:
        session = self.sessions.get(connection)
        receive = self.connected.get(connection)
        if session is None or receive is None:
            return
        for line in session.lines_to_send():
            receive(line)
        if session.closed:
            self.sessions.pop(connection, None)
            self.connected.pop(connection, None)
            receive(b"")


@dataclass
class _Call:
    to: PeerID
    due: float
    answered: bool = False


@dataclass
class Peer:
    """One peer: at which process it is, on which connection and since when, and its calls."""

    identity: PeerID
    address: str
    wanted: bool = False
    process: ServiceProcess | None = None
    connection: int = 0
    since: float = 0.0
    calls: dict[str, _Call] = field(default_factory=dict)


class Day:
    """
    The service, its peers, and the checker.

    :ivar wrong: what the checker has found.
    :ivar counts: how often things have happened.
    :ivar objects: how many objects there were after a quarter of the time, and at its end.
    """

    def __init__(self, seed: int, peers: int, actions: float = 0.5, processes: int = 3) -> None:
        """:param actions: what peers do in a second, at the most once: come, call, go, or change process."""
        self._actions = actions
        self.net = Internet(seed=seed)
        self.random = Random(seed)
        self.redis = SimulatedRedis(self.net, self.net.host("redis", REDIS))
        self.processes = [ServiceProcess(self.net, number + 1) for number in range(processes)]
        ids = Random(seed)
        self.peers = [
            Peer(_identity(ids), f"203.0.{number // 200}.{number % 200 + 1}") for number in range(peers)
        ]
        self._by_id = {peer.identity: peer for peer in self.peers}
        self.wrong: list[str] = []
        self.counts: dict[str, int] = {}
        self.objects: list[int] = []
        self.healthy_since = 0.0
        self._redis_runs = True
        self._connections = 0
        self._numbers = 0

    def run(self, seconds: int) -> None:
        """Let so many seconds pass, with failures every few minutes; then let all be well, and all go."""
        begun = self.net.now
        for second in range(seconds):
            self._second(second)
            if self.random.random() < 1 / 300:
                self._fail()
            if second in (seconds // 4, seconds - 1):
                gc.collect()
                self.objects.append(len(gc.get_objects()))
        self._mend()
        for second in range(30):
            self._second(second)
        self._check_all_reachable()
        for peer in self.peers:
            self._leave(peer)
        self.net.advance(self.processes[0].limits.ring_time + self.processes[0].limits.answered_time + 20.0)
        for process in self.processes:
            self.wrong += process.left()
            if process.directory.problem is not None:
                self.wrong.append(process.directory.problem)
        for process in self.processes:
            process.directory.stop()
        self.net.advance(4000.0)
        self.wrong += [f"Redis: {key!r}" for key in self.redis.data if self.redis.get(key) is not None]
        self.counts["seconds"] = int(self.net.now - begun)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    # -- what peers do --

    def _second(self, second: int) -> None:
        self.net.advance(1.0)
        random = self.random
        if random.random() < self._actions:
            peer = random.choice(self.peers)
            if not peer.wanted:
                peer.wanted = True
                self._register(peer)
            elif random.random() < 0.1:
                self._leave(peer)
            elif random.random() < 0.1:
                # To another process, and the old one learns of it by Redis only, or when nothing is heard.
                peer.process = None
                self._register(peer)
            else:
                self._call(peer, random.choice(self.peers))
        for index, peer in enumerate(self.peers):
            if peer.process is not None and index % _PING == second % _PING:
                peer.process.line(peer.connection, Ping())
            if peer.calls:
                self._check_calls(peer)
        self.processes[second % len(self.processes)].handle_timers()

    def _register(self, peer: Peer) -> None:
        process = self.random.choice(self.processes)
        if not peer.wanted or peer.process is not None:
            return
        if not process.running:
            self._later(0.5, 1.5, partial(self._register, peer))
            return
        self._connections += 1
        peer.process, peer.connection, peer.since = process, self._connections, self.net.now
        peer.calls.clear()
        receive = partial(self._received, peer, process, peer.connection)
        process.connect(peer.connection, peer.identity, peer.address, receive)
        process.line(peer.connection, Register("name", Accept.ANYONE))

    def _leave(self, peer: Peer) -> None:
        process, peer.process, peer.wanted = peer.process, None, False
        peer.calls.clear()
        if process is not None:
            process.disconnect(peer.connection)

    def _call(self, peer: Peer, other: Peer) -> None:
        if peer.process is None or other is peer or len(peer.calls) >= 8:
            return
        self._numbers += 1
        call = f"{self._numbers:032x}"
        peer.calls[call] = _Call(other.identity, self.net.now + 60.0 + _LATE)
        notify = self.random.random() < 0.5
        peer.process.line(peer.connection, Establish(call, other.identity, self._envelope(other), notify))
        self._count("calls")
        if self.random.random() < 0.1:
            self._later(0.0, 20.0, partial(self._cancel, peer, peer.connection, call))

    def _cancel(self, peer: Peer, connection: int, call: str) -> None:
        found = peer.calls.get(call)
        if found is not None and peer.process is not None and peer.connection == connection:
            del peer.calls[call]
            peer.process.line(connection, Cancel(call, found.to))
            self._count("cancelled")

    def _envelope(self, to: Peer) -> Envelope:
        return Envelope(to.identity, self.random.randbytes(_BODY_SIZE), bytes(64))

    def _later(self, least: float, most: float, function: Callable[[], object]) -> None:
        self.redis.host.reactor.callLater(self.random.uniform(least, most), function)

    def _respond(self, peer: Peer, connection: int, incoming: Incoming) -> None:
        process, caller = peer.process, self._by_id[incoming.sender]
        if process is None or peer.connection != connection:
            return
        chance = self.random.random()
        if chance < 0.7:
            process.line(connection, Answer(incoming.call, caller.identity, self._envelope(caller)))
            for _ in range(2):
                process.line(connection, Trickle(incoming.call, caller.identity, self._envelope(caller)))
            if chance < 0.2:
                self._later(0.0, 50.0, partial(self._hang_up, peer, connection, incoming))
        elif chance < 0.85:
            process.line(connection, Reject(incoming.call, caller.identity, ErrorCode.REFUSED))

    def _hang_up(self, peer: Peer, connection: int, incoming: Incoming) -> None:
        if peer.process is not None and peer.connection == connection:
            peer.process.line(connection, Cancel(incoming.call, incoming.sender))

    # -- what they are told --

    def _received(self, peer: Peer, process: ServiceProcess, connection: int, line: bytes) -> None:
        current = peer.process is process and peer.connection == connection
        if not line:
            if current:
                peer.process = None
                peer.calls.clear()
                self._later(0.5, 1.5, partial(self._register, peer))
            return
        reply = decode_reply(line.rstrip())
        if isinstance(reply, (Incoming, Answered)):
            self._count("delivered" if isinstance(reply, Incoming) else "answered")
            if not current and peer.process is not None and self._settled(peer):
                self.wrong.append(f"{self.net.now}: {reply.call} came to an old connection")
        if not current:
            return
        if isinstance(reply, Incoming):
            self._later(0.0, 5.0, partial(self._respond, peer, connection, reply))
        elif isinstance(reply, Answered) and reply.call in peer.calls:
            call = peer.calls[reply.call]
            call.answered, call.due = True, self.net.now + 60.0 + _LATE
            process.line(connection, Trickle(reply.call, call.to, self._envelope(self._by_id[call.to])))
        elif isinstance(reply, (Ended, Error)) and reply.call in peer.calls:
            found = peer.calls.pop(reply.call)
            self._count(reply.code.value)
            if reply.code is ErrorCode.NOT_REGISTERED and self._settled(self._by_id[found.to]):
                self.wrong.append(f"{self.net.now}: {reply.call} found nobody, and the peer is there")
        elif isinstance(reply, Welcome):
            self._count("registrations")

    def _settled(self, peer: Peer) -> bool:
        """Whether a peer has been where it is for a while, and nothing has failed meanwhile."""
        since = max(peer.since, self.healthy_since) + BACK_TIME
        return peer.process is not None and self._is_healthy() and self.net.now > since

    def _check_calls(self, peer: Peer) -> None:
        for name, call in list(peer.calls.items()):
            if self.net.now > call.due:
                # Of an answered one nothing more is told.
                if not call.answered:
                    self.wrong.append(f"{self.net.now}: the call {name} is stuck")
                del peer.calls[name]

    def _check_all_reachable(self) -> None:
        """Each peer that is there can be called by another one."""
        there = [peer for peer in self.peers if peer.process is not None]
        before = self.counts.get(ErrorCode.NOT_REGISTERED.value, 0)
        for peer in there:
            self._call(self.random.choice(there), peer)
        self.net.advance(10.0)
        for process in self.processes:
            process.handle_timers()
        missing = self.counts.get(ErrorCode.NOT_REGISTERED.value, 0) - before
        if missing:
            self.wrong.append(f"{missing} of {len(there)} peers are not found at the end")

    # -- what fails --

    def _is_healthy(self) -> bool:
        running = all(process.running for process in self.processes)
        return running and self._redis_runs and not self.redis.delay and self.net.drop is None

    def _fail(self) -> None:
        if not self._is_healthy():
            return
        kind = self.random.choice(("kill", "kill", "stop", "flush", "slow", "cut off"))
        self._count(f"failures: {kind}")
        process = self.random.choice(self.processes)
        self.healthy_since = self.net.now
        if kind == "kill":
            process.kill()
        elif kind == "stop":
            self.redis.stop()
            self._redis_runs = False
        elif kind == "flush":
            self.redis.data.clear()
        elif kind == "slow":
            self.redis.delay = 5.0
        else:
            own = process.host.addresses[0]
            self.net.drop = lambda packet: own in (packet.source[0], packet.destination[0])
        self._later(2.0, 40.0, self._mend)

    def _mend(self) -> None:
        self.redis.delay = 0.0
        self.net.drop = None
        if not self._redis_runs:
            self.redis.start()
            self._redis_runs = True
        for process in self.processes:
            if not process.running:
                process.start()
        self.healthy_since = self.net.now
