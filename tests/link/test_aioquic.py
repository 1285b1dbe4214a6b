"""
The tests of links, over aioquic (`punch/test/link/` runs the quicker ones).

It is written in Python, and takes several times as long as qh3.
"""

from __future__ import annotations

from punch.test.link import test_handshake, test_limits, test_streams, test_twisted
from punch.test.link.link_pair import AioquicMixin
from punch.test.link.test_streams import MIB
from tests.link import test_link_limits


class AioquicVanishTests(AioquicMixin, test_handshake.VanishTests):
    __test__ = True


class AioquicFloodTests(AioquicMixin, test_limits.FloodTests):
    __test__ = True


class AioquicManyFramesTests(AioquicMixin, test_link_limits.FloodTests):
    __test__ = True


class AioquicErrorTests(AioquicMixin, test_link_limits.LibraryErrorTests):
    __test__ = True

    expected = (
        "receive_datagram",
        "datagrams_to_send",
        "handle_timer",
        "get_timer",
        "next_event",
        "send_stream_data",
        "send_datagram_frame",
        "send_ping",
        "reset_stream",
        "get_next_available_stream_id",
    )


class AioquicStreamTests(AioquicMixin, test_streams.StreamTests):
    __test__ = True


class AioquicManyStreamsTests(AioquicMixin, test_link_limits.StreamTests):
    __test__ = True


class AioquicCreditTests(AioquicMixin, test_streams.CreditTests):
    __test__ = True
    # Pure Python takes its time over mebibytes, and half of one shows the same.
    bulk = MIB // 2


class AioquicTwistedTests(AioquicMixin, test_twisted.TwistedTests):
    __test__ = True
    bulk = MIB // 2
