"""docs/security.md names tests that exist, and its numbers and those of docs/web.md are those of the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from punch.apps.chat.model import MAX_TEXT
from punch.apps.forward import connections as forward
from punch.apps.forward import datagrams
from punch.apps.forward import messages as forward_messages
from punch.contact_entries import MAX_AGE, MAX_PATHS
from punch.ice import budget, limits
from punch.ice.candidates import MAX_SIGNALLED
from punch.ice.checklist import MAX_PAIRS
from punch.link.events import LinkLimits
from punch.link.quic.interface import CONNECTION_WINDOW, MAX_RECEIVED
from punch.link.quic.receive_limits import UNANSWERED_PACKETS, Sampler
from punch.local import connection as local_connection
from punch.local import server as local_server
from punch.local.access import MAX_REPORTED
from punch.local.protocol import MAX_LINE
from punch.net.segmented_table import PROBATION
from punch.node.calls import offer_freshness
from punch.node.calls.calls import MAX_CALLS
from punch.node.control import core, hosts
from punch.rendezvous.config import RendezvousLimits
from punch.rendezvous.members.membership import MAX_REVOCATIONS, REVOCATION_BURST
from punch.rendezvous.reflector import AMPLIFICATION, PERIOD
from punch.rendezvous.registry import places
from punch.rendezvous.tcp import connection_limiter
from punch.test.link.test_limits import MOST_PACKETS
from punch.turn.server import core as relay
from punch.turn.server.allocations import UNPROVED_PART
from punch.ui.web import admission as web
from punch.ui.web import connections, uploads
from punch.ui.web.socket import MAX_PENDING
from punch.wire.address import FIRST_PORT, LOW_PORTS
from punch.wire.control import MAX_REFLECTORS
from punch.wire.fields import MAX_TEXT as MAX_SENTENCE
from punch.wire.peers.sealed import PADDING
from punch.wire.rendezvous_address import MAX_RECORDS
from punch.wire.stun import MAX_ATTRIBUTES
from punch.wire.turn import MAX_RELAYS
from tests.link.test_link_floods import QUICK, REST
from tests.link.test_link_memory import BOUND, MOST_OF_PADDING

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "docs/security.md").read_text(encoding="utf-8")
WEB = (ROOT / "docs/web.md").read_text(encoding="utf-8")
CLAIMS, TABLE = SECURITY.split("## Which test shows what\n")
NAMES = re.findall(r"`([\w.]*\btest_[\w.]+)`", TABLE.split("| --- |")[1])

LIMITS = RendezvousLimits()
WORDS = {2: "two", 4: "four", 5: "five", 8: "eight", 10: "ten", 24: "24"}


@cache
def names_in(module: str) -> frozenset[str]:
    """The names of a module's tests, and of its classes that have some."""
    file = Path(*module.split(".")).with_suffix(".py")
    paths = [path for folder in ("punch/test", "tests") if (path := ROOT / folder / file).exists()]
    found = set()
    for path in paths:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.ClassDef):
                methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
                tests = {f"{node.name}.{name}" for name in methods if name.startswith("test_")}
                found |= tests | ({node.name} if tests else set())
    return frozenset(found)


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_exists(name: str) -> None:
    matched = re.fullmatch(r"((?:[a-z]\w*\.)*?test_\w+)\.?(.*)", name)
    assert matched is not None
    module, test = matched.groups()
    assert test in names_in(module)


def test_every_claim_has_tests() -> None:
    rows = TABLE.strip().split("| --- | --- |\n")[1].splitlines()
    assert len(rows) > 25
    for row in rows:
        assert re.fullmatch(r"\| [^|]+ \| (`[\w.]*\btest_[\w.]+` ?)+\|", row), row


SECURITY_NUMBERS = [
    f"at most {local_server.MAX_CONNECTIONS:,} connections, {MAX_LINE >> 10} KiB a line, "
    f"{local_connection.MAX_COMMANDS} commands at a time on each, "
    f"{local_connection.MAX_UNREAD >> 20} MiB of unread events, "
    f"and {local_connection.MAX_WAITING:,} streams that wait",
    f"A program may report {MAX_REPORTED} transfers",
    f"at most {forward.MAX_CONNECTIONS_OF_PEER:,} connections to an exposed address, "
    f"and all peers have {forward.MAX_CONNECTIONS:,}; "
    f"a link carries at most {LinkLimits().streams:,} streams",
    f"at most {forward_messages.MAX_FLOWS} flows, each of which is a socket, "
    f"and all peers have {datagrams.MAX_FLOWS_OF_ALL:,}",
    f"At most {connections.MAX_UPLOADING} files come at a time, and {uploads.MAX_UPLOADS} uploads of "
    f"{uploads.MAX_FILES:,} files each wait to be sent",
    f"no page has continued the upload for {uploads.IDLE_TIME:.0f} s",
    f"has {forward.CONNECT_TIME:.0f} s to accept a connection",
    f"steps of {PADDING} bytes",
    f"{offer_freshness.MAX_CALLERS} known callers",
    (
        f"last {offer_freshness.MAX_UNTIMED} such offers of each of "
        f"{offer_freshness.MAX_UNTIMED_CALLERS} known callers"
    ),
    f"at most {MAX_RELAYS} at once, {hosts.MAX_HOSTS} hosts in an hour, "
    f"and {hosts.MAX_UPDATES} times in two minutes",
    f"up to {MAX_REFLECTORS} reflectors",
    f"at most {hosts.MAX_ADDRESSES} allowed addresses",
    f"at ports below {FIRST_PORT} are used only at " + "{}, {} and {}".format(*sorted(LOW_PORTS)),
    f"up to {MAX_RECORDS} hosts and ports",
    f"a sentence of {MAX_SENTENCE} characters",
    f"{core.LINE_RATE:.0f} lines a second ({core.LINE_BURST:,} at once), more slowly",
    f"each message up to {MAX_TEXT // 1024} KiB",
    f"streams ({LinkLimits().streams:,} at once)",
    f"candidates ({MAX_SIGNALLED} a generation, {MAX_PAIRS} pairs)",
    f"after {MOST_PACKETS:,} packets",
    f"less than {BOUND / 1e6:.0f} MB of memory",
    f"after {MOST_OF_PADDING:,} packets of PADDING",
    f"after {UNANSWERED_PACKETS:,} packets with datagrams",
    f"a real process {len(QUICK + REST)} kinds of packets",
    f"sends {len(QUICK)} of the {len(QUICK + REST)} kinds",
    f"Up to {CONNECTION_WINDOW >> 20} MiB",
    f"A node has {MAX_CALLS} calls and links at most. Where anyone is accepted, somebody with {MAX_CALLS}",
    f"A node has at most {MAX_CALLS} calls and links, so {MAX_CALLS * CONNECTION_WINDOW / (1 << 30)} GiB",
    f"one of {Sampler.ONE_OF} at random",
    f"{2 * Sampler.ONE_OF - 1} packets",
    f"Datagrams of more than {MAX_RECEIVED:,} bytes",
    f"for {PERIOD / 60:.0f} to {2 * PERIOD / 60:.0f} minutes",
    f"{LIMITS.probe_rate:.0f} a second, and {LIMITS.probe_burst:.0f} at once",
    f"one for {WORDS[UNPROVED_PART]} that the relay may have",
    f"the ID for the last {LIMITS.registrations // 8:,} peers of one address",
    f"takes {WORDS[REVOCATION_BURST]} revocations from one address at once, later one in ten minutes, "
    f"and {MAX_REVOCATIONS:,} in all",
    f"request of up to {MAX_ATTRIBUTES} attributes",
    f"{WORDS[round(LIMITS.relay_rate / LIMITS.relay_rate_per_peer)]} of them may use up all the bandwidth",
    f"after {LIMITS.handshake_time:.0f} seconds at most",
    f"There are {LIMITS.handshakes} places",
    f"one connection in {WORDS[connection_limiter.RESERVE]}, at most {2 * LIMITS.handshakes:,}",
    f"may send {LIMITS.address_rate:.0f} lines a second",
    f"{LIMITS.message_rate:.0f} lines a second ({LIMITS.message_burst:.0f} at once)",
    f"An address has {LIMITS.connections_per_address} connections at most",
    f"one in {WORDS[connection_limiter.EARLIER]} ({LIMITS.connections // connection_limiter.EARLIER})",
    f"of one address {2 * LIMITS.registrations_per_address} peers",
    f"one place in {WORDS[places.RESERVE]} is kept",
    f"An entry that has been there for {PROBATION:.0f} seconds",
    f"{2 * LIMITS.registrations:,} peers and {2 * LIMITS.registrations:,} pairs",
    f"{WORDS[LIMITS.calls_per_callee]} of their calls ring at once, at most "
    f"{WORDS[LIMITS.calls_per_source]} of one address and {WORDS[2 * LIMITS.calls_per_source]} of one /56",
    f"at most {LIMITS.answered_per_callee} calls are answered and have not become a link, "
    f"{LIMITS.answered_per_source} of one address",
    f"at most {budget.MAX_PACKETS} packets and {budget.MAX_BYTES:,} bytes (with headers) in ten minutes",
    f"at most {budget.MAX_PACKETS} packets and {budget.MAX_BYTES:,} bytes in a minute",
    f"at most {limits.MAX_OPENINGS} packets and {limits.MAX_OPENING_BYTES:,} bytes "
    "(with headers) in ten minutes to one peer",
    f"at most {limits.MAX_EARLY} packets and {limits.MAX_EARLY_BYTES:,} bytes (with headers) in ten minutes",
    f"less than {MAX_AGE} days ago",
    f"for each of {WORDS[MAX_PATHS]} pairs of networks",
    f"counts for {budget.MAX_PEERS} peers",
    f"{limits.CHECKS[1]} such packets at once, and then one a second",
    f"{limits.OPENINGS[1]} such packets sent to one host at once and then one in five seconds, and "
    f"{limits.ALL_OPENINGS[1]:,} to all hosts at once and then two a second",
    f"{limits.MAX_SPRAYED:,} packets and {limits.MAX_SPRAYED_BYTES:,} bytes in ten minutes to one peer",
    f"{limits.SPRAYED[1]:,} packets sent to one host at once and then three a second",
    f"{limits.ALL_SPRAYED[1]:,} to all hosts at once and then twelve a second",
]

WEB_NUMBERS = [
    f"{connections.MAX_UPLOADING} files of pages at a time",
    f"({8 * web.SECRET_BYTES} bits",
    f"at most {web.MAX_TICKETS} wait",
    f"{connections.MAX_PLAIN} plain connections",
    f"for {connections.PLAIN_TIME:.0f} s and {connections.PLAIN_BYTES >> 10} KiB each",
    f"{connections.MAX_SOCKETS} WebSockets",
    f"{connections.MAX_MESSAGE >> 10} KiB a message, {MAX_PENDING} commands at a time",
    f"nothing for {connections.UNREAD_TIME:.0f} s, or leaves {connections.UNREAD_BYTES >> 20} MiB unread",
]


@pytest.mark.parametrize(
    ("text", "number"),
    [(CLAIMS, each) for each in SECURITY_NUMBERS] + [(WEB, each) for each in WEB_NUMBERS],
)
def test_numbers(text: str, number: str) -> None:
    assert number in " ".join(text.split())


def test_numbers_in_words() -> None:
    """Those that stand in the text as words."""
    assert AMPLIFICATION == relay.AMPLIFICATION == 3
    assert offer_freshness.WINDOW == 5 * 60
    assert hosts.FORGET == LIMITS.relay_nonce_time == 3600
    assert hosts.UPDATE_TIME == 2 * 60
    assert limits.WINDOW == 10 * 60
    rates = [limits.CHECKS, limits.OPENINGS, limits.ALL_OPENINGS]
    assert [each[0] for each in rates] == [1, 1 / 5, 2]
    assert [each[0] for each in (limits.SPRAYED, limits.ALL_SPRAYED)] == [3, 12]
    assert budget.RELAY_WINDOW == 60
    assert LIMITS.relay_credentials_time == 30 * 60
    assert LIMITS.handshakes_per_address * 2 == LIMITS.handshakes
    assert LIMITS.handshake_share == 0.5
    assert LIMITS.cpu_share_per_address == 0.25
    assert 3 < LIMITS.relay_allocations / LIMITS.relay_allocations_per_address <= 4
