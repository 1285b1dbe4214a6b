"""
Which valid pair of an ICE session is selected, and its nomination (RFC 8445, section 8).

The controlling side selects the best pair and nominates it. The controlled side follows, or uses the best
pair that works until then.
"""

from __future__ import annotations

from enum import Enum

from punch.ice.checklist import CheckList
from punch.ice.consent import EXPIRY, Consent
from punch.ice.pairs import CandidatePair, Impairment, PairState, PathKind
from punch.identity import RandomBytes

SETTLE = 0.5
"""Seconds that regular nomination, which is final, waits for a better pair after the first one."""
SPARES = 2
"""How many valid pairs besides the selected one are kept alive as spares."""
REFRESH = 10.0
"""Seconds between the checks that keep a spare pair alive."""
RETRY = 2.0
"""Seconds between checks of an impaired pair."""
CLEARLY_FASTER = 0.5
"""A pair of the same kind is selected instead if its round-trip time is below this part of the old one's."""
WORTH_MOVING = 0.01
"""The round-trip time of such a pair must also be lower by this many seconds."""


class Nomination(str, Enum):
    """
    How the controlling side nominates. RENOMINATION: at once, and again with an increasing number when there
    is a better pair, as libwebrtc does. REGULAR: one final nomination (RFC 8445, section 8.1.1).
    """

    RENOMINATION = "renomination"
    REGULAR = "regular"


class Selector:
    """Chooses the selected pair, and holds its nomination and its consent."""

    def __init__(
        self,
        checklist: CheckList,
        nomination: Nomination,
        random: RandomBytes,
        *,
        consent: bool,
        size_first: bool = False,
    ) -> None:
        """
        :param size_first: nominate no pair before a check of full size was answered on it, because another
            path may work already. If false, the first pair is used and nominated while that check is pending.
        """
        self.selected: CandidatePair | None = None
        self.consent: Consent | None = None
        self._checklist = checklist
        self._renominates = nomination is Nomination.RENOMINATION
        self._wants_consent = consent
        self._random = random
        self._size_first = size_first and self._renominates
        self._value = 0
        self._nominate_at: float | None = None
        # Whether the selected pair was nominated in the regular way, which is final while it works
        self._committed = False
        # The best kind that is held, until when, and the newest nomination before it was held
        self._held: tuple[PathKind, float] | None = None
        self._held_nomination = 0
        # The best kind that the first pair may have if it is held, and until when
        self._first_limit: tuple[PathKind, float] | None = None

    @property
    def nomination(self) -> int:
        """The value of the selected pair's nomination; 0 in regular nomination."""
        return self._value

    @property
    def repeated_nomination(self) -> int | None:
        """The nomination that consent checks repeat, in case the peer uses another pair; None: none."""
        return self._value if self._renominates and self._checklist.controlling and self._value else None

    @property
    def nominate_at(self) -> float | None:
        """When to nominate the selected pair, in monotonic seconds; None: not now."""
        return self._nominate_at if self._checklist.controlling and self._is_settled() else None

    @property
    def checks_size(self) -> bool:
        """Whether we check pairs in full size before they are relied on: if we choose among them."""
        return self._renominates and self._checklist.controlling

    @property
    def nominated(self) -> bool:
        """Whether the selected pair is the controlling side's choice."""
        pair = self.selected
        if self._checklist.controlling:
            return self._is_settled()
        return pair is not None and pair.nomination is not None

    def needed(self, pair: CandidatePair) -> bool:
        """Whether a check on this pair could lead to a better selected pair."""
        if pair.revoked:
            return False
        selected = self.selected
        if selected is None or selected.impaired or (self.checks_size and not selected.full):
            return True
        return pair.kind > selected.valid_kind

    def take_nomination(self, now: float) -> CandidatePair | None:
        """Return the pair to nominate now, with `nomination`; None if there is none."""
        due = self.nominate_at
        if due is None or now < due:
            return None
        self._nominate_at = None
        self._committed = not self._renominates
        return self.selected

    def hold(self, held: tuple[PathKind, float] | None) -> None:
        """
        While the selected pair works, select no better one of a held kind
        (`punch.ice.generations.FlapDamping`), unless the controlling side nominates it anew.

        :param held: the best kind that is held, and until when; None: any pair may be selected.
        """
        self._held = held
        self._held_nomination = max((pair.nomination or 0 for pair in self._checklist), default=0)

    def limit_first(self, kind: PathKind, until: float) -> None:
        """
        Until this time, do not begin with a pair that is held if its kind is better than this one. The
        session before has a path of this kind that works.
        """
        self._first_limit = kind, until

    @property
    def held_until(self) -> float | None:
        """When `choose` may select better pairs again; None: it may now."""
        if self._held is None:
            return None
        return self._held[1] if self._first_limit is None else min(self._first_limit[1], self._held[1])

    def is_held(self, pair: CandidatePair, now: float) -> bool:
        """Whether this pair is not to be selected now instead of a worse one that works."""
        return self._held is not None and pair.valid_kind <= self._held[0] and now < self._held[1]

    def choose(self, now: float) -> None:
        """Select again, because something about the pairs has changed."""
        if self._held is not None and now >= self._held[1]:
            self._held = None
        if self._first_limit is not None and (self.selected is not None or now >= self._first_limit[1]):
            self._first_limit = None
        if self._checklist.controlling:
            self._select(self._controlling_choice(now), now)
        else:
            current, nominated = self._current(), self._checklist.best_nominated()
            usable = current if current is not None and current.usable else None
            if usable is not None and nominated is not None and self._is_old(nominated, usable, now):
                nominated = usable
            self._select(nominated or usable or self._best_valid(now) or current, now)

    def _is_old(self, nominated: CandidatePair, current: CandidatePair, now: float) -> bool:
        """Whether this better pair was nominated before better ones had to wait."""
        if nominated.valid_kind <= current.valid_kind or not self.is_held(nominated, now):
            return False
        return (nominated.nomination or 0) <= self._held_nomination

    def answered(self, pair: CandidatePair, now: float) -> None:
        """A check on this pair was answered."""
        if pair.impairment is Impairment.UNRESPONSIVE or (pair.full and pair.impairment is Impairment.SMALL):
            pair.impairment = None
        pair.refresh_at = now + (RETRY if pair.impairment is Impairment.SMALL else REFRESH)
        if pair is self.selected and self.consent is not None:
            self.consent.answered(now)

    def refreshed(self, pair: CandidatePair, now: float) -> None:
        """A check was sent that keeps this pair alive."""
        pair.refresh_at = now + (RETRY if pair.impaired else REFRESH)

    def role_changed(self, now: float) -> None:
        """Our role changed: drop all nominations and select again."""
        for pair in self._checklist:
            pair.nomination = None
        self._committed = False
        self._nominate_at = now
        if self._checklist.controlling and self._renominates:
            self._value += 1
        self.choose(now)

    def expire(self, now: float) -> CandidatePair | None:
        """
        Fail the valid pairs that were not answered for 30 s.

        :return: the selected pair, if its consent expired.
        """
        for pair in self._checklist.valid:
            if now >= pair.answered_at + EXPIRY and pair is not self.selected:
                pair.state, pair.revoked = PairState.FAILED, pair.used
        lost = self.selected
        if lost is None or self.consent is None or now < self.consent.expires_at:
            return None
        lost.state = PairState.FAILED
        lost.revoked = True
        return lost

    def spares(self, most: int = SPARES) -> list[CandidatePair]:
        """The valid pairs besides the selected one, best first."""
        valid = [pair for pair in self._checklist.valid if pair is not self.selected]
        if len(valid) < 2:
            return valid
        controlling = self._checklist.controlling
        valid.sort(
            key=lambda pair: (pair.impairment is None, pair.valid_kind, pair.priority(controlling)),
            reverse=True,
        )
        return valid[:most]

    def get_timer(self) -> float | None:
        """When to call `expire`; None: not needed."""
        times = [pair.answered_at + EXPIRY for pair in self._checklist.valid if pair is not self.selected]
        if self.consent is not None:
            times.append(self.consent.expires_at)
        return min(times, default=None)

    def _is_settled(self) -> bool:
        """Whether a pair is selected and may be nominated."""
        pair = self.selected
        return pair is not None and (pair.full or pair.impaired or not self._size_first)

    def _current(self) -> CandidatePair | None:
        return self.selected if self.selected is not None and self.selected.valid else None

    def _best_valid(self, now: float) -> CandidatePair | None:
        best = self._checklist.best_valid()
        if best is None or self._first_limit is None or best.valid_kind <= self._first_limit[0]:
            return best
        return self._checklist.best_valid(self._first_limit[0]) if self.is_held(best, now) else best

    def _controlling_choice(self, now: float) -> CandidatePair | None:
        current = self._current()
        if current is None or current.impaired:
            return self._best_valid(now) or current
        if self._committed:
            return current
        for pair in self._checklist:
            # A pair that is known to carry the largest datagrams is not left for one that is not
            better = pair.usable and pair.full >= current.full and _clearly_better(pair, current)
            if better and not (pair.valid_kind > current.valid_kind and self.is_held(pair, now)):
                current = pair
        return current

    def _select(self, pair: CandidatePair | None, now: float) -> None:
        if pair is self.selected:
            return
        first = self.selected is None
        self.selected = pair
        self.consent = None
        self._committed = False
        if pair is None:
            return
        pair.used = True
        if self._wants_consent:
            self.consent = Consent(pair.answered_at, self._random)
        if not self._checklist.controlling:
            return
        if self._renominates:
            self._value += 1
            self._nominate_at = now
        elif first:
            better = any(self.needed(other) and other.state in _OPEN for other in self._checklist)
            self._nominate_at = now + SETTLE if better else now
        elif self._nominate_at is None:
            self._nominate_at = now


_OPEN = (PairState.FROZEN, PairState.WAITING, PairState.IN_PROGRESS)


def _clearly_better(pair: CandidatePair, current: CandidatePair) -> bool:
    """Whether a pair is of a better kind, or of the same kind and much faster."""
    if pair.valid_kind != current.valid_kind:
        return pair.valid_kind > current.valid_kind
    if pair.rtt is None or current.rtt is None or not (pair.rtt_exact and current.rtt_exact):
        return False
    return pair.rtt < current.rtt * CLEARLY_FASTER and current.rtt - pair.rtt > WORTH_MOVING
