"""
The path of a link: when it is left because data of the link stays unanswered (`UnansweredData`), whether a
relay slows it down (`SlowedPath`), and which changes of it are announced (`DebouncedPath`).
"""

from __future__ import annotations

from collections.abc import Callable

from punch.link.status import Path
from punch.wire.address import Address
from punch.wire.stun_attributes import RelayLimit

HANDSHAKE_WAIT = 1.5
"""Seconds that a handshake may stay unanswered: its first packet, and one repetition after a second."""
LINK_WAIT = 2.5
"""Seconds that data of a proved link may stay unanswered."""
ROUND_TRIPS = 4
"""Both times are at least so many round-trip times."""
LINK_BURSTS = 3
"""Bursts of a proved link that must have stayed unanswered by then."""
POSTPONED = 0.5
"""Seconds after which it is decided again about a path that has not answered a check in the meantime."""
BURST = 0.05
"""Seconds within which everything that is sent counts as one burst."""
SLOWED = 30.0
"""Seconds for which a path counts as slowed down after its relay has said so: three times its longest gap."""
TOLD_GAP = 2.0
"""The least seconds between two frames that tell the other side so."""
HOLD = 0.5
"""Seconds from the first change of the path to its announcement."""


class UnansweredData:
    """
    Counts what the link has sent on the current path since it last received something there. `IceTransport`
    leaves the path at `deadline`.

    A firewall may let connectivity checks through and nothing else. QUIC repeats what is not acknowledged,
    so a link with data in flight keeps sending, while one that only acknowledges sends once. So the time
    begins with the first burst that is to be acknowledged. If all bursts are acknowledgements, it begins with
    the first one after a pause of more than `LINK_WAIT` seconds.

    :ivar proved: the handshake of the link is over.
    :ivar enough_at: when enough bursts had been sent (`LINK_BURSTS`; one during the handshake), in monotonic
        seconds; None: fewer were sent. The path is left only if it answers a check that was sent later.
    """

    def __init__(self) -> None:
        self.proved = False
        self.enough_at: float | None = None
        self._since: float | None = None
        self._postponed = 0.0
        self._last = 0.0
        self._bursts = 0
        # Whether the newest burst is to be acknowledged, and whether any was since something was received
        self._awaits = self._awaited = False

    def prove(self) -> None:
        """The handshake of the link is over."""
        self.proved = True
        self.end()

    def is_burst(self, now: float) -> bool:
        """Whether what the link sends now is another burst, for which `sent` is to be called."""
        return self._since is None or now >= self._last + BURST

    def sent(self, now: float, awaits: bool) -> None:
        """
        The link has sent a burst.

        :param awaits: something was sent, now or before, that is to be acknowledged and was not yet.
        """
        idle = not self._awaits and now > self._last + LINK_WAIT
        if self._since is None or idle or (awaits and not self._awaited):
            self._since, self._bursts, self.enough_at = now, 0, None
        self._awaits, self._awaited = awaits, awaits or self._awaited
        self._last = now
        self._bursts += 1
        if self._bursts == (LINK_BURSTS if self.proved else 1):
            self.enough_at = now

    def end(self) -> None:
        """The link has received something, or uses another path."""
        self._since = self.enough_at = None
        self._bursts, self._postponed = 0, 0.0
        self._awaits = self._awaited = False

    def postpone(self, now: float) -> None:
        """It is not known yet whether the path answers checks: decide `POSTPONED` seconds later."""
        self._postponed = now + POSTPONED

    def deadline(self, rtt: float | None) -> float | None:
        """
        Return when to leave the path, or None while nothing suggests that.

        :param rtt: its round-trip time in seconds, if it is known.
        """
        if self._since is None or self.enough_at is None:
            return None
        wait = LINK_WAIT if self.proved else HANDSHAKE_WAIT
        return max(self._postponed, self._since + max(wait, ROUND_TRIPS * (rtt or 0.0)))


class SlowedPath:
    """
    Whether a relay at one end of the path drops its datagrams, because more come than it allows. It says so
    every few seconds while it does.
    """

    def __init__(self) -> None:
        self._limit: RelayLimit | None = None
        self._end: Address | None = None
        self._until = 0.0
        self._told_at = float("-inf")

    def learn(self, limit: RelayLimit, end: Address, now: float) -> bool:
        """
        The relay at this address, an end of the path, drops datagrams.

        :return: whether it is the first time since it was silent for `SLOWED`.
        """
        first = self.limit(end, now) is None
        self._limit, self._end, self._until = limit, end, now + SLOWED
        return first

    def limit(self, end: Address, now: float) -> RelayLimit | None:
        """The limit that was exceeded in the last `SLOWED` seconds on a path with this address at its end."""
        return self._limit if end == self._end and now < self._until else None

    def tells(self, now: float) -> bool:
        """
        Whether the other side is to be told now: it is told once in `TOLD_GAP`, whatever the relay says.
        """
        if now < self._told_at + TOLD_GAP:
            return False
        self._told_at = now
        return True


class DebouncedPath:
    """
    Decides which changes of the path are announced: those that last. When the path changes, several pairs may
    be used one after the other within a moment: each side uses the first one that works, and the controlling
    side's nomination arrives a round trip later. Data takes all of them, but applications need to know only
    the last.

    :param announce: called when another path than the last announced one has lasted for `HOLD`.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._announced: Path | None = None
        self._current: Path | None = None
        self._due: float | None = None

    def announced(self, path: Path) -> None:
        """This path was announced by other means."""
        self._current = self._announced = path
        self._due = None

    def lost(self) -> None:
        """The loss of the path was announced: the next path is a change whichever it is."""
        self._announced = self._due = None

    def changed(self, path: Path, now: float) -> None:
        """This is the current path."""
        self._current = path
        if self._due is None and self._announced != path:
            self._due = now + HOLD

    def get_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """Announce the current path if it is time and it is not the announced one."""
        if self._due is None or now < self._due or self._current is None:
            return
        self._due = None
        if self._announced != self._current:
            self._announced = self._current
            self._announce()
