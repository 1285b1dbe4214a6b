"""
Gathering server-reflexive candidates (RFC 8445, section 5.1.1.2): those that reflectors see, and those at
ports that routers map.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from punch.ice.candidates import MAPPED_PREFERENCE, MAX_REFLEXIVE, LocalCandidates
from punch.ice.port_mapper import mapped_addresses
from punch.ice.transactions import RTO, Purpose, Transaction
from punch.identity import RandomBytes
from punch.wire.address import Address, Transmit
from punch.wire.peers.candidate import Candidate
from punch.wire.stun import StunMessage, binding_request, mapped_address

REQUESTS = 3
"""How many requests a reflector gets from one base: after 0, 0.5 and 1.5 s."""
LAST_WAIT = 4
"""How many RTOs to wait after the last request: 2 s."""
DEADLINE = 3.5
"""Seconds after which gathering is done in any case."""
REFRESH = 15.0
"""
Seconds between requests that keep a mapping alive during a call (RFC 8445, section 11), or that ask again a
reflector that did not answer.
"""
MAX_QUESTIONS = 32
"""How many pairs of base and reflector are asked at most."""


@dataclass(frozen=True)
class Reflection:
    """A reflector's answer: `mapped` is the reflexive address of `base`."""

    base: Address
    mapped: Address
    reflector: Address


class Gatherer:
    """
    Asks reflectors for the reflexive addresses of our bases.

    Its pacing is separate from that of checks, so that neither delays the other.
    """

    def __init__(self, random: RandomBytes, pacing: float) -> None:
        self.awaits_relayed = False
        """Whether relayed candidates, which are gathered elsewhere, may still follow."""
        self.awaits_mapped = False
        """Whether ports that a router maps, which are asked for elsewhere, may still follow."""
        self._reflected = False
        self._random = random
        self._pacing = pacing
        self._queue: deque[tuple[Address, Address]] = deque()
        self._asked: set[tuple[Address, Address]] = set()
        self._transactions: dict[bytes, Transaction] = {}
        self._refreshes: dict[tuple[Address, Address], float] = {}
        self._next_start = 0.0
        self._deadline: float | None = None
        self._output: list[Transmit] = []

    def start(
        self,
        bases: Iterable[Address],
        reflectors: Sequence[Address],
        now: float,
        *,
        relays: bool = False,
        mappings: bool = False,
    ) -> None:
        """
        Ask each reflector from every base of its family but loopback.

        :param relays: gathering is done only after `awaits_relayed` was set to False.
        :param mappings: the same for `awaits_mapped`.
        """
        self.awaits_relayed = relays
        self.awaits_mapped = mappings
        for reflector in reflectors:
            for base in bases:
                question = (base, reflector)
                if len(self._asked) >= MAX_QUESTIONS or question in self._asked or not _may_ask(*question):
                    continue
                self._asked.add(question)
                self._queue.append(question)
        self._deadline = now + DEADLINE
        self.handle_timer(now)

    def owns(self, transaction_id: bytes) -> bool:
        """Whether an answer with this transaction ID is expected."""
        return transaction_id in self._transactions

    @property
    def unanswered(self) -> bool:
        """Whether reflectors are being asked, and none has answered yet."""
        return self._deadline is not None and not self._refreshes

    def receive(self, answer: StunMessage, remote: Address, local: Address, now: float) -> Reflection | None:
        """
        Process an answer. Reflectors do not sign; the secret transaction ID and the address authenticate
        them.
        """
        transaction = self._transactions.get(answer.transaction_id)
        if transaction is None or (remote, local) != (transaction.remote, transaction.local):
            return None
        del self._transactions[answer.transaction_id]
        mapped = mapped_address(answer)
        if mapped is None:
            return None
        self._refreshes[local, remote] = now + REFRESH
        return Reflection(local, mapped, remote)

    def take_done(self, now: float) -> bool:
        """Whether gathering has ended since the last call."""
        self._reflected |= self._end_reflection(now)
        if not self._reflected or self.awaits_relayed or self.awaits_mapped:
            return False
        self._reflected = False
        return True

    def _end_reflection(self, now: float) -> bool:
        busy = self._queue or any(
            transaction.purpose is Purpose.REFLECTION for transaction in self._transactions.values()
        )
        if self._deadline is None or (busy and now < self._deadline):
            return False
        self._deadline = None
        self._queue.clear()
        self._transactions.clear()
        silent = self._asked.difference(self._refreshes)
        for number, question in enumerate(sorted(silent)):
            self._refreshes[question] = now + REFRESH + number * self._pacing
        return True

    def stop(self) -> None:
        """Stop keeping mappings alive: a path was found, or none is wanted."""
        self._refreshes.clear()

    def datagrams_to_send(self) -> list[Transmit]:
        """Return the datagrams to send now."""
        output, self._output = self._output, []
        return output

    def get_timer(self) -> float | None:
        """When to call `handle_timer`; None: not needed."""
        times = [transaction.next_at for transaction in self._transactions.values()]
        times += self._refreshes.values()
        if self._queue:
            times.append(self._next_start)
        if self._deadline is not None:
            times.append(self._deadline)
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        """Retransmit, end transactions without an answer, and ask the next reflector."""
        for transaction_id, transaction in list(self._transactions.items()):
            self._send(transaction, now)
            if transaction.expired(now):
                del self._transactions[transaction_id]
        for (base, reflector), due in list(self._refreshes.items()):
            if now >= due:
                self._refreshes[base, reflector] = now + REFRESH
                self._ask(base, reflector, Purpose.CONSENT, 1, now)
        if self._queue and now >= self._next_start:
            self._next_start = now + self._pacing
            self._ask(*self._queue.popleft(), Purpose.REFLECTION, REQUESTS, now)

    def _ask(self, base: Address, reflector: Address, purpose: Purpose, requests: int, now: float) -> None:
        transaction_id = self._random(12)
        transaction = Transaction(
            purpose,
            transaction_id,
            binding_request(transaction_id),
            reflector,
            base,
            now,
            rto=RTO,
            requests=requests,
            last_wait=LAST_WAIT,
        )
        self._transactions[transaction_id] = transaction
        self._send(transaction, now)

    def _send(self, transaction: Transaction, now: float) -> None:
        transmit = transaction.handle_timer(now)
        if transmit is not None:
            self._output.append(transmit)


def _may_ask(base: Address, reflector: Address) -> bool:
    loopback = base.host == "::1" or base.host.startswith("127.")
    return base.is_ipv6 == reflector.is_ipv6 and not loopback and base != reflector


class ReflexiveCandidates:
    """
    The server-reflexive candidates of one agent.

    :param candidates: takes them.
    :param found: called with each new one.
    """

    def __init__(self, candidates: LocalCandidates, found: Callable[[Candidate], None]) -> None:
        self._candidates = candidates
        self._found = found
        # What routers map to each base, and the IP addresses at which reflectors and relays have seen it
        self._mapped: dict[Address, Address] = {}
        self._seen: dict[Address, list[str]] = {}

    def add(self, base: Address, mapped: Address, source: str = "") -> bool:
        """
        Add a server-reflexive address of `base`.

        :param source: identifies the server that reported it; mappings of one source share a foundation.
        :return: whether it was new.
        """
        added = self._add(base, mapped, source)
        seen = self._seen.get(base, [])
        if base in self._candidates and mapped.host not in seen and len(seen) < MAX_REFLEXIVE:
            self._seen[base] = [*seen, mapped.host]
            self._add_mapped(base)
        return added

    def add_mapped(self, base: Address, external: Address) -> bool:
        """
        Add the candidates of a port that a router maps to `base`: one at the address that the router names,
        and one at the address that a reflector sees. The router may be wrong, or behind another NAT that
        passes on all ports.

        :return: whether one of them was new.
        """
        self._mapped[base] = external
        return self._add_mapped(base)

    def forget(self, base: Address) -> None:
        """A socket is closed: forget where it was seen."""
        self._seen.pop(base, None)

    def _add_mapped(self, base: Address) -> bool:
        external = self._mapped.get(base)
        if external is None:
            return False
        seen = self._seen.get(base, [])
        addresses = mapped_addresses(base, external, seen)
        # Perhaps only one of them works. With different foundations, the peer checks both without waiting,
        # and with this preference it begins with the one at an address that is certainly ours
        added = [
            self._add(
                base,
                address,
                f"port mapping {address.host}",
                MAPPED_PREFERENCE if address.host in seen else None,
            )
            for address in addresses
        ]
        return any(added)

    def _add(self, base: Address, mapped: Address, source: str, preference: int | None = None) -> bool:
        candidate = self._candidates.add_reflexive(base, mapped, source, preference=preference)
        if candidate is None:
            return False
        self._found(candidate)
        return True
