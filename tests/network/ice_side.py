"""
One side of the ICE sessions in `test_ice_interop`:

    python -m tests.network.ice_side ours|aioice CONTROLLING...

For each session (one argument each: 1 if this side begins as the controlling one, else 0, and after a colon a
tiebreaker or nothing) a line with its description is printed, and a line with the other side's is read. Then
datagrams flow both ways; what came of it is the last line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import aioice

from punch.ice.agent import Agent
from punch.ice.checks import IceCredentials
from punch.ice.events import RoleChanged
from punch.net.interfaces import local_addresses
from punch.wire.address import Address
from punch.wire.framing import DatagramKind, classify
from punch.wire.peers.candidate import Candidate
from punch.wire.stun import MessageClass, parse

DATAGRAMS = 1000
INTERVAL = 0.042
"""Seconds between two datagrams: 42 s for all, so that consent is asked for several times."""
TIMEOUT = 20.0
"""Seconds in which the other side's last datagrams come: it may take longer for its own."""
LINGER = 2.0

Description = dict[str, Any]


class PunchAgent(asyncio.DatagramProtocol):
    """Our agent with the sockets of an asyncio program."""

    def __init__(self, controlling: bool, tiebreaker: int | None) -> None:
        def random(size: int) -> bytes:
            # Only the tiebreaker has eight bytes
            return tiebreaker.to_bytes(8, "big") if size == 8 and tiebreaker is not None else os.urandom(size)

        self.agent = Agent(
            controlling=controlling,
            credentials=IceCredentials.generate(os.urandom),
            random=random,
            nomination="regular",
        )
        self.received: set[bytes] = set()
        self.answers = self.requests = self.role_changes = 0
        self.connected = asyncio.Event()
        self._sockets: dict[Address, asyncio.DatagramTransport] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def describe(self) -> Description:
        loop = asyncio.get_running_loop()
        for host in local_addresses():
            transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, 0))
            base = Address(*transport.get_extra_info("sockname")[:2])
            receiver = _Receiver(self, base)
            transport.set_protocol(receiver)
            self._sockets[base] = transport
            self.agent.add_local_address(base)
        self.agent.end_of_local_candidates()
        credentials = self.agent.credentials
        return {
            "ufrag": credentials.ufrag,
            "password": credentials.password,
            "candidates": [str(candidate) for candidate in self.agent.local_candidates],
        }

    async def connect(self, peer: Description) -> None:
        now = time.monotonic()
        self.agent.set_remote(IceCredentials(peer["ufrag"], peer["password"]), 0.05, now)
        for text in peer["candidates"]:
            self.agent.add_remote_candidate(Candidate.parse(text), now)
        self.agent.end_of_remote_candidates()
        self.work()
        await asyncio.wait_for(self.connected.wait(), 10)

    async def send(self, data: bytes) -> None:
        pair = self.agent.selected
        if pair is not None:
            self._sockets[pair.local_base].sendto(data, pair.remote_address)

    async def finish(self) -> Description:
        outcome = {
            "received": len(self.received),
            "controlling": self.agent.controlling,
            "role_changes": self.role_changes,
            "answers": self.answers,
            "requests": self.requests,
            "state": self.agent.state.value,
        }
        self.agent.close(time.monotonic())
        if self._timer is not None:
            self._timer.cancel()
        for transport in self._sockets.values():
            transport.close()
        return outcome

    def receive(self, data: bytes, remote: Address, local: Address) -> None:
        if classify(data) is not DatagramKind.STUN:
            self.received.add(data)
            return
        if self.agent.wants(data) and self.connected.is_set():
            answer = parse(data).message_class is MessageClass.SUCCESS
            self.answers += answer
            self.requests += not answer
        self.agent.receive_datagram(data, remote, local, time.monotonic())
        self.work()

    def work(self) -> None:
        now = time.monotonic()
        self.agent.handle_timer(now)
        for transmit in self.agent.datagrams_to_send(now):
            self._sockets[transmit.local].sendto(transmit.data, transmit.remote)
        while (event := self.agent.next_event()) is not None:
            self.role_changes += isinstance(event, RoleChanged)
        if self.agent.selected is not None:
            self.connected.set()
        if self._timer is not None:
            self._timer.cancel()
        due = self.agent.get_timer()
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - now), self.work)


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, side: PunchAgent, base: Address) -> None:
        self._side, self._base = side, base

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._side.receive(data, Address(*addr[:2]), self._base)


class AioiceAgent:
    """aioice, used as its documentation says."""

    def __init__(self, controlling: bool, tiebreaker: int | None) -> None:
        self.connection = aioice.Connection(ice_controlling=controlling)
        if tiebreaker is not None:
            self.connection._tie_breaker = tiebreaker
        self.received: set[bytes] = set()
        self._began_controlling = controlling
        self._receiving: asyncio.Task[None] | None = None

    async def describe(self) -> Description:
        await self.connection.gather_candidates()
        return {
            "ufrag": self.connection.local_username,
            "password": self.connection.local_password,
            "candidates": [candidate.to_sdp() for candidate in self.connection.local_candidates],
        }

    async def connect(self, peer: Description) -> None:
        self.connection.remote_username = peer["ufrag"]
        self.connection.remote_password = peer["password"]
        for text in peer["candidates"]:
            await self.connection.add_remote_candidate(aioice.Candidate.from_sdp(text))
        await self.connection.add_remote_candidate(None)
        await asyncio.wait_for(self.connection.connect(), 10)
        self._receiving = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        while len(self.received) < DATAGRAMS:
            self.received.add(await self.connection.recv())

    async def send(self, data: bytes) -> None:
        await self.connection.send(data)

    async def finish(self) -> Description:
        outcome = {
            "received": len(self.received),
            "controlling": self.connection.ice_controlling,
            "role_changes": int(self.connection.ice_controlling != self._began_controlling),
        }
        if self._receiving is not None:
            self._receiving.cancel()
        await self.connection.close()
        return outcome


async def session(side: PunchAgent | AioiceAgent, peer: asyncio.Future[Description]) -> Description:
    """From the peer's description to the outcome."""
    await side.connect(await peer)
    for number in range(DATAGRAMS):
        # 0x80 and above is no STUN message (RFC 7983)
        await side.send(b"\x80" + number.to_bytes(4, "big"))
        await asyncio.sleep(INTERVAL)
    deadline = time.monotonic() + TIMEOUT
    while len(side.received) < DATAGRAMS and time.monotonic() < deadline:
        await asyncio.sleep(INTERVAL)
    await asyncio.sleep(LINGER)
    return await side.finish()


async def main(engine: str, arguments: list[str]) -> None:
    """Run one side of all sessions."""
    loop = asyncio.get_running_loop()
    running = []
    for argument in arguments:
        role, _, tiebreaker = argument.partition(":")
        chosen = int(tiebreaker) if tiebreaker else None
        side = (PunchAgent if engine == "ours" else AioiceAgent)(role == "1", chosen)
        print(json.dumps(await side.describe()), flush=True)
        peer: asyncio.Future[Description] = loop.create_future()
        running.append((peer, asyncio.create_task(session(side, peer))))
    for peer, _ in running:
        peer.set_result(json.loads(await loop.run_in_executor(None, sys.stdin.readline)))
    outcomes = await asyncio.gather(*(task for _, task in running), return_exceptions=True)
    print(json.dumps([o if isinstance(o, dict) else {"error": repr(o)} for o in outcomes]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
