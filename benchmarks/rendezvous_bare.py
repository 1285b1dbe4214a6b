"""
What `rendezvous.py` compares the service with: a TLS 1.3 line server of Twisted with client certificates,
which does nothing else. It passes lines on between clients, and has no limits, no timers and no checks.
"""

from __future__ import annotations

import json
import sys
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from benchmarks.rendezvous_load import make_certificate
from punch.identity import Identity, PeerID

_PASSED_ON = {
    "establish": ("incoming", "offer"),
    "answer": ("answered", "answer"),
    "candidate": ("candidate", "envelope"),
}


class LineServer(LineReceiver):
    """One client."""

    delimiter = b"\n"
    clients: dict[str, LineServer] = {}

    def __init__(self) -> None:
        self.id = ""

    def lineReceived(self, line: bytes) -> None:
        """Answer a line, or pass it on."""
        message = json.loads(line)
        kind = message["type"]
        if kind == "register":
            certificate = cast(Any, self.transport).getHandle().get_peer_certificate(as_cryptography=True)
            self.id = str(PeerID.from_certificate(certificate))
            self.clients[self.id] = self
            self._send({"type": "welcome", "id": self.id})
        elif kind == "ping":
            self._send({"type": "pong"})
        elif kind == "cancel":
            self.clients[message["to"]]._send({"type": "ended", "call": message["call"], "code": "cancelled"})
        else:
            shown, part = _PASSED_ON[kind]
            passed_on = {"type": shown, "call": message["call"], "from": self.id, part: message[part]}
            self.clients[message["to"]]._send(passed_on)

    def _send(self, message: dict[str, Any]) -> None:
        assert self.transport is not None
        self.transport.write(json.dumps(message).encode() + b"\n")

    def connectionLost(self, reason: Any = None) -> None:
        """Forget the client."""
        self.clients.pop(self.id, None)


@implementer(IOpenSSLServerConnectionCreator)
class _Creator:
    def __init__(self) -> None:
        identity = Identity.generate()
        context = self._context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_options(SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(b"bare")
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.use_certificate(make_certificate(identity.private_key))
        context.use_privatekey(cast(Any, identity.private_key))
        context.set_alpn_select_callback(lambda connection, offered: b"punch/1")
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context, None)


def main() -> None:
    """Serve, and print the port."""
    from twisted.internet import reactor

    inner = Factory.forProtocol(LineServer)
    inner.noisy = False
    factory = TLSMemoryBIOFactory(_Creator(), False, inner)
    factory.noisy = False
    port = cast(Any, reactor).listenTCP(0, factory, backlog=1024, interface="127.0.0.1")
    print(json.dumps({"port": port.getHost().port}), flush=True)
    cast(Any, reactor).run()


if __name__ == "__main__":
    sys.setswitchinterval(1.0)
    main()
