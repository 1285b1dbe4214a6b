"""Endpoint strings that begin with `punch:`, as far as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IListeningPort, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from punch.contacts import AddressBook
from punch.endpoints import (
    PunchClientEndpoint,
    PunchConnectError,
    PunchListenError,
    PunchPort,
    PunchServerEndpoint,
)
from punch.identity import Identity
from punch.local.access import Allow

RENDEZVOUS = "rendezvous=punch\\://127.0.0.1\\:7001/aaaa"


class StringTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = self.mktemp()
        self.keys = f"identity=alice:state-dir={self.directory}"

    def test_what_they_give(self) -> None:
        reactor: Any = Clock()
        client = clientFromString(reactor, f"punch:bob:service=web:{self.keys}")
        self.assertIsInstance(client, PunchClientEndpoint)
        verifyObject(IStreamClientEndpoint, client)
        server = serverFromString(reactor, f"punch:service=web:allow=bob,carol:{self.keys}")
        self.assertIsInstance(server, PunchServerEndpoint)
        verifyObject(IStreamServerEndpoint, server)

    def test_a_port(self) -> None:
        port = PunchPort(Clock(), "web", Allow(), None, lambda: None)  # type: ignore[arg-type, return-value]
        verifyObject(IListeningPort, port)

    def test_bad_strings(self) -> None:
        """Each has a sentence that says what is wrong."""
        reactor: Any = Clock()
        for text, words in (
            ("punch", "needs a peer"),
            ("punch:bob", "needs a service"),
            ("punch::service=web", "needs a peer"),
            ("punch:bob:service=", "needs a service"),
            ("punch:bob:web", "'web'"),
            ("punch:bob:service=web:allow=carol", "'allow'"),
            ("punch:bob:service=web:timeout=3", "'timeout'"),
            ("punch:bob:service=web:reactor=3", "'reactor'"),
            ("punch:bob:service=web:identity=.hidden", ".hidden"),
            (f"punch:bob:service={'x' * 256}", "255"),
            ("punch:bob:service=web:rendezvous=http\\://example", "http"),
            (f"punch:bob:service=web:{RENDEZVOUS}", "pin"),
            ("punch:bob:service=web:state-dir=~nobody-there/x", "nobody-there"),
            ("punch:bob:service=web:port-mapping=sometimes", "auto or never"),
            ("punch:bob:service=web:spray=always", "auto or never"),
        ):
            with self.assertRaises(ValueError, msg=text) as caught:
                clientFromString(reactor, text)
            error = caught.exception
            self.assertIn(words, str(error), text)
        for text, words in (
            ("punch", "needs a service"),
            ("punch:web", "'web'"),
            ("punch:service=web:allow=", "allow takes names"),
            ("punch:service=web:allow=bob,,carol", "allow takes names"),
            ("punch:service=web:backlog=3", "'backlog'"),
            ("punch:service=web:self=3", "'self'"),
            ("punch:service=web:peer=bob", "'peer'"),
        ):
            error = self.assertRaises(ValueError, serverFromString, reactor, text)
            self.assertIn(words, str(error), text)

    def test_unknown_names(self) -> None:
        """They are looked up when the endpoint is used; names that are near are told."""
        reactor: Any = Clock()
        client = clientFromString(reactor, f"punch:bobb:service=web:{self.keys}")
        server = serverFromString(reactor, f"punch:service=web:allow=bobb:{self.keys}")
        book = AddressBook(Path(self.directory) / "peers" / "alice" / "known.json")
        book.add(Identity.generate().peer_id, "bob")
        failure = self.failureResultOf(client.connect(None), PunchConnectError)
        self.assertEqual(failure.value.reason, "bad-peer-id")
        self.assertIn("Did you mean bob?", str(failure.value))
        refused = self.failureResultOf(server.listen(None), PunchListenError)
        self.assertIn("Did you mean bob?", str(refused.value))
