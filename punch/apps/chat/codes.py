"""
Codes in a running process: two peers get into each other's address book (`punch.apps.codes`).

A process has one code of its own at a time, and uses one of another side at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from punch.apps.chat.contacts import Contacts
from punch.apps.chat.events import CodeMade, CodeUsed, CodeVoid, Views
from punch.apps.chat.model import ChatError, ChatProblem, ContactSummary
from punch.apps.codes.code import LIFE, Card, Code, CodePurpose
from punch.identity import Identity, RandomBytes
from punch.names import BadPetname, check_new_petname

if TYPE_CHECKING:
    from punch.apps.codes.client import Meet


@dataclass
class _Invitation:
    """
    The code of this side that waits to be used.

    :ivar until: when it expires, in monotonic seconds.
    :ivar name: this side's name for whoever uses it.
    :ivar code: the code; None until others can use it.
    :ivar running: the exchange; None while it begins.
    :ivar waiting: what fires when others can use the code.
    """

    until: float
    name: str | None = None
    code: Code | None = None
    running: Deferred[Card] | None = None
    waiting: list[Deferred[CodeMade]] = field(default_factory=list)


class ContactCodes:
    """
    Makes and uses codes for the address book of a chat.

    :param identity: who this side is.
    :param own_name: what it calls itself now.
    :param now: monotonic seconds.
    :ivar where: the host and port of the rendezvous, for sentences.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        own_name: Callable[[], str],
        contacts: Contacts,
        views: Views,
        meet: Meet,
        where: str,
        now: Callable[[], float],
        random: RandomBytes,
    ) -> None:
        self.where = where
        self._identity = identity
        self._own_name = own_name
        self._contacts = contacts
        self._views = views
        self._meet = meet
        self._now = now
        self._random = random
        self._invitation: _Invitation | None = None
        self._joining: Deferred[Card] | None = None

    # -- a code of this side --

    @property
    def made(self) -> CodeMade | None:
        """The code that waits to be used, if there is one."""
        invitation = self._invitation
        if invitation is None or invitation.code is None:
            return None
        return CodeMade(str(invitation.code), max(0.0, invitation.until - self._now()))

    def invite(self, name: str | None = None) -> Deferred[CodeMade]:
        """
        Make a code, unless one waits already.

        :param name: this side's name for whoever uses it; None: what they call themselves.
        :return: fires when the code can be used. It fails with `ControlProblem`, or as `CodeVoid` says.
        :raise ChatError: the name can't be used (`bad-name`).
        """
        _check_name(name)
        if self._invitation is None:
            self._issue()
        invitation = self._invitation
        assert invitation is not None
        invitation.name = invitation.name if name is None else name
        made = self.made
        if made is not None:
            return succeed(made)
        waiting: Deferred[CodeMade] = Deferred()
        invitation.waiting.append(waiting)
        return waiting

    def _issue(self) -> None:
        from punch.apps.codes.client import issue_code

        invitation = self._invitation = _Invitation(self._now() + LIFE)
        issuing = issue_code(
            self._identity,
            self._own_name(),
            CodePurpose.CONTACT,
            meet=self._meet,
            now=self._now,
            on_registered=partial(self._registered, invitation),
            random=self._random,
        )
        running = invitation.running = Deferred.fromCoroutine(issuing)
        running.addCallback(self._used, invitation).addErrback(self._void, invitation)

    def _registered(self, invitation: _Invitation, code: Code) -> None:
        invitation.code = code
        made = self.made
        assert made is not None
        self._views.tell(made)
        waiting, invitation.waiting = invitation.waiting, []
        for each in waiting:
            each.callback(made)

    def _used(self, card: Card, invitation: _Invitation) -> None:
        self._over(invitation)
        contact, problem = self._met(card, invitation.name)
        self._views.tell(CodeUsed(contact, problem))

    def _void(self, failure: Failure, invitation: _Invitation) -> None:
        self._over(invitation)
        if invitation.code is not None:
            assert failure.value is not None
            self._views.tell(CodeVoid(failure.value))
        waiting, invitation.waiting = invitation.waiting, []
        for each in waiting:
            each.errback(failure)

    def _over(self, invitation: _Invitation) -> None:
        if self._invitation is invitation:
            self._invitation = None

    def withdraw(self) -> None:
        """
        Make the code that waits void.

        :raise ChatError: there is none (`no-code`).
        """
        if self._invitation is None or self._invitation.running is None:
            raise ChatError(ChatProblem.NO_CODE)
        self._invitation.running.cancel()

    # -- a code of the other side --

    def join(self, code: Code, name: str | None = None) -> Deferred[tuple[ContactSummary, ChatError | None]]:
        """
        Use a code that the other side has made.

        :param name: as `invite` takes it.
        :return: the contact, and what is wrong with its name; None: nothing. It fails with
            `CodeFailed`, `ControlProblem` or `ChatError`.
        :raise ChatError: the name can't be used; a code is being used already (`too-many`); it is a code of
            this side (`self`).
        """
        from punch.apps.codes.exchange import Redeemer

        _check_name(name)
        if self._invitation is not None and self._invitation.code == code:
            raise ChatError(ChatProblem.OWN_CODE)
        if self._joining is not None:
            raise ChatError(ChatProblem.CODE_IN_USE)
        caller, now = Identity.generate(self._random), self._now()
        core = Redeemer(
            code, caller.peer_id, self._identity, self._own_name(), CodePurpose.CONTACT, now, self._random
        )
        joining = self._joining = self._meet(core, caller, lambda: None)
        return joining.addBoth(self._joined).addCallback(self._met, name)

    def _joined(self, outcome: Card | Failure) -> Card | Failure:
        self._joining = None
        return outcome

    def _met(self, card: Card, name: str | None) -> tuple[ContactSummary, ChatError | None]:
        problem = None
        try:
            self._contacts.meet(card.peer, card.name, name)
        except ChatError as error:
            problem = error
        return self._contacts.get(card.peer), problem

    def stop(self) -> None:
        """Make the code of this side void, and use none: the process ends."""
        issuing = None if self._invitation is None else self._invitation.running
        for running in (issuing, self._joining):
            if running is not None:
                running.cancel()


def _check_name(name: str | None) -> None:
    try:
        if name is not None:
            check_new_petname(name)
    except BadPetname as error:
        raise ChatError(ChatProblem.CAUSE, cause=error) from None
