"""The client side of connectivity checks: sending requests and processing answers (RFC 8445, section 7.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

from punch.ice.candidates import LocalCandidates
from punch.ice.checks import CallBudget, Check, IceCredentials, IceRole, ReceivedCheck, build_check
from punch.ice.pairs import CandidatePair, PairState
from punch.ice.reach import usable
from punch.ice.transactions import LAST_WAIT, REQUESTS, RTO, Purpose, Transaction
from punch.identity import RandomBytes
from punch.wire.address import FULL_SIZE, Address, Transmit, same_protocol
from punch.wire.stun import Attribute, MessageClass, StunMessage

MAX_ROLE_SWITCHES = 16
"""How many role conflicts are repaired: honest agents have one, but a hostile peer could cause more."""
MAX_SUPERSEDED = 4
"""How many earlier checks of a pair may still be answered, for paths that are slower than the RTO."""
_ROLE_CONFLICT = 487
_CONSENT_WAIT = 8.0
SIZE_REQUESTS = 4
"""How many requests a check of full size has."""
SIZE_WAIT = 0.2, 1.5
"""
The time between the first two of these requests: this many seconds or round-trip times, whichever is longer.
The later requests and the end of the check come after twice this time, since the requests themselves lengthen
the queue of a slow line.
"""
LONGEST_SIZE_WAIT = 0.3
"""
The longest time between the first two of these requests, in seconds, if the first check was repeated: then
only an upper bound of the round-trip time is known.
"""
STEADY_WAIT = 2.0
"""The longest time between two requests of a steady check, in seconds."""
STEADY_REQUESTS = 60
"""How many requests a steady check has: two minutes, longer than an ICE session lasts without a path."""


class CheckVerdict(Enum):
    """The result of a transaction."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLE_CONFLICT = "role-conflict"


@dataclass(frozen=True)
class TimedOut:
    """A transaction for `purpose` ended without an answer."""

    pair: CandidatePair
    purpose: Purpose
    since: float
    """When it started, in monotonic seconds."""


@dataclass(frozen=True)
class CheckOutcome:
    """The end of a transaction. `mapped` is our address as the peer sees it, if it succeeded."""

    pair: CandidatePair
    transaction: Transaction
    verdict: CheckVerdict
    mapped: Address | None = None


class CheckClient:
    """Sends checks on pairs, retransmits them, and processes the answers."""

    def __init__(
        self,
        ours: IceCredentials,
        candidates: LocalCandidates,
        role: IceRole,
        random: RandomBytes,
        budget: CallBudget,
        *,
        steady: bool = False,
    ) -> None:
        """
        :param budget: decides whether a request may be sent now. One that may not counts as lost.
        :param steady: repeat checks every `STEADY_WAIT` seconds instead of backing off.
        """
        self.role = role
        self._steady = steady
        self.tiebreaker = int.from_bytes(random(8), "big")
        self._ours = ours
        self._theirs: IceCredentials | None = None
        self._candidates = candidates
        self._random = random
        self._budget = budget
        self._switches = 0
        self._transactions: dict[bytes, tuple[Transaction, CandidatePair]] = {}
        self._output: list[Transmit] = []

    def set_remote(self, theirs: IceCredentials) -> None:
        """Set the peer's credentials."""
        self._theirs = theirs

    def owns(self, transaction_id: bytes) -> bool:
        """Whether an answer with this ID is expected here."""
        return transaction_id in self._transactions

    def switch_role(self, role: IceRole, *, refused: bool) -> bool:
        """
        Switch to this role.

        :param refused: the peer answered 487, so the tiebreaker changes too (RFC 8445, section 7.2.5.1).
        :return: False if there were too many role conflicts already.
        """
        if self._switches >= MAX_ROLE_SWITCHES:
            return False
        self._switches += 1
        self.role = role
        if refused:
            self.tiebreaker = int.from_bytes(self._random(8), "big")
        return True

    def start(self, pair: CandidatePair, now: float, rto: float = RTO, nomination: int | None = None) -> None:
        """
        Check a pair, and nominate it if `nomination` is given.

        A check that is under way is no longer retransmitted, but its answer still counts.
        """
        self.stop(pair, now)
        if pair.state is not PairState.SUCCEEDED:
            pair.state = PairState.IN_PROGRESS
        requests, longest = (STEADY_REQUESTS, STEADY_WAIT) if self._steady else (REQUESTS, inf)
        pair.transaction = self._send(
            pair, Purpose.CHECK, now, rto, nomination, requests=requests, longest_wait=longest
        )

    def check_consent(self, pair: CandidatePair, now: float, nomination: int | None = None) -> None:
        """Send one consent check on a valid pair (RFC 7675). It also keeps the pair alive."""
        self._send(pair, Purpose.CONSENT, now, RTO, nomination, requests=1, last_wait=_CONSENT_WAIT / RTO)

    def check_size(self, pair: CandidatePair, now: float, requests: int = SIZE_REQUESTS) -> None:
        """
        Check whether a valid pair carries the largest datagrams of a link, unless such a check is under way.

        :param requests: the number of requests.
        """
        if pair.size_check is not None:
            return
        wait = rto = max(SIZE_WAIT[0], SIZE_WAIT[1] * pair.expected_rtt)
        if not pair.rtt_exact:
            rto = min(rto, LONGEST_SIZE_WAIT)
        pair.size_check = self._send(
            pair,
            Purpose.SIZE,
            now,
            rto,
            requests=requests,
            last_wait=2 * wait / rto,
            longest_wait=2 * rto,
        )

    def encode_check(self, transaction_id: bytes, priority: int) -> bytes:
        """
        Encode a check that belongs to no pair, with this PRIORITY.

        :raise RuntimeError: the peer's credentials are not known.
        """
        if self._theirs is None:
            raise RuntimeError("no check can be made before the peer's credentials are known")
        return build_check(transaction_id, self._ours, self._theirs, self.role, self.tiebreaker, priority)

    def is_authentic(self, answer: StunMessage) -> bool:
        """Whether an answer is protected with the peer's password."""
        return self._theirs is not None and answer.check_integrity(self._theirs.key)

    def stop(self, pair: CandidatePair, now: float) -> None:
        """Stop retransmitting the check of this pair. Its answer still counts."""
        if pair.transaction is None:
            return
        pair.transaction.stop_retransmitting(now)
        pair.superseded.append(pair.transaction)
        pair.transaction = None
        for forgotten in pair.superseded[:-MAX_SUPERSEDED]:
            self._drop(forgotten, pair)

    def forget(self, pair: CandidatePair) -> None:
        """Drop all transactions of this pair."""
        for transaction_id, (_, asked) in list(self._transactions.items()):
            if asked is pair:
                del self._transactions[transaction_id]
        pair.transaction = pair.size_check = None
        pair.superseded.clear()

    def receive(
        self, answer: StunMessage, remote: Address, local: Address, now: float
    ) -> CheckOutcome | None:
        """
        Process an answer; returns None if it answers no check, is not authentic, or changes nothing.
        """
        known = self._transactions.get(answer.transaction_id)
        if known is None:
            return None
        transaction, pair = known
        if transaction.key is None or not answer.check_integrity(transaction.key):
            return None
        symmetric = (remote, local) == (transaction.remote, transaction.local)
        if transaction.purpose is Purpose.SIZE and not symmetric:
            return None
        self._drop(transaction, pair)
        if symmetric:
            self._budget.answered(remote, local, now)
        verdict, mapped = self._judge(answer, transaction, remote, local)
        if transaction.purpose is Purpose.SIZE:
            # An error also shows that the request arrived
            pair.full_at, pair.size_failures = now, 0
        if verdict is CheckVerdict.SUCCEEDED:
            pair.answered_at = now
            pair.asked_at = max(pair.asked_at, transaction.started)
            _measure(pair, *transaction.rtt(now))
            if transaction.purpose is Purpose.CHECK:
                self._finish(pair)
        elif transaction.purpose is not Purpose.CHECK and verdict is CheckVerdict.FAILED:
            return None
        return CheckOutcome(pair, transaction, verdict, mapped)

    def receive_acknowledgement(self, check: Check, now: float) -> CheckOutcome | None:
        """
        Process what an authenticated check of the peer says about a check of ours: that it has arrived. Its
        answer may have been lost. Returns None if no answer to that check is awaited on the same pair.
        """
        received = check.received
        known = None if received is None else self._transactions.get(received.transaction_id)
        if received is None or known is None or not usable(received.source):
            return None
        transaction, pair = known
        symmetric = (check.remote, check.local) == (transaction.remote, transaction.local)
        if transaction.purpose is not Purpose.CHECK or not symmetric:
            return None
        self._drop(transaction, pair)
        self._budget.answered(check.remote, check.local, now)
        pair.answered_at = now
        pair.asked_at = max(pair.asked_at, transaction.started)
        self._finish(pair)
        source = same_protocol(received.source.host, received.source.port, check.local)
        return CheckOutcome(pair, transaction, CheckVerdict.SUCCEEDED, source)

    def expire(self, now: float) -> list[TimedOut]:
        """Retransmit what is due; returns the checks that failed without an answer."""
        unanswered = []
        for transaction, pair in list(self._transactions.values()):
            self._transmit(transaction, pair, now)
            if transaction.expired(now):
                decisive = transaction in (pair.transaction, pair.size_check)
                self._drop(transaction, pair)
                if decisive:
                    unanswered.append(TimedOut(pair, transaction.purpose, transaction.started))
        return unanswered

    def datagrams_to_send(self) -> list[Transmit]:
        """Return the datagrams to send now."""
        output, self._output = self._output, []
        return output

    def get_timer(self) -> float | None:
        """When to call `expire`; None: not needed."""
        return min((transaction.next_at for transaction, _ in self._transactions.values()), default=None)

    def _send(
        self,
        pair: CandidatePair,
        purpose: Purpose,
        now: float,
        rto: float,
        nomination: int | None = None,
        *,
        requests: int = REQUESTS,
        last_wait: float = LAST_WAIT,
        longest_wait: float = inf,
    ) -> Transaction:
        if self._theirs is None:
            raise RuntimeError("no check can be made before the peer's credentials are known")
        transaction_id = self._random(12)
        received = None
        # The consent checks of a selected pair leave it out: both sides use it
        settled = purpose is Purpose.CONSENT and pair.used and nomination is None
        if pair.valid and pair.received_check is not None and purpose is not Purpose.SIZE and not settled:
            received = ReceivedCheck(pair.received_check, pair.remote.address)
        request = build_check(
            transaction_id,
            self._ours,
            self._theirs,
            self.role,
            self.tiebreaker,
            self._candidates.check_priority(pair.base),
            nomination,
            received=received,
            size=FULL_SIZE if purpose is Purpose.SIZE else 0,
        )
        transaction = Transaction(
            purpose,
            transaction_id,
            request,
            pair.remote.address,
            pair.base,
            now,
            key=self._theirs.key,
            controlling=self.role is IceRole.CONTROLLING,
            nomination=nomination,
            rto=rto,
            requests=requests,
            last_wait=last_wait,
            longest_wait=longest_wait,
        )
        self._transactions[transaction_id] = (transaction, pair)
        self._transmit(transaction, pair, now)
        return transaction

    def _transmit(self, transaction: Transaction, pair: CandidatePair, now: float) -> None:
        transmit = transaction.handle_timer(now)
        if transmit is not None and self._budget.may_check(pair, transmit.data, now):
            self._output.append(transmit)

    def _judge(
        self, answer: StunMessage, transaction: Transaction, remote: Address, local: Address
    ) -> tuple[CheckVerdict, Address | None]:
        if (remote, local) != (transaction.remote, transaction.local) or answer.unknown_required():
            return CheckVerdict.FAILED, None
        if answer.message_class is MessageClass.ERROR:
            code = answer.get(Attribute.ERROR_CODE)
            conflict = isinstance(code, tuple) and code[0] == _ROLE_CONFLICT
            return (CheckVerdict.ROLE_CONFLICT if conflict else CheckVerdict.FAILED), None
        mapped = answer.get(Attribute.XOR_MAPPED_ADDRESS)
        if not isinstance(mapped, Address) or not usable(mapped):
            return CheckVerdict.FAILED, None
        return CheckVerdict.SUCCEEDED, same_protocol(mapped.host, mapped.port, local)

    def _finish(self, pair: CandidatePair) -> None:
        """Drop the other checks of a pair that was answered."""
        for transaction in list(pair.superseded):
            self._drop(transaction, pair)
        # A nomination must arrive, whatever the answer to an earlier check
        if pair.transaction is not None and pair.transaction.nomination is None:
            self._drop(pair.transaction, pair)

    def _drop(self, transaction: Transaction, pair: CandidatePair) -> None:
        self._transactions.pop(transaction.transaction_id, None)
        if pair.transaction is transaction:
            pair.transaction = None
        if pair.size_check is transaction:
            pair.size_check = None
        if transaction in pair.superseded:
            pair.superseded.remove(transaction)


def _measure(pair: CandidatePair, sample: float, exact: bool) -> None:
    """Update the round-trip time. Exact samples are smoothed as in RFC 6298; others are upper bounds."""
    if not exact:
        if not pair.rtt_exact:
            pair.rtt = sample if pair.rtt is None else min(sample, pair.rtt)
        return
    pair.latest_rtt = sample
    pair.rtt = sample if pair.rtt is None or not pair.rtt_exact else 0.875 * pair.rtt + 0.125 * sample
    pair.rtt_exact = True
