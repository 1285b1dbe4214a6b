"""The chat in the browser, from the WebSocket of one page to that of another: all real but the internet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.apps.chat.codes import ContactCodes
from punch.apps.chat.storage import RETRY
from punch.apps.chat.store import Store
from punch.apps.codes.client import CodeClient
from punch.apps.codes.code import Card
from punch.apps.codes.exchange import Issuer, Redeemer
from punch.identity import Identity
from punch.node.events import Connected, Registered
from punch.test.apps.chat.chat_faults import SlowDisk
from punch.test.apps.chat.chat_network import ChatNetwork, ChatPeer
from punch.test.internet import InternetTestCase, LinkSpec
from punch.test.scenarios.nat_pairs import nat
from punch.test.system import SERVICE, Peer, Rendezvous
from punch.test.ui.web.web_client import SimulatedBrowser, WebSocketClient
from punch.ui.command import Applications, CommandContext
from punch.ui.commands import COMMANDS
from punch.ui.web.connections import PageConnection
from punch.ui.web.view import RELOAD, WebView, qr_code


class ViewTestCase(InternetTestCase):
    """Two homes; Alice has a browser, Bob has one if a test gives it to him."""

    def setUp(self) -> None:
        self.net = self.internet()
        self.rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self.quits: list[str] = []
        self.alice, self.alice_view = self.person("alice", 1)
        self.bob, self.bob_view = self.person("bob", 2)

    def person(self, name: str, number: int) -> tuple[Peer, WebView]:
        """A registered peer that serves a page."""
        home = self.net.lan(
            name,
            f"192.168.{number}.0/24",
            nat=nat("EIM/APDF", f"203.0.113.{number}"),
            link=LinkSpec(delay=0.02),
        )
        peer = Peer(self.net, home.host(name), self.rendezvous.address)
        applications = Applications(self.codes(peer))
        view = WebView(
            peer.chat,
            reactor=peer.host.reactor,
            pairs=peer.node.pairs,
            commands=CommandContext(peer.chat, lambda: self.quits.append(name), applications),
            random=self.net.random_bytes(f"tickets {name}"),
        )
        view.start(8080)
        self.addCleanup(view.stop)
        peer.start()
        peer.wait_for(Registered, 5.0)
        return peer, view

    def codes(self, peer: Peer) -> ContactCodes:
        """Codes that go over the simulated rendezvous."""
        random = self.net.random_bytes(f"codes {peer.name}")

        def meet(
            core: Issuer | Redeemer, key: Identity, on_registered: Callable[[], object]
        ) -> Deferred[Card]:
            return CodeClient(
                core,
                key,
                reactor=peer.host.reactor,
                rendezvous=[self.rendezvous.address],
                on_registered=on_registered,
                random=random,
                monotonic=peer.host.monotonic,
            ).run()

        codes = ContactCodes(
            identity=peer.identity,
            own_name=lambda: peer.chat.name,
            contacts=peer.chat.contacts,
            views=peer.chat.views,
            meet=meet,
            where="rendezvous:7001",
            now=peer.host.monotonic,
            random=random,
        )
        self.addCleanup(codes.stop)
        return codes

    def page(self, peer: Peer, view: WebView) -> WebSocketClient:
        """An open page."""
        browser = SimulatedBrowser(self.net, peer.host, 8080)
        browser.enter(view.server.new_url())
        socket = browser.socket()
        self.net.run_until(lambda: bool(socket.of("snapshot")), 5.0, "a snapshot")
        return socket

    def ask(self, page: WebSocketClient, command: str, **fields: Any) -> dict[str, Any]:
        """Give a command and wait for what comes of it."""
        number = len(page.events)
        page.say({"command": command, "request": number, **fields})
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            answers[:] = [event for event in page.events if event.get("request") == number]
            return bool(answers)

        self.net.run_until(answered, 30.0, f"an answer to {command}")
        return answers[0]

    def wait(
        self, page: WebSocketClient, event: str, count: int = 1, timeout: float = 20.0
    ) -> dict[str, Any]:
        """Until a page has heard so many events of a name; the last of them."""
        self.net.run_until(lambda: len(page.of(event)) >= count, timeout, event)
        return page.of(event)[count - 1]


class TalkTests(ViewTestCase):
    def test_from_a_call_to_a_message_that_was_read(self) -> None:
        alice, bob = self.page(self.alice, self.alice_view), self.page(self.bob, self.bob_view)
        alice_id, bob_id = str(self.alice.id), str(self.bob.id)
        self.assertEqual(self.ask(alice, "call", peer=bob_id)["event"], "result")
        self.wait(alice, "calling")
        call = self.wait(bob, "call")
        self.assertEqual((call["peer"], call["name"], call["decided"]), (alice_id, "alice", False))
        self.ask(bob, "accept", peer=alice_id)
        for page in (alice, bob):
            self.assertEqual(self.wait(page, "connected")["path"], "srflx")
        sent = self.ask(alice, "send", peer=bob_id, text="Hello")
        self.assertEqual((sent["text"], sent["outgoing"]), ("Hello", True))
        message = self.wait(bob, "message")
        self.assertEqual((message["peer"], message["text"]), (alice_id, "Hello"))
        self.wait(alice, "delivered")
        self.ask(bob, "read", peer=alice_id)
        self.assertEqual(self.wait(alice, "read")["number"], sent["number"])
        order = [event["event"] for event in alice.events if event.get("number") == sent["number"]]
        self.assertEqual([name for name in order if name != "result"], ["added", "delivered", "read"])
        self.assertEqual(alice.of("added")[0]["state"], "sent")
        self.assertEqual(self.ask(bob, "history", peer=alice_id)["messages"][0]["text"], "Hello")
        self.ask(bob, "hangup", peer=alice_id)
        self.wait(alice, "disconnected")

    def test_the_picture(self) -> None:
        """Every step of the checks is told, to the pair that is taken, and nothing while nothing changes."""
        alice = self.page(self.alice, self.alice_view)
        self.alice.known.add(self.bob.id, "bob")
        self.bob.known.add(self.alice.id, "alice")
        self.ask(alice, "call", peer=str(self.bob.id))
        self.wait(alice, "connected")
        self.net.advance(2.0)
        pictures = [event["pairs"] for event in alice.of("pairs")]
        self.assertGreater(len(pictures), 2)
        states = {pair["state"] for pairs in pictures for pair in pairs}
        self.assertLessEqual({"in-progress", "succeeded"}, states)
        (taken,) = [pair for pair in pictures[-1] if pair["selected"]]
        self.assertEqual((taken["seen_as"].partition(":")[0], taken["remote_kind"]), ("203.0.113.1", "srflx"))
        self.net.advance(60.0)
        self.assertLess(len(alice.of("pairs")), len(pictures) + 40)
        late = self.page(self.alice, self.alice_view)
        (snapshot,) = late.of("snapshot")
        self.assertTrue([pair for pair in snapshot["pairs"][str(self.bob.id)] if pair["selected"]])
        self.ask(alice, "hangup", peer=str(self.bob.id))
        self.net.advance(1.0)
        self.assertEqual(alice.of("pairs")[-1]["pairs"], [])

    def test_a_snapshot_tells_all(self) -> None:
        self.alice.known.add(self.bob.id, "bob")
        self.bob.known.add(self.alice.id, "alice")
        self.alice.call(self.bob.id)
        self.alice.wait_for(Connected, 10.0)
        self.alice.chat.send(self.bob.id, "Are you there?")
        self.net.advance(1.0)
        (snapshot,) = self.page(self.bob, self.bob_view).of("snapshot")
        self.assertEqual((snapshot["id"], snapshot["name"]), (str(self.bob.id), "bob"))
        self.assertEqual(snapshot["registration"]["event"], "registered")
        (conversation,) = snapshot["conversations"]
        self.assertEqual((conversation["unread"], conversation["last"]["text"]), (1, "Are you there?"))
        self.assertEqual(conversation["link"]["path"], "srflx")
        self.assertEqual(snapshot["peers"][0]["peer"], str(self.alice.id))
        self.assertEqual(snapshot["qr"], qr_code(str(self.bob.id)))

    def test_all_pages_hear_the_same(self) -> None:
        one, two = (self.page(self.alice, self.alice_view) for _ in range(2))
        self.ask(one, "rename", name="Alicia")
        self.assertEqual(self.wait(two, "renamed")["name"], "Alicia")
        self.ask(two, "send", peer=str(self.bob.id), text="Later")
        self.assertEqual(self.wait(one, "added")["text"], "Later")

    def test_every_command_is_there(self) -> None:
        """A page can send every command; one without its fields gets an error, and the connection stays."""
        page = self.page(self.alice, self.alice_view)
        for command in COMMANDS:
            answer = self.ask(page, command)
            self.assertEqual(answer["command"], command)
            self.assertNotEqual(answer.get("reason"), "unknown-command")
        self.assertEqual(self.quits, ["alice"])

    def test_a_code(self) -> None:
        """A page that is opened later shows it, too; both sides hear of a wrong one, and of the right one."""
        alice, bob = self.page(self.alice, self.alice_view), self.page(self.bob, self.bob_view)
        made = self.ask(alice, "invite", name="robert")
        (event,) = alice.of("code")
        self.assertEqual((event["code"], event["qr"]), (made["code"], qr_code(made["code"])))
        (later,) = self.page(self.alice, self.alice_view).of("snapshot")
        self.assertEqual((later["code"]["code"], later["code"]["qr"]), (made["code"], event["qr"]))
        number, *words = made["code"].split("-")
        refused = self.ask(bob, "join", code="-".join([number, *words[:2], "zzz"]))
        self.assertEqual((refused["event"], refused["reason"]), ("error", "bad-code"))
        guess = "aardvark" if words[2] != "aardvark" else "abdomen"
        refused = self.ask(bob, "join", code="-".join([number, *words[:2], guess]))
        self.assertEqual((refused["event"], refused["reason"]), ("error", "wrong-code"))
        void = self.wait(alice, "code-void")
        self.assertEqual((void["reason"], "guess" in void["text"]), ("wrong-code", True))

        made = self.ask(alice, "invite", name="robert")
        met = self.ask(bob, "join", code=made["code"].upper().replace("-", " "))
        self.assertEqual((met["peer"], met["petname"]), (str(self.alice.id), "alice"))
        used = self.wait(alice, "code-used")
        self.assertEqual((used["peer"], used["petname"], used["known"]), (str(self.bob.id), "robert", True))

    def test_a_new_address(self) -> None:
        page = self.page(self.alice, self.alice_view)
        url = self.ask(page, "web")["url"]
        other = SimulatedBrowser(self.net, self.alice.host, 8080)
        self.assertEqual(other.enter(url).status, 303)
        self.assertTrue(other.socket().open)

    def test_who_can_answer_a_call(self) -> None:
        """An open page, also one that is being reloaded; nobody else."""
        self.assertFalse(self.bob_view.can_answer)
        page = self.page(self.bob, self.bob_view)
        self.assertTrue(self.bob_view.can_answer)
        page.connection.transport.abortConnection()  # type: ignore[union-attr]
        self.net.advance(RELOAD / 2)
        self.assertTrue(self.bob_view.can_answer)
        self.net.advance(RELOAD)
        self.assertFalse(self.bob_view.can_answer)

    def test_the_code_is_the_id(self) -> None:
        """The QR code has the size for the ID, and each dark module is drawn once."""
        code = qr_code(str(self.alice.id))
        size = code["size"]
        drawn: set[tuple[int, int]] = set()
        for part in code["path"].split("M")[1:]:
            start, _, rest = part.partition("h")
            x, y = map(int, start.split())
            run = {(x + step, y) for step in range(int(rest.partition("v")[0]))}
            self.assertFalse(drawn & run)
            drawn |= run
        self.assertEqual({x for x, _ in drawn} | {y for _, y in drawn}, set(range(size)))
        for corner in ((0, 0), (size - 7, 0), (0, size - 7)):
            for x in range(7):
                self.assertIn((corner[0] + x, corner[1]), drawn)
        self.assertNotEqual(code, qr_code(str(self.bob.id)))


class RecordingWebSocket:
    """A WebSocket's transport that keeps what is said on it."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def sendTextMessage(self, text: str) -> None:
        self.said.append(json.loads(text))

    def ping(self, payload: bytes = b"") -> None:
        """Nobody answers."""


class DiskTests(SynchronousTestCase):
    """A page that is opened while the disk has its troubles."""

    @contextmanager
    def opened(self, view: WebView, network: ChatNetwork) -> Iterator[list[dict[str, Any]]]:
        """A page, and what it is told: the first when the disk has answered."""
        websocket = RecordingWebSocket()
        page = view.page(cast(PageConnection, StringTransport()))
        page.negotiationStarted(cast(Any, websocket))
        page.negotiationFinished()
        yield websocket.said
        page.connectionLost(Failure(ConnectionDone()))

    def view(self, side: ChatPeer) -> WebView:
        """Served to nobody but the test."""
        view = WebView(
            side.chat,
            reactor=side.network.clock,
            pairs=lambda peer: [],
            commands=CommandContext(side.chat, lambda: None),
            random=lambda count: bytes(count),
        )
        side.chat.views.attach(view)
        return view

    def test_it_takes_nothing(self) -> None:
        """A page that comes later says so as well, until it is over."""
        network = ChatNetwork()
        alice, bob = ChatPeer(network, 1, "alice").start(), ChatPeer(network, 2, "bob").start()
        view = self.view(alice)
        network.connect(bob, alice)
        network.run()
        with self.opened(view, network) as said:
            self.assertIsNone(said[0]["history_failed"])
        alice.store.database.rows("PRAGMA query_only = ON")
        bob.chat.send(alice.id, "hi")
        network.run()
        with self.opened(view, network) as said:
            self.assertIn("readonly", said[0]["history_failed"])
            alice.store.database.rows("PRAGMA query_only = OFF")
            network.run(RETRY + 1.0)
            self.assertIn({"event": "history-failed", "text": None}, said)
        with self.opened(view, network) as said:
            self.assertIsNone(said[0]["history_failed"])

    def test_nothing_is_told_twice(self) -> None:
        """Messages that the snapshot counts are not sent again after it, and all others are."""
        network = ChatNetwork()
        network.step = 0.01
        bob = ChatPeer(network, 2, "bob").start()
        for delay in (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
            with self.subTest(delay=delay):
                store = Store(None)
                alice = ChatPeer(
                    network, 1, "alice", worker=SlowDisk(network.clock, store, Random(1))
                ).start()
                network.connect(bob, alice)
                network.run(1.0)
                view = self.view(alice)
                bob.chat.send(alice.id, "hi")
                alice.chat.send(bob.id, "hello")
                network.run()
                network.clock.advance(delay)
                with self.opened(view, network) as said:
                    network.run(2.0)
                    (snapshot, *later) = [e for e in said if e["event"] != "pairs"]
                    (chat,) = snapshot["conversations"]
                    told = [event["event"] for event in later]
                    self.assertEqual(chat["unread"] + told.count("message"), 1)
                    self.assertEqual(chat["waiting"] + told.count("added") - told.count("delivered"), 0)
                alice.kill()
