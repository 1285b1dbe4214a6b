"""
Whether an offer is new, or a copy of one that was recorded: replay protection for calls, also across
restarts.

A caller signs the time of its clock into each offer. The callee keeps the newest time that it has taken from
each caller, and takes only a greater one that is near the time of its own clock. For every other offer, it
sends a *challenge*, 16 random bytes, and the caller calls again with that in its offer. So clocks may be
wrong by any amount, and what was kept may be lost: honest calls then take one more round trip, and a recorded
offer is still useless.

The times of known callers are written to the disk before their offers are taken. Those of strangers are kept
in memory, because anybody could have us write a file several times a second. For them, a time that is a
minute ahead of all that may be taken now is written once a minute at most: after a restart, callers that
are not in the file are asked if their offers are not newer than that.

Offers of old releases have no time. Digests of those that known peers sent are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from punch.identity import PeerID, RandomBytes
from punch.wire import strict_json
from punch.wire.fields import FieldError, binary, field, integer, mapping, sequence, to_base64
from punch.wire.peers.sealed import CHALLENGE_SIZE, MAX_TIME, Offer

WINDOW = 300.0
"""
By how many seconds an offer's time and this clock may differ. If it is more, the caller is sent a challenge.
"""
CHALLENGE_TIME = 60.0
"""Seconds for which a challenge can be answered."""
MAX_CHALLENGES = 64
"""Strangers whose answers to a challenge are waited for at once."""
MAX_CALLERS = 512
"""
Known callers whose answers to a challenge are waited for at once. The newest time is also kept for this many
known callers and this many strangers. A caller that is forgotten to make room is asked at its next call.
"""
RESERVE = 60.0
"""Seconds after a write for strangers before the next one."""
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

    :ivar floor: callers of whom no time is remembered count as having used all times up to this one, in
        milliseconds since 1970.
    :ivar newest: the newest time taken from each known caller; the caller that was silent for longest comes
        first.
    :ivar strangers: the same for strangers. It is not encoded.
    :ivar untimed: digests of offers without a time, of each caller, the oldest first.
    """

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.newest: dict[PeerID, int] = {}
        self.strangers: dict[PeerID, int] = {}
        self.untimed: dict[PeerID, deque[bytes]] = {}

    def newest_of(self, caller: PeerID) -> int:
        """Return the newest time that the caller may have used, in milliseconds since 1970."""
        return self.newest.get(caller, self.strangers.get(caller, self.floor))

    def take(self, caller: PeerID, time: int, latest: int = MAX_TIME, *, known: bool = True) -> None:
        """
        An offer of this time is taken.

        :param latest: the greatest time that could be taken now without a challenge.
        """
        self.newest.pop(caller, None)
        self.strangers.pop(caller, None)
        self.untimed.pop(caller, None)
        table = self.newest if known else self.strangers
        table[caller] = time
        if len(table) > MAX_CALLERS:
            # One caller's clock that is far ahead must not have all others asked.
            self.floor = max(self.floor, min(latest, table.pop(next(iter(table)))))

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

    def encode(self, floor: int = 0) -> bytes:
        """
        Return the content of the file; at most 60 kB.

        :param floor: is written in place of `self.floor` if it is greater.
        """
        return strict_json.dumps(
            {
                "format": _FORMAT,
                "floor": max(self.floor, floor),
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

    :param wall: returns seconds since 1970.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._last = -1

    def next(self) -> int:
        """Return the time for the next offer, in milliseconds since 1970."""
        self._last = min(MAX_TIME, max(milliseconds(self._wall()), self._last + 1))
        return self._last


class _Challenges:
    """
    The challenges that are not answered yet.

    :param limit: how many callers are waited for.
    """

    def __init__(self, random: RandomBytes, limit: int) -> None:
        self._random = random
        self._limit = limit
        self._waiting: dict[PeerID, tuple[bytes, float]] = {}

    def to(self, caller: PeerID, now: float) -> bytes:
        """Return the challenge to a caller, a new one if there is none. The oldest one makes room."""
        sent = self._waiting.get(caller)
        if sent is not None and now < sent[1]:
            return sent[0]
        self._waiting.pop(caller, None)
        challenge = self._random(CHALLENGE_SIZE)
        self._waiting[caller] = challenge, now + CHALLENGE_TIME
        if len(self._waiting) > self._limit:
            del self._waiting[next(iter(self._waiting))]
        return challenge

    def answered(self, caller: PeerID, challenge: bytes, now: float) -> bool:
        """Whether this is the answer to a challenge that still counts. It counts once."""
        sent = self._waiting.get(caller)
        if sent is None or sent[0] != challenge:
            return False
        del self._waiting[caller]
        return now < sent[1]


class OfferMemory:
    """
    Decides whether offers of others are new.

    :param kept: what was remembered before.
    :param random: for challenges.
    :param save: writes `KeptOffers.encode` to the disk, and returns whether that worked. An offer that can't
        be remembered is taken only with a challenge, which no copy of it could answer.
    """

    def __init__(self, kept: KeptOffers, random: RandomBytes, save: Callable[[bytes], bool]) -> None:
        self._kept = kept
        self._save = save
        self._reserved = kept.floor
        """The times up to this one, of callers that are not in the file, are refused after a restart."""
        self._challenges = _Challenges(random, MAX_CALLERS), _Challenges(random, MAX_CHALLENGES)
        """To known callers, and to strangers."""

    @classmethod
    def in_memory(cls, random: RandomBytes, wall: float) -> OfferMemory:
        """
        Return a memory that ends with the process: callers whose offers were made before it began are asked.

        :param wall: seconds since 1970.
        """
        return cls(KeptOffers(milliseconds(wall)), random, lambda content: True)

    def judge(
        self, caller: PeerID, offer: Offer, digest: bytes, *, known: bool, wall: float, now: float
    ) -> OfferVerdict:
        """
        Decide whether to take an offer. A fresh one is remembered, so that it is not fresh a second time.

        :param known: the caller is in the address book.
        :param wall: seconds since 1970.
        :param now: monotonic seconds.
        """
        kept = self._kept
        # The file may have times of a caller that was known once
        filed = known or caller in kept.newest
        latest = milliseconds(wall + WINDOW)
        before = kept.newest_of(caller)
        if offer.challenge:
            if not any(each.answered(caller, offer.challenge, now) for each in self._challenges):
                return OfferVerdict.STALE
            # The offer before it had a time as well, which may be near our clock's one day.
            time = max(before, offer.time or 0)
            kept.take(caller, time, latest, known=filed)
            if filed and time > before:
                self._write()
            return OfferVerdict.FRESH
        if offer.time is None:
            return self._judge_untimed(caller, digest, known)
        if abs(offer.time - milliseconds(wall)) > WINDOW * 1000 or offer.time <= before:
            return OfferVerdict.STALE
        kept.take(caller, offer.time, latest, known=filed)
        written = self._write() if filed else self._reserve(offer.time, latest)
        return OfferVerdict.FRESH if written else OfferVerdict.STALE

    def challenge(self, caller: PeerID, now: float, *, known: bool) -> bytes:
        """
        Return what the caller has to put into its next offer.

        :param known: the caller is in the address book, so that no stranger takes its place.
        """
        return self._challenges[0 if known else 1].to(caller, now)

    def _reserve(self, time: int, latest: int) -> bool:
        """
        Make sure that this time is refused after a restart. Usually that is so already, and nothing is
        written.
        """
        if time <= self._reserved:
            return True
        before, self._reserved = self._reserved, latest + milliseconds(RESERVE)
        if self._write():
            return True
        self._reserved = before
        return False

    def _write(self) -> bool:
        return self._save(self._kept.encode(self._reserved))

    def _judge_untimed(self, caller: PeerID, digest: bytes, known: bool) -> OfferVerdict:
        kept = self._kept
        if caller in kept.newest or caller in kept.strangers or kept.has_untimed(caller, digest):
            return OfferVerdict.REPEATED
        if known:
            kept.take_untimed(caller, digest)
            self._write()
        return OfferVerdict.FRESH


def milliseconds(wall: float) -> int:
    """Return a clock's time as offers carry it; 0 for a clock that shows a time before 1970."""
    return min(MAX_TIME, max(0, int(wall * 1000)))


def read_offers(content: bytes | None, wall: float, *, new: bool) -> KeptOffers:
    """
    Read the content of the offers' file.

    :param content: the content; None if there is no file.
    :param new: the identity is new, so nobody can have recorded an offer to it.
    :return: what the file says. If it is missing or damaged, all callers count as having used every time that
        could still be taken, so their next offers are answered with a challenge.
    """
    if content is not None:
        try:
            return KeptOffers.decode(content)
        except ValueError:
            pass
    elif new:
        return KeptOffers(0)
    return KeptOffers(milliseconds(wall + WINDOW))
