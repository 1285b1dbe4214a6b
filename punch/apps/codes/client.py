"""
Codes at the rendezvous: each side of an exchange registers with a key that it uses for nothing else, until
the exchange ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from punch.apps.codes.code import REGISTERED_NAME, Card, Code, CodeFailed, CodePurpose
from punch.apps.codes.exchange import Issuer, Redeemer
from punch.identity import Identity, RandomBytes
from punch.net.driver import Driver
from punch.net.srv import LookUpService
from punch.node.causes import ControlProblem
from punch.node.control.client import ControlClient
from punch.wire.control import Accept, ErrorCode, Register, Reply, Welcome
from punch.wire.invitation import AdmissionRefusal
from punch.wire.proxy import ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress

MAX_NUMBERS = 5
"""How many codes `issue_code` makes at most, if the keys of their numbers were revoked."""


class Meet(Protocol):
    """Connects one side of an exchange with the rendezvous."""

    def __call__(
        self, core: Issuer | Redeemer, key: Identity, on_registered: Callable[[], object], /
    ) -> Deferred[Card]:
        """Do what `CodeClient.run` does for a client that is made with these arguments."""


async def issue_code(
    identity: Identity,
    name: str,
    purpose: CodePurpose,
    *,
    meet: Meet,
    now: Callable[[], float],
    on_registered: Callable[[Code], object],
    random: RandomBytes = os.urandom,
) -> Card:
    """
    Make a code, and wait until the other side has used it.

    Everybody can derive the key of a code's number, and so can revoke it. If the rendezvous refuses the key
    for that reason before others can use the code, another code is made, up to `MAX_NUMBERS` in all.

    :param identity: who this side is, for the other side's card.
    :param name: what this side calls itself.
    :param meet: connects this side with the rendezvous.
    :param now: monotonic seconds.
    :param on_registered: called once with the code when others can use it.
    :return: the other side's card.
    :raise CodeFailed: nobody has used the code, or the exchange failed.
    :raise ControlProblem: this side can't register.
    """
    registered = False

    def made(code: Code) -> None:
        nonlocal registered
        registered = True
        on_registered(code)

    tried = 0
    while True:
        tried += 1
        code = Code.generate(random)
        issuer = Issuer(code, identity, name, purpose, now(), random)
        try:
            return await meet(issuer, code.identity, partial(made, code))
        except ControlProblem as problem:
            revoked = problem.refusal is AdmissionRefusal.ID_REVOKED
            if registered or tried == MAX_NUMBERS or not revoked:
                raise


class CodeClient:
    """
    Connects one side of an exchange with a rendezvous.

    :param key: that of the code's number for an issuer, a new one for a redeemer.
    :param on_registered: called once, when others can use the code.
    :param member: the user's own identity, which vouches for `key` where only members may register.
    :param proxy: as `ControlClient` takes it, like the parameters not described here.
    """

    def __init__(
        self,
        core: Issuer | Redeemer,
        key: Identity,
        *,
        reactor: Any,
        rendezvous: Sequence[RendezvousAddress],
        member: Identity | None = None,
        on_registered: Callable[[], object] = lambda: None,
        random: RandomBytes = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
        roots: Sequence[x509.Certificate] | None = None,
        proxy: ProxySettings | None = None,
        look_up_service: LookUpService | None = None,
    ) -> None:
        self._core = core
        self._on_registered = on_registered
        self._was_registered = False
        self._driver = Driver(reactor, monotonic, self._step, lambda: (core,))
        self._done: Deferred[Card] = Deferred(lambda _: self._end(None))
        self._ended = False
        self._control = ControlClient(
            reactor=reactor,
            address=rendezvous,
            identity=key,
            # An invitation to the rendezvous is for the user's own key
            register=Register(REGISTERED_NAME, Accept.ANYONE),
            handler=self,
            random=random,
            roots=roots,
            proxy=proxy,
            look_up_service=look_up_service,
            member=member,
        )

    def run(self) -> Deferred[Card]:
        """
        Register, and wait for the outcome.

        :return: fires with the card of the other side when the connection is closed. It fails with
            `CodeFailed`, or with `ControlProblem` if this side can't register. If it is cancelled, the code
            is void.
        """
        self._control.start()
        self._driver.run()
        return self._done

    # ControlHandler

    def control_welcome(self, welcome: Welcome, host: str) -> None:
        """This side is registered."""
        if not self._was_registered:
            self._was_registered = True
            self._on_registered()
        self._driver.run()

    def control_reply(self, reply: Reply) -> None:
        """A message came."""
        self._core.receive(reply, self._driver.now())
        self._driver.run()

    def control_lost(self, problem: ControlProblem, retry_in: float | None) -> None:
        """The registration failed, or is lost. Only an issuer that was registered goes on."""
        if problem.error is ErrorCode.REPLACED:
            self._core.replaced()
        elif retry_in is None or not self._was_registered:
            self._end(problem)
        else:
            self._core.lost(self._driver.now())
        self._driver.run()

    # Inside

    def _step(self, now: float) -> None:
        if self._control.registered:
            for message in self._core.messages_to_send():
                self._control.send(message)
        outcome = self._core.outcome
        if self._core.over and outcome is not None:
            self._end(outcome)

    def _end(self, outcome: Card | CodeFailed | ControlProblem | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._driver.stop()

        def stopped(_: object) -> None:
            if isinstance(outcome, Card):
                self._done.callback(outcome)
            elif outcome is not None:
                self._done.errback(Failure(outcome))  # type: ignore[no-untyped-call]

        self._control.stop().addBoth(stopped)
