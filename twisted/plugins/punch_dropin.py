"""What `twistd` offers when Punch is installed. Nothing heavy is imported: modules are named, not loaded."""

from typing import Any

from twisted.application.service import ServiceMaker
from twisted.internet.interfaces import (
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer

rendezvous = ServiceMaker(
    "Punch rendezvous",
    "punch.cli.rendezvous.tap",
    "Introduce peers behind NATs to each other.",
    "punch-rendezvous",
)

peer = ServiceMaker(
    "Punch peer",
    "punch.cli.peer_tap",
    "Punch through to another peer and chat with it, or wait for one.",
    "punch-peer",
)


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor, IStreamServerEndpointStringParser)
class _PunchEndpoints:
    """Endpoint strings that begin with `punch:`."""

    prefix = "punch"

    # A key of a string may have the name of an argument
    def parseStreamClient(self, reactor: Any, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """`punch:WHO:service=NAME`, a service of a peer."""
        from punch.endpoints import parse_client
        from punch.ui.text.causes import event_sentence

        return parse_client(reactor, args, kwargs, sentence=event_sentence)

    def parseStreamServer(self, reactor: Any, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """`punch:service=NAME:allow=WHO`, a service for peers."""
        from punch.endpoints import parse_server
        from punch.ui.text.causes import event_sentence

        return parse_server(reactor, args, kwargs, sentence=event_sentence)


endpoints = _PunchEndpoints()
