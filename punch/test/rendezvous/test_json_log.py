"""The log as JSON: what a line has, and what it has not."""

from __future__ import annotations

import io
import json
from time import process_time
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from punch.rendezvous.operator_log import OperatorLog, json_log
from punch.test.rendezvous.test_service import RendezvousCase

ID = "txjl2ynp4nzcq3wdb44oy7lgmqcyy5fdrg7xyqpdzjv3ujyyrbfc5aid"


class LineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.file = io.StringIO()

    def logger(self, namespace: str, *, addresses: bool = False, peers: bool = False) -> Logger:
        observer = json_log(self.file, full_addresses=addresses, full_peers=peers)
        return Logger(namespace=namespace, observer=observer)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.getvalue().splitlines()]

    def operator_log(self, *, peers: bool) -> OperatorLog:
        clock = Clock()
        return OperatorLog(
            clock=clock,
            monotonic=clock.seconds,
            full_peers=peers,
            log=self.logger("punch.rendezvous.operator_log"),
        )

    def test_fields_of_the_operators_log(self) -> None:
        log = self.operator_log(peers=False)
        log.registered(ID, "Alice")
        log.limit_hit("203.0.113.77", "lines", ID)
        log.allocation_ended("203.0.113.77", ID, "198.51.100.1:50000", seconds=2.4, to_peers=10, to_client=20)
        log.gone(ID, "timeout")
        found = self.lines()
        self.assertEqual({line["source"] for line in found}, {"punch.rendezvous.operator_log"})
        for line in found:
            self.assertRegex(line.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertEqual(line.pop("level"), "info")
            del line["source"]
        self.assertEqual(
            found,
            [
                {"event": "registered", "peer": "txjl2ynp"},
                {"event": "limit-hit", "limit": "lines", "address": "203.0.113.0/24", "peer": "txjl2ynp"},
                {
                    "event": "allocation-ended",
                    "relayed": "198.51.100.1:50000",
                    "address": "203.0.113.0/24",
                    "peer": "txjl2ynp",
                    "seconds": 2,
                    "to_peers": 10,
                    "to_client": 20,
                },
                {"event": "gone", "peer": "txjl2ynp", "reason": "timeout"},
            ],
        )

    def test_whole_ids_and_names_if_asked(self) -> None:
        self.operator_log(peers=True).registered(ID, "Alice")
        (line,) = self.lines()
        self.assertEqual((line["peer"], line["name"]), (ID, "Alice"))

    def test_text_of_others(self) -> None:
        """A library may log anything."""
        logger = self.logger("twisted.internet.tcp")
        for text, cut in (
            ("lost 203.0.113.77", "lost 203.0.113.0/24"),
            ("lost IPv4Address(TCP, '203.0.113.77', 5000)", "lost IPv4Address(TCP, '203.0.113.0/24', 5000)"),
            ("from 203.0.113.77:5000.", "from 203.0.113.0/24:5000."),
            ("from tcp:203.0.113.77:5000", "from tcp:203.0.113.0/24:5000"),
            ("from [2001:db8:1:2:3::4]:5000", "from [2001:db8:1::/48]:5000"),
            ("from ::ffff:203.0.113.77", "from 203.0.113.0/24"),
            (f"peer {ID}", "peer txjl2ynp…"),
            (
                "at 04:23:29, version 26.10.0, zope::interface",
                "at 04:23:29, version 26.10.0, zope::interface",
            ),
        ):
            logger.info("{text}", text=text)
            self.assertEqual(self.lines()[-1]["message"], cut)

    def test_texts_that_are_nearly_addresses(self) -> None:
        """The time of a search grows with the length of the text: ten times as much for ten times as much."""
        for text in ("a" * 50 + ":", "::", "1:2:", "a:", "0.0.0.", "1.2.3.4:", "ab::cd.", "f"):
            took = []
            for times in (2_000, 20_000):
                long = text * times + "g"
                began = process_time()
                self.logger("somewhere").info("{long}", long=long)
                took.append(process_time() - began)
            self.assertLess(took[1], 0.2 + 30 * took[0], text)

    def test_text_in_full_if_asked(self) -> None:
        logger = self.logger("twisted", addresses=True, peers=True)
        logger.info("{text}", text=f"lost 203.0.113.77, {ID}")
        self.assertEqual(self.lines()[0]["message"], f"lost 203.0.113.77, {ID}")

    def test_an_event_of_others_with_our_fields(self) -> None:
        """Only our own modules are trusted to have cut their fields."""
        self.logger("somebody").info("lost {host}", event="x", host="203.0.113.77")
        (line,) = self.lines()
        self.assertEqual(line["message"], "lost 203.0.113.0/24")
        self.assertNotIn("host", line)

    def test_a_failure(self) -> None:
        logger = self.logger("twisted")
        try:
            raise ValueError("203.0.113.77 is wrong\nwith a second line")
        except ValueError:
            logger.failure("It failed", Failure())
        (line,) = self.lines()
        self.assertEqual(line["level"], "critical")
        self.assertEqual(line["message"], "It failed")
        self.assertIn("ValueError: 203.0.113.0/24 is wrong", line["traceback"])

    def test_one_line_each(self) -> None:
        """Text of strangers breaks no line and is not taken for a format string."""
        log = self.operator_log(peers=True)
        log.registered(ID, 'x"\n{"event": "forged"}')
        log.registration_refused("203.0.113.77", "{log_time}", "\u2028\ud800")
        self.assertEqual([line["event"] for line in self.lines()], ["registered", "registration-refused"])
        self.assertTrue(self.file.getvalue().isascii())


class ServiceTests(RendezvousCase):
    def test_a_registration(self) -> None:
        """Neither the name nor the whole ID or address of a peer comes into the log."""
        from twisted.logger import globalLogPublisher

        self.restart(log_full_peers=False)
        file = io.StringIO()
        observer = json_log(file, full_addresses=False, full_peers=False)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        client = self.register(self.alice, name="Alice")
        client.abort()
        self.net.advance(1.0)
        lines = [json.loads(line) for line in file.getvalue().splitlines()]
        events = [line["event"] for line in lines if line["source"].startswith("punch.rendezvous")]
        self.assertEqual(events, ["registered", "gone"])
        for private in ("Alice", str(self.alice.peer_id), "203.0.113.1"):
            self.assertNotIn(private, file.getvalue())
