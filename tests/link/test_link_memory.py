"""How much memory a proved peer can make a link, with its QUIC library, use by any one kind of frame."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from punch.link.quic.interface import CONNECTION_WINDOW
from punch.link.quic.receive_limits import UNANSWERED_PACKETS
from punch.test.link.flooder import BATCH, BULK, CALLEE_FLOODS, FLOODS, Flooder, packed
from punch.test.link.link_pair import AioquicMixin, LinkTestCase
from punch.test.link.test_limits import MOST_PACKETS, STREAM_OPEN

BOUND = 12_000_000
"""Bytes, as docs/security.md says. Most is taken by datagrams, which nobody reads here: up to 9.2 MB."""
MOST_OF_PADDING = 36_000
"""Packets after which packets of PADDING, or pieces of streams as large as packets, have ended the link."""
STATM = Path("/proc/self/statm")


class Links(LinkTestCase):
    """Makes victims."""

    __test__ = False

    def runTest(self) -> None:
        """No test of its own."""


class AioquicLinks(AioquicMixin, Links):
    """The same with aioquic."""


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def flood(kind: type[LinkTestCase], name: str) -> Flooder:
    """A link and its other side, when a flood has ended it."""
    links = kind()
    links.setUp()
    is_caller = name in FLOODS
    victim = links.make_callee() if is_caller else links.make_caller()
    flooder = Flooder(victim, links.certificate, is_caller)
    if is_caller:
        flooder.send([STREAM_OPEN])
    assert flooder.flood(packed({**FLOODS, **CALLEE_FLOODS}[name]), MOST_PACKETS)
    return flooder


def growth(kind: type[LinkTestCase], name: str) -> int:
    """The memory that both sides take for a flood, in bytes."""
    # What a process, a library and the first link take
    flood(kind, "PING")
    before = resident()
    flooder = flood(kind, name)
    grown = resident() - before
    assert flooder.victim.closed is not None
    return grown


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", [Links, AioquicLinks])
def test_any_kind_of_frame(kind: type[LinkTestCase]) -> None:
    if getattr(kind, "skip", None):
        pytest.skip("aioquic is not installed")
    # A process for each, since what was freed after one flood would be used by the next.
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        names = [*FLOODS, *CALLEE_FLOODS]
        sizes = pool.starmap(growth, [(kind, name) for name in names], chunksize=1)
        pool.close()
        pool.join()
    assert {name: size for name, size in zip(names, sizes, strict=True) if size > BOUND} == {}
    # So much can be seen at all.
    assert max(sizes) > 500_000


def send_bulk(kind: type[LinkTestCase], name: str) -> tuple[int, str, int]:
    """
    Send packets full of one kind of bulk data until the link ends, acknowledging nothing.

    :return: how many packets arrived, why the link ended, and the bytes of memory that it took at most.
    """
    flood(kind, "PING")
    links = kind()
    links.setUp()
    flooder = Flooder(links.make_callee(), links.certificate, True)
    flooder.send([STREAM_OPEN])
    payloads = packed(BULK[name])
    before = most = resident()
    while flooder.victim.closed is None and flooder.sent < 2 * UNANSWERED_PACKETS:
        flooder.send(next(payloads) for _ in range(BATCH))
        # An application that reads the datagrams.
        flooder.victim.events.clear()
        if not flooder.sent // BATCH % 100:
            most = max(most, resident())
    assert flooder.victim.closed is not None
    return flooder.sent, flooder.victim.closed.reason, max(most, resident()) - before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bulk_data() -> None:
    """What looks like a transfer ends the link later, and takes no more memory than docs/security.md says."""
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        results = pool.starmap(send_bulk, [(Links, name) for name in BULK], chunksize=1)
        pool.close()
        pool.join()
    told = dict(zip(BULK, results, strict=True))
    packets, reason, memory = told["PADDING"]
    assert MOST_PACKETS < packets <= MOST_OF_PADDING
    assert "brought nothing" in reason
    assert memory < BOUND
    packets, reason, memory = told["DATAGRAM, whole packets"]
    assert MOST_OF_PADDING < packets <= UNANSWERED_PACKETS + BATCH
    assert "acknowledges nothing" in reason
    assert memory < BOUND
    packets, reason, memory = told["STREAM, large"]
    assert MOST_PACKETS < packets <= MOST_OF_PADDING
    assert memory < CONNECTION_WINDOW + BOUND
