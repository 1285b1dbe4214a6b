"""
Loads what a link needs while the first call of a process is under way.

qh3, the QUIC library, takes a tenth of a second to load and to begin its first connection. A process that
waits for calls does without it. When it is needed, a path has just been found, and every millisecond delays
the link.
"""

from __future__ import annotations

from threading import Thread

from punch import names
from punch.link.quic.qh3 import Qh3Backend
from punch.node.events import Calling, Event, IncomingCall
from punch.node.interfaces import INode


def load_at_first_call(node: INode) -> None:
    """
    Have a thread load these modules when the first call of a node begins: the answer takes at least as long.
    """

    begun = False

    def note(event: Event) -> None:
        nonlocal begun
        if not begun and isinstance(event, (Calling, IncomingCall)):
            # This listener stays: when one leaves, calls that nobody can answer are refused, and the first
            # call is being decided just now.
            begun = True
            Thread(target=_load, name="load", daemon=True).start()

    node.subscribe(note)


def _load() -> None:
    Qh3Backend().client(0.0).discard()
    # The look of a name is compared when a peer is first met
    names.looks("name")
