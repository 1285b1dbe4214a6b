"""When to ask for consent again, and when it is lost (RFC 7675, section 5.1)."""

from __future__ import annotations

from punch.identity import RandomBytes

INTERVAL = 5.0
"""Mean seconds between two consent checks; each interval is 0.8 to 1.2 times as long, by chance."""
EXPIRY = 30.0
"""Seconds after the last answer when nothing may be sent any more."""


class Consent:
    """The consent of the peer to be sent to on one pair."""

    def __init__(self, answered_at: float, random: RandomBytes) -> None:
        """
        :param answered_at: when the newest success response came on this pair, in seconds.
        """
        self._random = random
        self.expires_at = answered_at + EXPIRY
        self.check_at = answered_at + self._interval()
        self.unanswered_since: float | None = None
        """When the first check left that nothing has been heard after."""

    def answered(self, now: float) -> None:
        """A check on this pair was answered, so everything is well for another 30 s."""
        self.expires_at = now + EXPIRY
        self.unanswered_since = None

    def asked(self, now: float) -> None:
        """A consent check left; each is a transaction of its own and not sent again."""
        self.check_at = now + self._interval()
        if self.unanswered_since is None:
            self.unanswered_since = now

    def _interval(self) -> float:
        chance = int.from_bytes(self._random(2), "big") / 65535
        return INTERVAL * (0.8 + 0.4 * chance)
