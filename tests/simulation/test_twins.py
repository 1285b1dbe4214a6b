"""Two copies of one identity for a minute, each under a supervisor that starts it again after a second."""

from __future__ import annotations

from pathlib import Path

from punch.apps.chat.storage import ImmediateWorker
from punch.apps.chat.store import Store
from punch.identity import Identity
from punch.node.control.replacements import Replacements
from punch.node.events import Event, Registered
from punch.state import StateDirectory
from punch.test.internet import Host
from punch.test.system import Peer, SystemTestCase
from punch.wire.control import Accept

RESTART = 1.0
"""Seconds after its end at which a process is started again."""
MESSAGES = 55


class Supervised:
    """
    One copy on a machine of its own: its process is started again after it was replaced.

    :ivar texts: what all its processes were sent, in order.
    :ivar registrations: how often one registered.
    """

    def __init__(self, test: TwinsTests, identity: Identity, host: Host, directory: Path) -> None:
        self.texts: list[str] = []
        self.registrations = 0
        self._test = test
        self._identity = identity
        self._host = host
        self._state = StateDirectory(directory).peer("alice")
        self._state.prepare()
        self._starts = 0
        self._replaced = False
        self._start_at = 0.0
        self._peer = self._start()

    def step(self) -> None:
        """What a supervisor does when it looks."""
        if self._replaced:
            self._replaced = False
            self.end()
            self._start_at = self._test.net.now + RESTART
        elif self._start_at and self._test.net.now >= self._start_at:
            self._start_at = 0.0
            self._peer = self._start()

    def end(self) -> None:
        """End the process, if there is one."""
        self._replacements.stop()
        if not self._start_at:
            self._peer.stop()
            self.texts += self._peer.texts()

    def _start(self) -> Peer:
        self._starts += 1
        peer = Peer(
            self._test.net,
            self._host,
            self._test.rendezvous.address,
            accept=Accept.ANYONE,
            identity=self._identity,
            pacing=0.02,
            salt=str(self._starts),
            worker=ImmediateWorker(Store(self._state.history_path)),
        )
        peer.on_event = self._event
        self._replacements = Replacements(
            self._state, self._host.reactor, peer.node.startService, lambda event: None
        )
        peer.chat.start()
        self._replacements.start(waits=True)
        return peer

    def _event(self, event: Event) -> None:
        self.registrations += isinstance(event, Registered)
        self._replaced = self._replacements.handle(event) or self._replaced


class TwinsTests(SystemTestCase):
    def test_a_minute(self) -> None:
        """They register a few times, and every message reaches the one that is there, once and in order."""
        identity = Identity.generate(self.net.random_bytes("twins"))
        twins = [Supervised(self, identity, self.host(name), Path(self.mktemp())) for name in ("one", "two")]
        bob = self.peer("bob").register()
        for second in range(60):
            if second < MESSAGES:
                bob.chat.send(identity.peer_id, str(second))
            for _ in range(10):
                self.net.advance(0.1)
                for twin in twins:
                    twin.step()
        for twin in twins:
            twin.end()
        # Without pauses they would replace each other for the whole minute.
        self.assertLess(sum(twin.registrations for twin in twins), 10)
        self.assertEqual(len(bob.delivered), MESSAGES)
        one, two = ([int(text) for text in twin.texts] for twin in twins)
        self.assertEqual(sorted(one + two), list(range(MESSAGES)))
        self.assertEqual((one, two), (sorted(one), sorted(two)))
