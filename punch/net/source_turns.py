"""
Whose turn is next, when more comes than can be served.

In a flood from hundreds of networks, with strict turns each network waits for all others. Here, a network
that had no turn lately comes before those that had one. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from punch.net.sources import Source

K = TypeVar("K", bound=Hashable)
P = TypeVar("P", bound=Hashable)
V = TypeVar("V")

REMEMBERED = 16_384
"""Networks, and addresses, whose last turns are remembered."""


class _LastTurns:
    """
    When prefixes had their last turn, the latest one last.

    :param capacity: how many are remembered.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._times: OrderedDict[Hashable, float] = OrderedDict()

    def of(self, prefix: Hashable) -> float:
        """Monotonic seconds; minus infinity if none is remembered."""
        return self._times.get(prefix, -math.inf)

    def had(self, prefix: Hashable, now: float) -> None:
        """A prefix has its turn."""
        self._times[prefix] = now
        self._times.move_to_end(prefix)
        if len(self._times) > self._capacity:
            self._times.popitem(last=False)


class _Prefixes(Generic[P, V]):
    """What waits, by prefix: in the order of last turns, and in that in which prefixes came or had a turn."""

    def __init__(self, turns: _LastTurns) -> None:
        self._turns = turns
        self._by_turn: list[tuple[float, int, P]] = []
        # The place of each prefix in the other order, and its value; the prefix that has waited longest is
        # first
        self._by_wait: dict[P, tuple[tuple[float, int, P], V]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._by_turn)

    def get(self, prefix: P) -> V | None:
        """The value of a prefix; None if it is not here."""
        found = self._by_wait.get(prefix)
        return None if found is None else found[1]

    def put(self, prefix: P, value: V) -> V:
        """Add a prefix, and return its value."""
        self._next += 1
        # The numbers differ, so prefixes are never compared.
        place = self._turns.of(prefix), self._next, prefix
        self._by_wait[prefix] = place, value
        insort(self._by_turn, place)
        return value

    def remove(self, prefix: P) -> None:
        """Remove a prefix that is here."""
        place, _ = self._by_wait.pop(prefix)
        del self._by_turn[bisect_left(self._by_turn, place)]

    def turn(self, *, longest_wait: bool, now: float) -> V:
        """
        Give a prefix its turn, and return its value.

        :param longest_wait: whether to take the prefix that has waited longest, and not the one whose last
            turn was longest ago.
        """
        prefix = next(iter(self._by_wait)) if longest_wait else self._by_turn[0][2]
        value = self._by_wait[prefix][1]
        self.remove(prefix)
        self._turns.had(prefix, now)
        return self.put(prefix, value)

    def latest(self) -> V:
        """The value of the prefix whose last turn was latest."""
        return self._by_wait[self._by_turn[-1][2]][1]


class SourceTurns(Generic[K]):
    """
    What waits, by source.

    Two kinds of turn alternate. One belongs to the network whose last turn was longest ago (those that had
    none come first), so a network that comes now and then does not wait for those that come all the time,
    however many these are. The other one belongs to the network that has waited longest, so a flood from ever
    new networks keeps nobody out. Within a network, its addresses take turns in the same way. Within an
    address the newest comes first: when more come than can be served, most of those that wait have given up.

    :param memory: networks, and addresses, whose last turns are remembered.
    """

    def __init__(self, memory: int = REMEMBERED) -> None:
        self._network_turns, self._address_turns = _LastTurns(memory), _LastTurns(memory)
        self._networks: _Prefixes[Hashable, _Prefixes[Source, list[K]]] = _Prefixes(self._network_turns)
        self._source_of: dict[K, Source] = {}
        self._longest_wait = False

    def __len__(self) -> int:
        """How many wait."""
        return len(self._source_of)

    def add(self, source: Source, key: K) -> None:
        """One more waits."""
        self._source_of[key] = source
        addresses = self._networks.get(source[0])
        if addresses is None:
            addresses = self._networks.put(source[0], _Prefixes(self._address_turns))
        waiting = addresses.get(source)
        if waiting is None:
            waiting = addresses.put(source, [])
        waiting.append(key)

    def remove(self, key: K) -> None:
        """One waits no more. It need not have waited."""
        source = self._source_of.pop(key, None)
        if source is None:
            return
        addresses = self._networks.get(source[0])
        assert addresses is not None
        waiting = addresses.get(source)
        assert waiting is not None
        waiting.remove(key)
        if not waiting:
            addresses.remove(source)
        if not len(addresses):
            self._networks.remove(source[0])

    def pop(self, now: float) -> K:
        """
        Remove and return the one whose turn it is.

        :param now: monotonic seconds.
        :raise IndexError: none waits.
        """
        if not self._source_of:
            raise IndexError("nothing waits")
        longest_wait, self._longest_wait = self._longest_wait, not self._longest_wait
        addresses = self._networks.turn(longest_wait=longest_wait, now=now)
        key = addresses.turn(longest_wait=longest_wait, now=now)[-1]
        self.remove(key)
        return key

    def last_turn(self, source: Source) -> float:
        """When the network of `source` had its last turn; minus infinity if that is not remembered."""
        return self._network_turns.of(source[0])

    def latest(self) -> K:
        """
        The entry that has waited longest, of the source that had its last turn most recently.

        :raise IndexError: none waits.
        """
        return self._networks.latest().latest()[0]
