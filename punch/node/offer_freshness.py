"""
Whether an offer is new, or a copy of one that was recorded: replay protection for calls, over restarts.

A caller signs the time of its clock into each offer. The callee keeps the newest time that it has taken
from each caller, and takes only a greater one that is near the time of its own clock. For every other offer
it asks back: it sends a *challenge*, 16 random bytes, and the caller calls again with that in its offer. So
clocks may be wrong by any amount, and what was kept may be lost: honest calls then cost one more round trip,
and a recorded offer is still worth nothing.

Offers of releases before this one have no time. Digests of those that known peers sent are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from punch.identity import PeerID, RandomBytes
from punch.wire import strict_json
from punch.wire.fields import FieldError, binary, field, integer, mapping, sequence, to_base64
from punch.wire.sealed import CHALLENGE_SIZE, MAX_TIME, Offer

WINDOW = 300.0
"""Seconds that an offer's time and this clock may differ by before the caller is asked."""
CHALLENGE_TIME = 60.0
"""Seconds for which a challenge can be answered."""
MAX_CHALLENGES = 64
"""Callers whose answers to a challenge are waited for at once."""
MAX_CALLERS = 512
"""Callers whose newest time is kept; who is forgotten for another one is asked at the next call."""
MAX_UNTIMED_CALLERS = 32
"""Callers of older releases whose offers are remembered…"""
MAX_UNTIMED = 16
"""…and how many offers of each."""

_SIZE = 16
_FORMAT = 1
SEEN_ENVELOPES = 4096
"""Offers remembered so that a second copy is refused."""


class SeenEnvelopes:
    """Digests of the latest sealed messages, at most `limit`, to detect copies."""

    def __init__(self, limit: int = SEEN_ENVELOPES) -> None:
        self._order: deque[bytes] = deque()
        self._seen: set[bytes] = set()
        self._limit = limit

    def add(self, digest: bytes) -> bool:
        """Add a digest; return False if it is there already."""
        if digest in self._seen:
            return False
        if len(self._order) >= self._limit:
            self._seen.discard(self._order.popleft())
        self._order.append(digest)
        self._seen.add(digest)
        return True


class OfferVerdict(Enum):
    """What is known about an offer."""

    FRESH = "fresh"
    STALE = "stale"
    """It may be a copy of an old offer: ask the caller."""
    REPEATED = "repeated"
    """It is a copy, or can't be told from one."""


class KeptOffers:
    """
    What is remembered of the offers that were taken.

    :ivar floor: a caller that is not in `newest` may have used any time up to this one, in milliseconds.
    :ivar newest: the newest time taken from each caller, the caller longest not heard of first.
    :ivar untimed: digests of offers without a time, of each caller, the oldest first.
    """

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.newest: dict[PeerID, int] = {}
        self.untimed: dict[PeerID, deque[bytes]] = {}

    def take(self, caller: PeerID, time: int, latest: int = MAX_TIME) -> None:
        """
        An offer of this time is taken.

        :param latest: the greatest time that could be taken now without a challenge.
        """
        self.newest.pop(caller, None)
        self.newest[caller] = time
        self.untimed.pop(caller, None)
        if len(self.newest) > MAX_CALLERS:
            # One caller's clock that is far ahead must not have all others asked.
            self.floor = max(self.floor, min(latest, self.newest.pop(next(iter(self.newest)))))

    def take_untimed(self, caller: PeerID, digest: bytes) -> None:
        """An offer without a time is taken."""
        digests = self.untimed.pop(caller, None) or deque(maxlen=MAX_UNTIMED)
        digests.append(digest[:_SIZE])
        self.untimed[caller] = digests
        if len(self.untimed) > MAX_UNTIMED_CALLERS:
            del self.untimed[next(iter(self.untimed))]

    def has_untimed(self, caller: PeerID, digest: bytes) -> bool:
        """Whether this offer without a time was taken before."""
        return digest[:_SIZE] in self.untimed.get(caller, ())

    def encode(self) -> bytes:
        """As it is kept in a file; at most 60 kB."""
        return strict_json.dumps(
            {
                "format": _FORMAT,
                "floor": self.floor,
                "newest": [[to_base64(caller.key), time] for caller, time in self.newest.items()],
                "untimed": [
                    [to_base64(caller.key), *map(to_base64, digests)]
                    for caller, digests in self.untimed.items()
                ],
            }
        )

    @classmethod
    def decode(cls, content: bytes) -> KeptOffers:
        """:raise ValueError: it is damaged, or of a newer release."""
        fields = mapping(strict_json.loads(content))
        field(fields, "format", integer(_FORMAT, _FORMAT))
        kept = cls(field(fields, "floor", integer(0, MAX_TIME)))
        for caller, time in field(fields, "newest", sequence(_pair, MAX_CALLERS)):
            kept.newest[caller] = time
        for caller, digests in field(fields, "untimed", sequence(_digests, MAX_UNTIMED_CALLERS)):
            kept.untimed[caller] = deque(digests, maxlen=MAX_UNTIMED)
        return kept


def _caller(value: object) -> PeerID:
    # It was checked when it called, which takes too long for hundreds of keys
    return PeerID(binary(32, 32)(value))


def _pair(value: object) -> tuple[PeerID, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise FieldError("must be a caller and a time")
    return _caller(value[0]), integer(0, MAX_TIME)(value[1])


def _digests(value: object) -> tuple[PeerID, list[bytes]]:
    if not isinstance(value, list) or not value:
        raise FieldError("must be a caller and digests")
    return _caller(value[0]), [binary(_SIZE, _SIZE)(digest) for digest in value[1:]]


class OfferTimes:
    """
    The times that our own offers carry: those of the clock, but each greater than the one before.

    :param wall: seconds since 1970.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._last = -1

    def next(self) -> int:
        """Milliseconds since 1970."""
        self._last = min(MAX_TIME, max(milliseconds(self._wall()), self._last + 1))
        return self._last


class OfferMemory:
    """
    Judges offers of others.

    :param kept: what was remembered before.
    :param random: for challenges.
    :param save: makes `KeptOffers.encode` outlive this process; whether that worked. An offer that can't be
        remembered is taken only with a challenge, which no copy of it could answer.
    """

    def __init__(self, kept: KeptOffers, random: RandomBytes, save: Callable[[bytes], bool]) -> None:
        self._kept = kept
        self._random = random
        self._save = save
        self._challenges: dict[PeerID, tuple[bytes, float]] = {}

    def judge(
        self, caller: PeerID, offer: Offer, digest: bytes, *, known: bool, wall: float, now: float
    ) -> OfferVerdict:
        """
        Whether to take an offer; a fresh one is remembered, and not fresh a second time.

        :param known: the caller is in the address book.
        :param wall: seconds since 1970.
        :param now: monotonic seconds.
        """
        kept = self._kept
        latest = milliseconds(wall + WINDOW)
        if offer.challenge:
            if not self._answers(caller, offer.challenge, now):
                return OfferVerdict.STALE
            # The offer before it had a time as well, which may be near our clock's one day.
            before = kept.newest.get(caller, kept.floor)
            kept.take(caller, max(before, offer.time or 0), latest)
            if kept.newest[caller] > before:
                self._save(kept.encode())
            return OfferVerdict.FRESH
        if offer.time is None:
            return self._judge_untimed(caller, digest, known)
        newest = kept.newest.get(caller, kept.floor)
        if abs(offer.time - milliseconds(wall)) > WINDOW * 1000 or offer.time <= newest:
            return OfferVerdict.STALE
        kept.take(caller, offer.time, latest)
        return OfferVerdict.FRESH if self._save(kept.encode()) else OfferVerdict.STALE

    def challenge(self, caller: PeerID, now: float) -> bytes:
        """What the caller has to put into its next offer."""
        known = self._challenges.get(caller)
        if known is not None and now < known[1]:
            return known[0]
        self._challenges.pop(caller, None)
        challenge = self._random(CHALLENGE_SIZE)
        self._challenges[caller] = challenge, now + CHALLENGE_TIME
        if len(self._challenges) > MAX_CHALLENGES:
            del self._challenges[next(iter(self._challenges))]
        return challenge

    def _answers(self, caller: PeerID, challenge: bytes, now: float) -> bool:
        known = self._challenges.get(caller)
        if known is None or known[0] != challenge:
            return False
        del self._challenges[caller]
        return now < known[1]

    def _judge_untimed(self, caller: PeerID, digest: bytes, known: bool) -> OfferVerdict:
        kept = self._kept
        if caller in kept.newest or kept.has_untimed(caller, digest):
            return OfferVerdict.REPEATED
        if known:
            kept.take_untimed(caller, digest)
            self._save(kept.encode())
        return OfferVerdict.FRESH


def milliseconds(wall: float) -> int:
    """A clock's time as offers carry it; of a clock before 1970, 0."""
    return min(MAX_TIME, max(0, int(wall * 1000)))


def read_offers(content: bytes | None, wall: float, *, new: bool) -> KeptOffers:
    """
    What the offers' file says.

    :param content: of the file; None if there is none.
    :param new: the identity is new, so nobody can have recorded an offer to it.
    :return: where the file is missing or damaged, that any caller may have used any time that could still be
        taken.
    """
    if content is not None:
        try:
            return KeptOffers.decode(content)
        except ValueError:
            pass
    elif new:
        return KeptOffers(0)
    return KeptOffers(milliseconds(wall + WINDOW))
