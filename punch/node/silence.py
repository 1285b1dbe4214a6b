"""
When a path that answers checks is of no use to the link: what the link sends on it gets no answer.

Something on the way may let checks through and nothing else. A pure core: it is told what is sent and heard,
and says when to take another path. QUIC sends again what is not acknowledged, so a link with data on the way
is never quiet for long, while one that only acknowledges sends once.
"""

from __future__ import annotations

HANDSHAKE_WAIT = 1.5
"""Seconds that a handshake may get no answer: its first packet, and once more after a second."""
LINK_WAIT = 2.5
"""The same for the data of a link."""
ROUND_TRIPS = 4
"""Round-trip times that both are at least."""
LINK_TURNS = 3
"""How often the link has sent something by then."""
TURN = 0.05
"""Seconds within which what is sent counts once."""


class Silence:
    """Counts what is sent on the path in use since the other side was heard on it."""

    def __init__(self) -> None:
        self._proved = False
        self._since: float | None = None
        self._last = 0.0
        self._turns = 0

    @property
    def proved(self) -> bool:
        """Whether the handshake is over."""
        return self._proved

    def prove(self) -> None:
        """The handshake is over."""
        self._proved = True
        self.end()

    def sent(self, now: float) -> None:
        """Something of the link was sent."""
        if self._since is None:
            self._since = now
        elif now < self._last + TURN:
            return
        self._last = now
        self._turns += 1

    def end(self) -> None:
        """The other side was heard, or another path is used."""
        self._since, self._turns = None, 0

    def deadline(self, rtt: float | None) -> float | None:
        """
        When the path is to be left, in seconds; None while there is no sign that it should be.

        :param rtt: its round-trip time in seconds, as far as it is known.
        """
        if self._since is None or (self._proved and self._turns < LINK_TURNS):
            return None
        wait = LINK_WAIT if self._proved else HANDSHAKE_WAIT
        return self._since + max(wait, ROUND_TRIPS * (rtt or 0.0))
