"""The rendezvous restarts with its relay while peers call each other, or have a link through it."""

from __future__ import annotations

import gc

from punch.node.events import CallFailed, Disconnected
from punch.test.scenarios.relayed import RelayTestCase
from punch.test.system import connect, introduce
from punch.ui.text.causes import event_sentence
from punch.wire.control import Relays
from punch.wire.turn import RelayServer, TurnTransport, TurnURI


class RestartTests(RelayTestCase):
    """The rendezvous, and with it the relay, stops and starts again."""

    def stop_for(self, outage: float, *, block_udp: bool) -> None:
        """The same link goes on within five seconds of the return, nothing is lost."""
        self.start()
        alice, bob = self.pair(block_udp=block_udp)
        connect(alice, bob)
        link = alice.link_to(bob)
        self.net.advance(10.0)
        self.rendezvous.stop()
        alice.chat.send(bob.id, "while it is away")
        self.net.advance(outage)
        self.rendezvous.start()
        self.net.run_until(lambda: bob.messages, 5.0, "the message")
        self.chat(alice, bob)
        self.assertIs(alice.node.link(bob.id), link)
        self.assertEqual(alice.of(Disconnected) + bob.of(Disconnected), [])

    def test_in_the_middle_of_a_relayed_link(self) -> None:
        self.stop_for(4.0, block_udp=False)

    def test_in_the_middle_of_a_link_over_tcp(self) -> None:
        self.stop_for(1.0, block_udp=True)

    def test_long_in_the_middle_of_a_link_over_tcp(self) -> None:
        """Nothing tells of the return but another try."""
        self.stop_for(100.0, block_udp=True)

    def test_attempts_that_hang(self) -> None:
        """When relays are named again, unanswered attempts are given up, with no error left over."""
        self.start()
        alice, bob = self.pair(block_udp=True)
        connect(alice, bob)
        self.rendezvous.host.down()
        alice.chat.send(bob.id, "while it is away")
        self.net.advance(40.0)
        hanging = alice.node.status.relay_attempts
        self.assertGreater(hanging, 1)
        named = tuple(
            RelayServer(TurnURI(None, 7001, transport), "user", "password", "realm", "nonce", 600.0)
            for transport in (TurnTransport.TCP, TurnTransport.TLS)
        )
        for _ in range(3):
            alice.node.control_reply(Relays(named))
            self.net.advance(2.0)
            self.assertEqual(alice.node.status.relay_attempts, len(named))
        self.net.advance(9.0)
        gc.collect()  # Failures that nobody takes are told when they are collected
        self.rendezvous.host.up()
        self.net.run_until(lambda: bob.messages, 6.0, "the message")

    def test_in_the_middle_of_an_introduction(self) -> None:
        """Whenever it restarts, the call connects or fails with an explanation, and the next connects."""
        self.start()
        for number in (0, 3, 4, 7):
            alice, bob = (
                self.peer(self.home(f"{name}-{number}", block_udp=bool(number % 2)))
                for name in ("alice", "bob")
            )
            introduce(alice, bob)
            alice.call(bob.id)
            self.net.advance(0.03 + 0.06 * number)
            self.rendezvous.stop()
            self.net.advance(0.5)
            self.rendezvous.start()
            alice.wait_for_end(120.0)
            self.net.advance(60.0)
            if alice.node.link(bob.id) is None:
                for peer in (alice, bob):
                    ends = [event_sentence(event) for event in peer.of(CallFailed)]
                    ends += [event_sentence(event) for event in peer.of(Disconnected)]
                    self.assertTrue(ends[-1].endswith("."), ends)
                connect(alice, bob)
            self.chat(alice, bob, 3)
            alice.stop()
            bob.stop()
