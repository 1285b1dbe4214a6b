"""From an introduction to the link that it is for."""

from __future__ import annotations

from punch.link.certificate import LinkCertificate
from punch.link.core import LinkCore
from punch.link.events import LinkRole
from punch.link.link import Link
from punch.node.call_context import CallContext
from punch.node.ice_restart import LinkTerms
from punch.node.ice_transport import IceTransport
from punch.node.signaling import Signaling
from punch.node.signaling_state import Introduction, Side


def make_link(
    call: Signaling,
    event: Introduction,
    certificate: LinkCertificate | None,
    paths: IceTransport,
    around: CallContext,
) -> tuple[Link, LinkTerms]:
    """
    The link of an introduced call, which waits for a path, and what both sides know it by.

    :param certificate: ours, if we are the callee.
    """
    core = LinkCore(
        role=LinkRole.CALLER if call.side is Side.CALLER else LinkRole.CALLEE,
        identity=around.identity,
        remote=call.peer,
        offer_digest=event.offer_digest,
        answer_digest=event.answer_digest,
        certificate=certificate,
        certificate_sha256=event.certificate_sha256,
        random=around.random,
        now=around.monotonic(),
    )
    link = Link(
        core, clock=around.clock, monotonic=around.monotonic, send=paths.send, services=around.services
    )
    digest = event.certificate_sha256 if certificate is None else certificate.sha256
    assert digest is not None
    return link, LinkTerms(event.offer_digest, digest)
