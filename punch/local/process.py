"""Which process has the node of an identity: attach to the one that has it, or become it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import CannotListenError, ConnectError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from punch.contacts import AddressBook
from punch.identity import Identity, PeerID
from punch.local.access import NodeAccess
from punch.local.own import OwnNode, Sentence
from punch.local.protocol import NODE_TIME, CommandError
from punch.local.rendezvous import (
    BadProxy,
    NoRendezvous,
    choose_proxy,
    choose_rendezvous,
    proxy_sentence,
    rendezvous_sentence,
)
from punch.local.server import LocalServer, is_own
from punch.local.socket_file import NotRunning, SocketError, SocketProblem, attaching_path, socket_sentence
from punch.names import without_format
from punch.net.interfaces import gateways_of_machine, source_address
from punch.net.reactor import use_monotonic_time
from punch.net.srv import ServiceResolver
from punch.net.upnp import upnp_of_machine
from punch.node.calls.offer_freshness import OfferMemory, read_offers
from punch.node.events import Event, Registered
from punch.node.network.port_mappings import Gateways
from punch.node.policies import PortMappingPolicy, RelayPolicy, SprayPolicy
from punch.sentences import sentence_of
from punch.state import PeerState, StateDirectory
from punch.state_files import IdentityInUse, Lock, StateError
from punch.wire.control import Accept
from punch.wire.proxy import ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError

if TYPE_CHECKING:
    from punch.local.attached import AttachedNode

ATTACH_TIME = 20.0
"""Seconds in which a process that has the lock has to open its socket, or to end."""
RETRY = 0.1
"""Seconds after which that is looked at again."""
_log = Logger()


@dataclass(frozen=True)
class NodeOptions:
    """
    Which node is meant, and how it is made if no process has it.

    :ivar state: the state directory; `identity` is the name of an identity in it.
    :ivar rendezvous: the addresses of the rendezvous; None: as `choose_rendezvous` says.
    :ivar proxy: the proxy to connect through; None: as `choose_proxy` says.
    :ivar port_mapping: whether routers are asked for ports.
    :ivar spray: whether many packets may go to guessed ports of a peer.
    :ivar program: what this process is, for those who find that it has the node.
    """

    state: StateDirectory
    identity: str
    rendezvous: str | None = None
    proxy: str | None = None
    port_mapping: PortMappingPolicy = PortMappingPolicy.AUTO
    spray: SprayPolicy = SprayPolicy.AUTO
    program: str = "A program"

    @property
    def peer(self) -> PeerState:
        """
        What the identity keeps.

        :raise CommandError: its name can't be used.
        """
        try:
            return self.state.peer(self.identity)
        except StateError as error:
            raise CommandError("state", sentence_of(error)) from None


async def attach(directory: Path, reactor: Any, environ: Mapping[str, str]) -> AttachedNode:
    """
    Attach to the node of a state directory.

    :param directory: that of the identity.
    :raise NotRunning: no process has it.
    :raise SocketError: its socket can't be used.
    :raise CommandError: it does not take this program.
    """
    # Imported here, since a process that becomes the node does not need them
    from punch.local.attached import AttachedNode
    from punch.local.node_connections import NodeGone

    path = attaching_path(directory, environ)
    endpoint = cast("Any", UNIXClientEndpoint)(reactor, os.fspath(path), timeout=NODE_TIME)
    try:
        return await AttachedNode.attach(endpoint, reactor, is_own)
    except NodeGone as error:
        raise NotRunning(SocketProblem.NODE_ENDS, path) from error
    except ConnectError as error:
        if error.osError == errno.EACCES:
            raise SocketError(SocketProblem.OTHER_USER, path) from error
        raise NotRunning(SocketProblem.NOBODY_LISTENS, path) from error


async def attach_or_become(
    options: NodeOptions, reactor: Any, environ: Mapping[str, str], sentence: Sentence
) -> NodeAccess:
    """
    Return the node of an identity: that of the process that has it, or else one in this process.

    Of processes that do this at the same time, one gets the lock of the state directory, and the others wait
    for its socket.

    :param sentence: says to the user why a call failed.
    :raise CommandError: neither works.
    """
    state = options.peer
    deadline = reactor.seconds() + ATTACH_TIME
    while True:
        try:
            node = await attach(state.directory, reactor, environ)
        except NotRunning:
            pass  # This process may become it
        except SocketError as error:
            raise CommandError("denied", socket_sentence(error)) from None
        else:
            try:
                return check_rendezvous(node, options)
            except CommandError:
                node.detach()
                raise
        try:
            lock = state.lock(options.program)
        except IdentityInUse as error:
            if reactor.seconds() >= deadline:
                raise CommandError("in-use", f"{sentence_of(error)} It takes no other programs.") from None
        except StateError as error:
            raise CommandError("state", sentence_of(error)) from None
        else:
            try:
                return await become(options, lock, reactor, environ, sentence)
            except BaseException:
                lock.release()
                raise
        await deferLater(reactor, RETRY, lambda: None)


def check_rendezvous(node: NodeAccess, options: NodeOptions) -> NodeAccess:
    """
    Return a node that uses the rendezvous that the options name, if they name one.

    :raise CommandError: it uses another one, or the address is wrong.
    """
    if options.rendezvous is not None:
        try:
            addresses = RendezvousAddress.parse_all(without_format(options.rendezvous))
        except RendezvousAddressError as error:
            raise CommandError("bad-address", f"--rendezvous: {sentence_of(error)}") from None
        wanted = ",".join(map(str, addresses))
        if wanted != node.rendezvous:
            raise CommandError(
                "other-rendezvous",
                f"The node that runs uses the rendezvous {node.rendezvous}, not {wanted}. Leave "
                "the rendezvous out, end that process, or take another identity.",
            )
    return node


def remembered_offers(state: PeerState) -> OfferMemory:
    """Return what an identity keeps about the offers of other peers."""

    def save(content: bytes) -> bool:
        try:
            state.write_offers(content)
        except StateError as error:
            # Callers are then sent a challenge, which takes a round trip.
            _log.warn("{error}", error=sentence_of(error))
            return False
        return True

    try:
        content = state.read_offers()
    except StateError as error:
        _log.warn("{error}", error=sentence_of(error))
        content = b""
    kept = read_offers(content, time.time(), new=state.new)
    if content is None:
        save(kept.encode())
    return OfferMemory(kept, os.urandom, save)


class KeptPrekeys:
    """
    The prekeys that an identity keeps of known peers. If the disk fails, that is logged; then no prekey is
    read or kept.
    """

    def __init__(self, state: PeerState) -> None:
        self._state = state
        try:
            state.forget_prekeys()
        except StateError as error:
            _log.warn("{error}", error=sentence_of(error))

    def read(self, peer: PeerID) -> bytes | None:
        """Implement `PrekeyStorage.read`."""
        try:
            return self._state.read_prekey(peer)
        except StateError as error:
            _log.warn("{error}", error=sentence_of(error))
            return None

    def write(self, peer: PeerID, signed: bytes | None) -> None:
        """Implement `PrekeyStorage.write`."""
        try:
            self._state.write_prekey(peer, signed)
        except StateError as error:
            _log.warn("{error}", error=sentence_of(error))


def gateways_by(policy: PortMappingPolicy) -> Gateways | None:
    """Return what finds the routers that are asked for ports; None if none is to be asked."""
    return gateways_of_machine if policy is PortMappingPolicy.AUTO else None


def temporary_node(
    identity: Identity,
    name: str,
    book: AddressBook,
    rendezvous: Sequence[RendezvousAddress],
    reactor: Any,
    proxy: ProxySettings | None,
    port_mapping: PortMappingPolicy,
    spray: SprayPolicy,
    sentence: Sentence,
    member: Identity | None,
) -> OwnNode:
    """
    Make and start a node of which nothing is kept. It ends with the reactor.

    :param name: what it calls itself.
    :param member: the user's own identity, which vouches for it where only members may register, or use the
        relay; None: the user has none.
    :param book: the peers that it knows; calls of others are refused.
    """
    from punch.node.listeners import load_at_first_call
    from punch.node.node import Node

    node = Node(
        reactor=reactor,
        identity=identity,
        name=name,
        accept=Accept.KNOWN,
        known=book,
        sentence=sentence_of,
        # An invitation is for the user's own identity
        rendezvous=[replace(address, invitation=None) for address in rendezvous],
        source=source_address,
        gateways=gateways_by(port_mapping),
        upnp=upnp_of_machine(reactor),
        proxy=proxy,
        look_up_service=ServiceResolver(reactor),
        relay=RelayPolicy.AUTO,
        spray=spray,
        member=member,
    )
    load_at_first_call(node)
    own = OwnNode(node, book=book, clock=reactor, rendezvous=rendezvous, name=lambda: name, sentence=sentence)

    async def stop() -> None:
        own.stop()
        await node.stopService()

    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
    node.startService()
    return own


async def become(
    options: NodeOptions,
    lock: Lock,
    reactor: Any,
    environ: Mapping[str, str],
    sentence: Sentence,
) -> OwnNode:
    """
    Make the node, and open its socket. Both end with the reactor.

    :raise CommandError: it can't be made.
    """
    # Not earlier: it takes long to load, and who attaches does not need it
    from punch.node.listeners import load_at_first_call
    from punch.node.node import Node

    use_monotonic_time(reactor)
    state = options.peer
    try:
        rendezvous = choose_rendezvous(options.rendezvous, options.state, options.identity, environ)
        identity, name = state.identity(), state.display_name
        node = Node(
            reactor=reactor,
            identity=identity,
            name=name,
            accept=Accept.ASK,
            known=state.book,
            sentence=sentence_of,
            rendezvous=rendezvous,
            offers=remembered_offers(state),
            source=source_address,
            gateways=gateways_by(options.port_mapping),
            upnp=upnp_of_machine(reactor),
            proxy=choose_proxy(options.proxy, environ),
            look_up_service=ServiceResolver(reactor),
            relay=RelayPolicy.AUTO,
            prekeys=KeptPrekeys(state),
            spray=options.spray,
        )
    except NoRendezvous as error:
        raise CommandError(error.reason, rendezvous_sentence(error)) from None
    except BadProxy as error:
        raise CommandError("bad-proxy", proxy_sentence(error)) from None
    except StateError as error:
        raise CommandError("state", sentence_of(error)) from None

    def note(event: Event) -> None:
        if isinstance(event, Registered):
            try:
                state.remember_rendezvous(",".join(map(str, rendezvous)))
            except StateError as error:
                _log.warn("{error}", error=sentence_of(error))

    node.subscribe(note)
    load_at_first_call(node)
    own = OwnNode(
        node,
        book=state.book,
        clock=reactor,
        rendezvous=rendezvous,
        name=lambda: name,
        sentence=sentence,
    )
    server = LocalServer(own, reactor)
    try:
        await server.listen(state.directory, environ)
    except SocketError as error:
        raise CommandError("socket", socket_sentence(error)) from None
    except CannotListenError as error:
        raise CommandError("socket", str(error)) from None

    async def stop() -> None:
        own.stop()
        await server.stop()
        await node.stopService()
        state.book.close(time.sleep)
        lock.release()

    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
    node.startService()
    return own
