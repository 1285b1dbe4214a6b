"""
How soon a link returns to a better path that it had to leave (route flap damping, RFC 2439, for the paths of
one link).

A path may answer each connectivity check and lose what the link sends, or work for some seconds at a time.
Each return to it costs the link up to three seconds. So a better path that was left within `STEADY` seconds
is not taken again for a while, as long as a worse one works, and no attempt is made to find it. Paths that
are better still are looked for meanwhile.
"""

from __future__ import annotations

from punch.ice.pairs import Pair, PathKind

STEADY = 60.0
"""Seconds that a better path must have lasted so that its loss says nothing about later ones."""
FREE = 1
"""How many better paths in a row may be left within `STEADY` seconds before the next one has to wait."""
WAITS = 30.0, 300.0
"""Seconds that it waits: the first time, and at most. The wait doubles each time."""


class FlapDamping:
    """
    The flap damping of one link, over all of its ICE sessions.

    :ivar short_lived: how many better paths in a row have not lasted for `STEADY`.
    """

    def __init__(self) -> None:
        self.short_lived = 0
        self._pair: Pair | None = None
        # When the current path took the place of a worse one, and its kind; None: it did not
        self._better_since: float | None = None
        self._worse = PathKind.RELAYED_TWICE
        # The best kind of those that did not last, and from when until when none up to it is taken
        self._kind: PathKind | None = None
        self._held = float("-inf"), float("-inf")

    def selected(self, pair: Pair, now: float) -> bool:
        """
        The link takes this pair from now on.

        :return: whether this has changed something: better paths have to wait from now on, or no longer have
            to.
        """
        before, self._pair = self._pair, pair
        if before is None or pair.kind == before.kind:
            return False
        if (pair.local_base, pair.remote_address) == (before.local_base, before.remote_address):
            # More is known about the kind of the same path
            self._better_since = self._better_since if pair.kind > self._worse else None
            return False
        if pair.kind > before.kind:
            self._better_since, self._worse = now, before.kind
            return False
        since, self._better_since = self._better_since, None
        if since is None:
            return False
        if now >= since + STEADY:
            return self.clear()
        self.short_lived += 1
        self._kind = before.kind if self._kind is None else max(before.kind, self._kind)
        if self.short_lived <= FREE:
            return False
        self._held = now, now + min(WAITS[0] * 2.0 ** min(self.short_lived - FREE - 1, 10), WAITS[1])
        return True

    def clear(self) -> bool:
        """
        Take better paths at once again: one has lasted, or one of the two sides is in another network.

        :return: whether they had to wait.
        """
        held = self.held is not None
        self.short_lived, self._kind, self._better_since = 0, None, None
        self._held = float("-inf"), float("-inf")
        return held

    @property
    def held(self) -> tuple[PathKind, float] | None:
        """The best kind that has to wait while a worse path works, and until when; None: no kind has to."""
        kind, until = self._kind, self._held[1]
        return None if kind is None or self.short_lived <= FREE else (kind, until)

    def allowed_at(self, kind: PathKind, part: float = 1.0) -> float:
        """
        Return from when on a path of this kind may be looked for.

        :param part: which part of the wait has to be over: the other side may have left the path earlier.
        """
        held = self.held
        if held is None or kind > held[0]:
            return float("-inf")
        since, until = self._held
        return since + part * (until - since)
