"""How much memory a proved peer can make a link, with its QUIC library, use by any one kind of frame."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from punch.test.flooder import CALLEE_FLOODS, FLOODS, Flooder, packed
from punch.test.link.test_limits import MOST_PACKETS, STREAM_OPEN
from punch.test.link_pair import AioquicMixin, LinkTestCase

BOUND = 12_000_000
"""Bytes, as docs/security.md says. Most is taken by datagrams, which nobody reads here: up to 9.2 MB."""
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
