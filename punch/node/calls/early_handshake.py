"""
The first packets of a link's handshake, between two peers that have had a direct path before.

Otherwise, only checks are sent to an address that has not answered one. Here, the caller's Initial is sent
together with its first check, and the callee answers it before its own check has been answered. So the first
message arrives two one-way delays earlier. This is done only towards an IP address at which the peer answered
on a direct path from the same network (`punch.node.paths.path_memory`), and is limited for each peer
(`punch.ice.early_budget`). The callee sends at most three times what it received (RFC 9000, section 8.1).

If any of these packets is lost, the handshake begins as on other calls (`LinkCore.start`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from punch.ice.early_budget import EarlyBudget
from punch.link.core import MAX_EARLY_DATAGRAMS
from punch.wire.address import FULL_SIZE, Address, Transmit

GRACE = 0.02
"""Seconds by which the answer to the early Initial may be later than the answer to the check sent with it."""
AMPLIFICATION = 3
"""How many times as many bytes may go to an address as came from it."""
_REQUEST = b"\x00\x01"


class EarlyHandshake:
    """
    What is sent early on one call.

    :param hosts: the IP addresses of the peer to which something may be sent early.
    :param budget: limits it, over all calls with this peer.
    """

    def __init__(self, hosts: Container[str], budget: EarlyBudget) -> None:
        self._hosts = hosts
        self._budget = budget
        self._begun: tuple[Address, float] | None = None
        self._source: Address | None = None
        self._may_reply = 0

    def initial(self, check: Transmit, make: Callable[[], Sequence[bytes]], now: float) -> Sequence[bytes]:
        """
        Return what the caller sends after this check, which leaves from one of its own sockets: once, after
        the first check to an address where that is allowed.

        :param make: returns the datagrams of the Initial.
        """
        if (
            self._begun is not None
            or check.remote.host not in self._hosts
            or not check.data.startswith(_REQUEST)
        ):
            return ()
        if not self._budget.has(check.remote, [FULL_SIZE] * MAX_EARLY_DATAGRAMS, now):
            return ()
        self._begun = check.remote, now
        return self._charged(make(), check.remote, now)

    def wait(self, remote: Address, rtt: float | None, now: float) -> float:
        """
        Return for how many more seconds the caller waits for the answer to its early Initial when a path has
        been found.

        :param remote: the address of the peer on this path.
        :param rtt: the round-trip time of the check that found it, if it was not repeated.
        """
        if self._begun is None or rtt is None or self._begun[0] != remote:
            return 0.0
        return max(0.0, self._begun[1] + rtt + GRACE - now)

    def received(self, datagrams: Sequence[bytes], remote: Address) -> None:
        """
        The callee has received these datagrams of the handshake from an address that has not answered a
        check.
        """
        if self._source is None:
            self._source = remote
        if self._source == remote:
            self._may_reply += AMPLIFICATION * sum(map(len, datagrams))

    def reply(self, datagrams: Sequence[bytes], remote: Address, now: float) -> Sequence[bytes]:
        """Return which of these datagrams the callee sends before the address has answered a check."""
        size = sum(map(len, datagrams))
        if remote != self._source or remote.host not in self._hosts or size > self._may_reply:
            return ()
        if not self._budget.has(remote, [len(data) for data in datagrams], now):
            return ()
        self._may_reply -= size
        return self._charged(datagrams, remote, now)

    def _charged(self, datagrams: Sequence[bytes], remote: Address, now: float) -> Sequence[bytes]:
        for data in datagrams:
            self._budget.charge(remote, len(data), now)
        return datagrams
