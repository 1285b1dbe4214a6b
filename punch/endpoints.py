"""
Streams to services of peers as Twisted endpoints, so that any Twisted program can use them (docs/api.md).

    clientFromString(reactor, "punch:bob:service=web")
    serverFromString(reactor, "punch:service=web:allow=bob,carol")

An endpoint attaches to the node of its identity, or becomes it, when it is first used. Endpoints of one
process share a node.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError, ConnectError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from punch.contacts import UnknownPeer, find_peer
from punch.identity import PeerID
from punch.link.events import encode_name
from punch.link.transport import PunchAddress
from punch.local.access import Allow, NodeAccess
from punch.local.process import NodeOptions, attach_or_become, check_rendezvous
from punch.local.protocol import CommandError
from punch.net.driver import Timer
from punch.node.events import CallFailed, Unregistered
from punch.node.policies import PortMappingPolicy, SprayPolicy
from punch.sentences import sentence_of
from punch.state import StateDirectory, login_name, own_state_dir
from punch.state_files import StateError
from punch.wire.rendezvous_address import RendezvousAddress, RendezvousAddressError

__all__ = [
    "PunchAddress",
    "PunchClientEndpoint",
    "PunchConnectError",
    "PunchListenError",
    "PunchPort",
    "PunchServerEndpoint",
]

RETRY = 1.0
"""Seconds after which a service whose node has ended is announced again."""

Sentence = Callable[[CallFailed | Unregistered], str]
"""Renders for the user why a call, or the registration, failed."""


class PunchConnectError(ConnectError):
    """
    A stream can't be opened; `str()` is a sentence for the user.

    :ivar reason: a code: `bad-peer-id`, `not-registered`, `unreachable`, `refused`, `no-service`,
        `not-allowed` and others (docs/json.md).
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(string=text)  # type: ignore[no-untyped-call]
        self.reason = reason
        self.text = text

    def __str__(self) -> str:
        return self.text


class PunchListenError(CannotListenError):
    """A service can't be served; `str()` is a sentence for the user, and `reason` a code."""

    def __init__(self, service: str, error: CommandError) -> None:
        super().__init__("punch", service, error)  # type: ignore[no-untyped-call]
        self.reason = error.reason

    def __str__(self) -> str:
        return str(self.socketError)


def plain_sentence(failed: CallFailed | Unregistered) -> str:
    """Return a sentence for a failed call or registration that contains nothing but its code."""
    if isinstance(failed, Unregistered):
        return f"The registration failed: {failed.reason}."
    who = "The node" if failed.peer is None else f"The call to {failed.peer.short}"
    return f"{who} failed: {failed.reason}."


def node_options(
    environ: Mapping[str, str],
    *,
    identity: str | None = None,
    state_dir: str | None = None,
    rendezvous: str | None = None,
    port_mapping: str = PortMappingPolicy.AUTO.value,
    spray: str = SprayPolicy.AUTO.value,
) -> NodeOptions:
    """
    Return which node an endpoint uses.

    :param identity: the name of the identity, as `--name` of `punch peer`; None: the user's login name.
    :param state_dir: the state directory; None: the user's own.
    :param rendezvous: the address of the rendezvous; None: that of PUNCH_RENDEZVOUS, the one used last, or
        the one on this machine.
    :param port_mapping: whether routers are asked for ports, if this process becomes the node: `auto` or
        `never`.
    :param spray: whether many packets may go to guessed ports of a peer, likewise.
    :raise ValueError: one of them can't be used.
    """
    try:
        state = StateDirectory(Path(state_dir or own_state_dir(environ)))
        name = state.peer(identity or login_name(environ)).name
        if rendezvous is not None:
            RendezvousAddress.parse_all(rendezvous)
    except (StateError, RendezvousAddressError) as error:
        raise ValueError(sentence_of(error)) from None
    if port_mapping not in [policy.value for policy in PortMappingPolicy]:
        raise ValueError(f"port-mapping is auto or never, not {port_mapping!a}.")
    if spray not in [policy.value for policy in SprayPolicy]:
        raise ValueError(f"spray is auto or never, not {spray!a}.")
    return NodeOptions(
        state,
        name,
        rendezvous,
        port_mapping=PortMappingPolicy(port_mapping),
        spray=SprayPolicy(spray),
    )


@dataclass
class _SharedNode:
    """A node that endpoints of this process use; None while it is looked for."""

    node: NodeAccess | None
    waiting: list[Deferred[NodeAccess]]


_shared: WeakKeyDictionary[Any, dict[Path, _SharedNode]] = WeakKeyDictionary()
"""The nodes of each reactor, by the directory of their identity."""


def shared_node(
    reactor: Any, options: NodeOptions, environ: Mapping[str, str], sentence: Sentence
) -> Deferred[NodeAccess]:
    """
    Return the node that the endpoints of this process use for an identity.

    :return: fails with `CommandError`.
    """
    nodes = _shared.setdefault(reactor, {})
    directory = options.peer.directory
    shared = nodes.get(directory)
    waiter: Deferred[NodeAccess] = Deferred()
    if shared is None:
        shared = nodes[directory] = _SharedNode(None, [waiter])
        looking = Deferred.fromCoroutine(attach_or_become(options, reactor, environ, sentence))
        looking.addCallbacks(_found, _not_found, (nodes, directory), errbackArgs=(nodes, directory))
    elif shared.node is None:
        shared.waiting.append(waiter)
    else:
        waiter = succeed(shared.node)
    return waiter.addCallback(check_rendezvous, options)


def _found(node: NodeAccess, nodes: dict[Path, _SharedNode], directory: Path) -> None:
    shared = nodes[directory]
    shared.node = node
    node.when_lost().addCallback(lambda _: nodes.pop(directory, None))
    waiting, shared.waiting = shared.waiting, []
    for waiter in waiting:
        waiter.callback(node)


def _not_found(failure: Failure, nodes: dict[Path, _SharedNode], directory: Path) -> None:
    for waiter in nodes.pop(directory).waiting:
        waiter.errback(failure)


def _find(options: NodeOptions, who: str) -> PeerID:
    """:raise CommandError: nobody is meant, or the address book can't be read."""
    try:
        return find_peer(options.peer.book, who)
    except UnknownPeer as error:
        raise CommandError("bad-peer-id", sentence_of(error)) from None
    except StateError as error:
        raise CommandError("state", sentence_of(error)) from None


@implementer(IStreamClientEndpoint)
class PunchClientEndpoint:
    """
    A service of a peer.

    :param who: the peer: an ID, or a name of the address book.
    :param service: the name of the service.
    :param options: which node is used (`node_options`).
    :param sentence: says to the user why a call failed.
    :raise ValueError: the name of the service can't be one.
    """

    def __init__(
        self,
        reactor: Any,
        who: str,
        service: str,
        options: NodeOptions,
        *,
        environ: Mapping[str, str] = os.environ,
        sentence: Sentence = plain_sentence,
    ) -> None:
        encode_name(service)
        self._who = who
        self._service = service
        self._options = options
        self._node = partial(shared_node, reactor, options, environ, sentence)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        Open a stream.

        On a link that is there, the protocol is connected at once, and the result comes one round trip later;
        if the stream is refused, the protocol's connection is lost.

        :return: fires with the protocol; fails with `PunchConnectError`.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        try:
            peer = _find(self._options, self._who)
            node = await self._node()
            return await node.open(peer, self._service, factory)
        except CommandError as error:
            raise PunchConnectError(error.reason, str(error)) from None


@implementer(IStreamServerEndpoint)
class PunchServerEndpoint:
    """
    A service for peers.

    :param service: its name.
    :param allow: names and IDs of those who may open it, or "anyone"; nothing: those that the address book
        grants it.
    :param options: which node is used (`node_options`).
    :raise ValueError: the name of the service can't be one.
    """

    def __init__(
        self,
        reactor: Any,
        service: str,
        allow: tuple[str, ...],
        options: NodeOptions,
        *,
        environ: Mapping[str, str] = os.environ,
        sentence: Sentence = plain_sentence,
    ) -> None:
        encode_name(service)
        self._reactor = reactor
        self._service = service
        self._allow = allow
        self._options = options
        self._node = partial(shared_node, reactor, options, environ, sentence)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Serve. If the node's process ends, this process attaches to the next one, or becomes the node.

        :return: fires with a `PunchPort`; fails with `PunchListenError`.
        """
        return Deferred.fromCoroutine(self._listen(protocolFactory))

    async def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        try:
            if "anyone" in self._allow:
                allow = Allow(anyone=True)
            else:
                allow = Allow(frozenset(_find(self._options, who) for who in self._allow))
            port = PunchPort(self._reactor, self._service, allow, factory, self._node)
            await port.serve()
        except CommandError as error:
            raise PunchListenError(self._service, error) from None
        return port


@implementer(IListeningPort)
class PunchPort:
    """
    A service while it is served.

    :param node: finds the node.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        service: str,
        allow: Allow,
        factory: IProtocolFactory,
        node: Callable[[], Deferred[NodeAccess]],
    ) -> None:
        self._service = service
        self._allow = allow
        self._factory = factory
        self._node = node
        self._address: PunchAddress | None = None
        self._end: Callable[[], None] | None = None
        self._retry = Timer(reactor)
        self._listening = False

    async def serve(self) -> None:
        """
        Announce the service.

        :raise CommandError: it can't be served.
        """
        self._listening = True
        node = await self._node()
        end = await node.serve(self._service, self._factory, self._allow)
        if not self._listening:
            end()
            return
        self._end = end
        self._address = PunchAddress(node.peer_id, self._service)
        node.when_lost().addCallback(self._lost)

    def startListening(self) -> None:
        """Serve again after `stopListening`."""
        if not self._listening:
            self._serve_again()

    def stopListening(self) -> Deferred[None]:
        """End the service; streams that are open stay open."""
        self._listening = False
        self._retry.cancel()
        self._stop()
        return succeed(None)

    def getHost(self) -> PunchAddress:
        """Return the ID of this node, and the service."""
        assert self._address is not None
        return self._address

    def _stop(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end()

    def _lost(self, _: None) -> None:
        """Called when the node has ended."""
        self._stop()
        if self._listening:
            self._retry.start(RETRY, self._serve_again)

    def _serve_again(self) -> None:
        Deferred.fromCoroutine(self.serve()).addErrback(self._not_served)

    def _not_served(self, failure: Failure) -> None:
        if isinstance(failure.value, CommandError):
            self._log.warn(
                "The service {service} is not served now: {error}", service=self._service, error=failure.value
            )
        else:
            self._log.failure("The service {service} is not served now.", failure, service=self._service)
        if self._listening:
            self._retry.start(RETRY, self._serve_again)


# Endpoint strings

_NODE_KEYS = ("identity", "state-dir", "rendezvous", "port-mapping", "spray")


def _options(keys: dict[str, str], environ: Mapping[str, str]) -> NodeOptions:
    given = {key.replace("-", "_"): keys.pop(key) for key in _NODE_KEYS if key in keys}
    return node_options(environ, **given)


def _unknown(keys: dict[str, str], arguments: tuple[str, ...], takes: tuple[str, ...], example: str) -> None:
    """:raise ValueError: something was given that is not known."""
    if keys or arguments:
        wrong = next(iter(keys), None)
        what = f"has no key {wrong!a}" if wrong is not None else f"has nothing to do with {arguments[0]!a}"
        raise ValueError(
            f"A punch endpoint {what}: it takes {', '.join((*takes, *_NODE_KEYS))}, as in {example}."
        )


def parse_client(
    reactor: Any,
    arguments: tuple[str, ...],
    keys: dict[str, str],
    *,
    environ: Mapping[str, str] = os.environ,
    sentence: Sentence = plain_sentence,
) -> PunchClientEndpoint:
    """
    Return the endpoint of a string `punch:WHO:service=NAME`, whose parts are given.

    :raise ValueError: it is wrong; `str()` is a sentence for the user.
    """
    example = "punch:bob:service=web"
    who = arguments[0] if arguments else keys.pop("peer", "")
    service = keys.pop("service", "")
    options = _options(keys, environ)
    _unknown(keys, arguments[1:], ("a peer", "service"), example)
    if not who or not service:
        missing = "a peer, by name or ID," if not who else "a service"
        raise ValueError(f"A punch endpoint needs {missing} as in {example}.")
    return PunchClientEndpoint(reactor, who, service, options, environ=environ, sentence=sentence)


def parse_server(
    reactor: Any,
    arguments: tuple[str, ...],
    keys: dict[str, str],
    *,
    environ: Mapping[str, str] = os.environ,
    sentence: Sentence = plain_sentence,
) -> PunchServerEndpoint:
    """
    Return the endpoint of a string `punch:service=NAME:allow=WHO,WHO`, whose parts are given.

    :raise ValueError: it is wrong; `str()` is a sentence for the user.
    """
    example = "punch:service=web:allow=bob"
    service, allowed = keys.pop("service", ""), keys.pop("allow", None)
    options = _options(keys, environ)
    _unknown(keys, arguments, ("service", "allow"), example)
    if not service:
        raise ValueError(f"A punch endpoint needs a service as in {example}.")
    allow = () if allowed is None else tuple(who.strip() for who in allowed.split(","))
    if not all(allow):
        raise ValueError(
            f"The key allow takes names and IDs, separated by commas, or anyone, as in {example}; without "
            "it, the service is for those that the address book grants it."
        )
    return PunchServerEndpoint(reactor, service, allow, options, environ=environ, sentence=sentence)
