"""The page's WebSocket: commands, answers, and what a page may not do to the server."""

from __future__ import annotations

import json

from punch.test.ui.web.web_server import ServerTestCase
from punch.ui.json.commands import MAX_COMMAND, MAX_REQUEST
from punch.ui.web.connections import MAX_SOCKETS, UNREAD_BYTES, UNREAD_TIME
from punch.ui.web.socket import MAX_PENDING, PING


class SocketTests(ServerTestCase):
    def test_commands_and_answers(self) -> None:
        page = self.page()
        page.say({"command": "echo", "request": 1, "text": "hello"})
        page.say({"command": "fail", "request": "two"})
        page.say({"command": "nothing"})
        self.net.advance(0.2)
        self.assertEqual(
            page.events[1:],
            [
                {"event": "result", "request": 1, "command": "echo", "text": "hello"},
                {
                    "event": "error",
                    "request": "two",
                    "command": "fail",
                    "reason": "no-call",
                    "text": "It can't be done.",
                },
                {
                    "event": "error",
                    "command": "nothing",
                    "reason": "unknown-command",
                    "text": "There is no such command.",
                },
            ],
        )

    def test_what_an_answer_repeats(self) -> None:
        """An answer repeats the client's id of a message and the start of `request`, as on stdin."""
        page = self.page()
        page.say({"command": "fail", "request": "r" * 200, "id": "mine"})
        page.say({"command": "echo", "request": True, "text": "hello"})
        self.net.advance(0.2)
        self.assertEqual((page.events[1]["request"], page.events[1]["id"]), ("r" * MAX_REQUEST, "mine"))
        self.assertNotIn("request", page.events[2])

    def test_a_mistake_of_ours(self) -> None:
        """It is told, logged, and ends nothing."""
        page = self.page()
        page.say({"command": "break", "request": 1})
        page.say({"command": "echo", "text": "still there"})
        self.net.advance(0.2)
        self.assertEqual([event.get("reason") for event in page.events[1:]], ["internal", None])
        self.assertEqual(page.events[1]["request"], 1)
        self.assertEqual(page.events[2]["text"], "still there")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_garbage(self) -> None:
        """Text that is no command gets an error, and the connection stays."""
        page = self.page()
        garbage = [
            "",
            "x",
            "[]",
            "null",
            "{",
            '{"command": NaN}',
            '{"command": "echo", "command": "fail"}',
            '{"a":' * 40 + "1" + "}" * 40,
            '{"text": "\\ud800"}',
            json.dumps({"command": ["echo"]}),
            json.dumps({"command": None, "request": {"a": 1}}),
            json.dumps({"command": "x" * 100_000}),
        ]
        for message in garbage:
            page.say(message)
        self.net.advance(0.5)
        self.assertEqual([event["event"] for event in page.events[1:]], ["error"] * len(garbage))
        self.assertLess(max(len(json.dumps(event)) for event in page.events), 2000)
        page.say({"command": "echo", "request": 9})
        self.net.advance(0.2)
        self.assertEqual(page.events[-1]["request"], 9)

    def test_garbage_below_messages(self) -> None:
        """Frames that are none end the connection, and nothing else."""
        other = self.page()
        for garbage in (
            b"\xff" * 100,
            b"\x83\x80\0\0\0\0",  # a reserved opcode
            b"\x81\x05hello",  # not masked
            b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0",  # 2^64 bytes to come
            b"\x81\x82\0\0\0\0\xc3\x28",  # not UTF-8
            b"\x89\xff\0\0\0\0\0\0\x01\0\0\0\0\0",  # a ping of 256 bytes
            b"\x80\x80\0\0\0\0",  # goes on with nothing
        ):
            page = self.page()
            page.connection.write(garbage)
            self.net.advance(1.0)
            self.assertIsNotNone(page.connection.lost, garbage[:12])
        other.say({"command": "echo", "request": 1})
        self.net.advance(0.2)
        self.assertEqual(other.events[-1]["event"], "result")
        self.flushLoggedErrors()

    def test_binary_messages(self) -> None:
        page = self.page()
        page.say_bytes(b'{"command": "echo"}')
        self.net.advance(1.0)
        self.assertEqual(page.closed, 1003)

    def test_a_long_command(self) -> None:
        page = self.page()
        page.say({"command": "echo", "request": 1, "text": "x" * MAX_COMMAND})
        self.net.advance(2.0)
        self.assertEqual(page.events[-1]["reason"], "too-long")
        page.say({"command": "echo", "request": 2, "text": "x" * (MAX_COMMAND // 2)})
        self.net.advance(2.0)
        self.assertEqual(page.events[-1]["event"], "result")

    def test_ten_megabytes(self) -> None:
        page = self.page()
        page.say("x" * 10_000_000)
        self.net.advance(30.0)
        self.assertIsNotNone(page.connection.lost)

    def test_a_message_without_end(self) -> None:
        page = self.page()
        for _ in range(100):
            if page.connection.lost is None:
                page.part("x" * 10_000)
            self.net.advance(0.1)
        self.assertIsNotNone(page.connection.lost)

    def test_many_commands_at_once(self) -> None:
        page = self.page()
        for number in range(MAX_PENDING + 10):
            page.say({"command": "wait", "request": number})
        self.net.advance(1.0)
        self.assertEqual(len(self.owner.waiting), MAX_PENDING)
        self.assertEqual([event["reason"] for event in page.events[1:]], ["too-many"] * 10)
        for waiting in self.owner.waiting:
            waiting.callback(None)
        self.net.advance(1.0)
        self.assertEqual(len(page.of("result")), MAX_PENDING)

    def test_an_answer_after_the_page_was_closed(self) -> None:
        page = self.page()
        page.say({"command": "wait", "request": 1})
        self.net.advance(0.5)
        page.connection.transport.abortConnection()  # type: ignore[union-attr]
        self.net.advance(0.5)
        self.owner.waiting[0].callback({"text": "late"})
        self.net.advance(0.5)
        self.assertEqual(self.owner.pages, [])

    def test_many_sockets(self) -> None:
        """A limited number of WebSockets is open at once; when some are closed, others can be opened."""
        browser = self.enter()
        sockets = [browser.socket() for _ in range(5 * MAX_SOCKETS)]
        taken = [socket for socket in sockets if socket.open]
        self.assertEqual(len(taken), MAX_SOCKETS)
        self.assertEqual({socket.refused for socket in sockets if not socket.open}, {503})
        taken[0].say({"command": "echo", "request": 1})
        taken[-1].connection.transport.abortConnection()  # type: ignore[union-attr]
        self.net.advance(0.5)
        self.assertEqual(taken[0].events[-1]["event"], "result")
        self.page(browser)
        self.assertEqual(len(self.owner.pages), MAX_SOCKETS)

    def test_a_browser_that_stops_reading(self) -> None:
        page, other = self.page(), self.page()
        page.connection.pause()
        told = 0
        while len(self.owner.pages) == 2 and told < 100:
            for each in self.owner.pages:
                each.tell({"event": "message", "text": "x" * 200_000})
            told += 1
            self.net.advance(0.2)
        self.assertEqual(len(self.owner.pages), 1)
        self.assertLess(told * 200_000, UNREAD_BYTES + 2_000_000)
        self.net.advance(1.0)
        self.assertEqual(len(other.of("message")), told)

    def test_a_browser_that_leaves_a_little_unread(self) -> None:
        page = self.page()
        page.connection.pause()
        for each in self.owner.pages:
            each.tell({"event": "message", "text": "x" * 2_000_000})
        self.net.advance(UNREAD_TIME / 2)
        self.assertEqual(len(self.owner.pages), 1)
        self.net.advance(UNREAD_TIME)
        self.assertEqual(self.owner.pages, [])

    def test_a_slow_browser_stays(self) -> None:
        page = self.page()
        for _ in range(10):
            page.connection.pause()
            for each in self.owner.pages:
                each.tell({"event": "message", "text": "x" * 500_000})
            self.net.advance(UNREAD_TIME / 3)
            page.connection.transport.resumeProducing()  # type: ignore[union-attr]
            self.net.advance(UNREAD_TIME / 3)
        self.assertEqual(len(page.of("message")), 10)

    def test_idle_pages_stay_and_dead_ones_go(self) -> None:
        page, dead = self.page(), self.page()
        dead.answers_pings = False
        self.net.advance(10 * PING)
        self.assertIsNone(page.connection.lost)
        self.assertIsNotNone(dead.connection.lost)
        self.assertEqual(len(self.owner.pages), 1)

    def test_the_end_of_the_server(self) -> None:
        page = self.page()
        self.net.wait(self.server.stop(), 5.0, "the server stops")
        self.net.advance(0.5)
        self.assertIsNotNone(page.connection.lost)
        self.assertEqual(self.owner.pages, [])
        self.assertIsInstance(self.server.connections.sockets, set)
        self.assertEqual(self.server.connections.protocols, {})
