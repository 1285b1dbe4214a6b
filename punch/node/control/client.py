"""
The peer's side of the control channel: it stays registered, carries control messages, and notices that a
connection is dead.

Twisted's `ClientService` reconnects. A connection counts as made for it when a server has sent its `welcome`
(`RendezvousEndpoint`), so nothing but a welcome resets the back-off.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final
from typing import Protocol as TypingProtocol

from cryptography import x509
from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol

from punch.identity import Identity, RandomBytes
from punch.net.driver import Timer
from punch.net.srv import LookUpService
from punch.node.causes import ControlProblem
from punch.node.control.attempt import ConnectAttempt, RendezvousEndpoint
from punch.node.control.hosts import HostPolicy, VettedReactor
from punch.node.control.protocol import ControlClientProtocol
from punch.node.control.servers import Server, Servers
from punch.node.control.tcp import tcp_endpoint
from punch.node.control.tls import ControlConnectionCreator
from punch.wire.control import (
    Pong,
    Register,
    Reply,
    Request,
    Welcome,
)
from punch.wire.invitation import AdmissionRefusal, Voucher
from punch.wire.proxy import ProxySettings
from punch.wire.rendezvous_address import RendezvousAddress
from punch.wire.special_addresses import Scope

_FIRST_DELAY, _LAST_DELAY, _FACTOR = 1.0, 30.0, 1.6
_CLOSE_TIME = 0.5
_NO_BACKOFF_TIME = 30.0
"""Seconds for which the delay between two attempts does not grow, because a link may need the rendezvous."""
_NEEDED_DELAY = 1.6
"""
The longest mean delay while a link has no path, or a call or a message waits: these wait for the rendezvous,
and where no UDP passes nothing else shows that it is back. It holds only while TCP is not accepted, since
such attempts cost little. A rendezvous that accepts TCP and sends the peer away is tried less and less often.
"""
_RETURN_DELAY = 1.75
"""
The same for all other peers, since messages for them may wait. A rendezvous with many peers asks for a longer
delay (`Welcome.retry`).
"""
_RETURN_TIME = 600.0
"""Seconds after the loss of a registration for which `_RETURN_DELAY` holds."""
_LOOK = 2.0
"""
Seconds after which a client that waits for its next attempt finds out again whether something needs the
rendezvous.
"""
_SHORT = 10.0
"""
Seconds that a registration has to last for the delay to start from the beginning: a rendezvous that closes
each connection after the welcome is tried less and less often.
"""
_OF_DNS: Final = HostPolicy(Scope.PRIVATE)
"""
Where a server that SRV records name may be: neither on this machine nor at a link-local address. Private
addresses are allowed, since organizations have a rendezvous of their own there.
"""
_FOR_MEMBERS = (AdmissionRefusal.NOT_INVITED, AdmissionRefusal.NOT_LISTED)
"""Refusals that a member's voucher may help against."""
_YOUNG = 2.0
"""The age in seconds up to which an attempt is not given up for another one."""


class ControlHandler(TypingProtocol):
    """Is told what happens on the connection to the rendezvous: a node, netcheck, or a command."""

    def control_welcome(self, welcome: Welcome, host: str) -> None:
        """The peer is registered with the rendezvous at the IP address `host`."""

    def control_reply(self, reply: Reply) -> None:
        """A message of the rendezvous came, other than `welcome` and `pong`."""

    def control_lost(self, problem: ControlProblem, retry_in: float | None) -> None:
        """The peer is not registered. The next attempt is in `retry_in` seconds; None: there is none."""


def backoff(attempt: int, random: RandomBytes, longest: float = _LAST_DELAY) -> float:
    """
    Return the seconds to wait after attempt number `attempt`: 1 to `longest`, multiplied by a random factor
    from 0.5 to 1.5.

    The random factor keeps the peers of a restarted rendezvous from returning all at once.
    """
    delay = min(longest, _FIRST_DELAY * _FACTOR ** min(attempt - 1, 30))
    return delay * (0.5 + int.from_bytes(random(4), "big") / 2**32)


class ControlClient:
    """
    Keeps one peer registered with one rendezvous.

    A problem that only a person can solve ends it. Before the first registration that is any fatal
    `ControlProblem`, later only those that are `final`, because a running peer should survive an hour behind
    a hotel's login page.
    """

    def __init__(
        self,
        *,
        reactor: IReactorTime,
        address: RendezvousAddress | Sequence[RendezvousAddress],
        identity: Identity,
        register: Register,
        handler: ControlHandler,
        random: RandomBytes,
        roots: Sequence[x509.Certificate] | None = None,
        endpoint: IStreamClientEndpoint | None = None,
        proxy: ProxySettings | None = None,
        waiting: Callable[[], bool] = lambda: False,
        look_up_service: LookUpService | None = None,
        member: Identity | None = None,
        for_relays: bool = False,
    ) -> None:
        """
        :param address: of the rendezvous; several if it has several servers.
        :param member: vouches for this identity if the rendezvous admits only members (`Voucher`).
            Other rendezvous are not told of it.
        :param for_relays: whether `member` vouches, too, if the rendezvous relays only for members.
        :param look_up_service: looks up the servers of addresses without a port; without it the name is used.
        :param reactor: connects TCP, resolves names, and is the clock of everything here.
        :param roots: see `ControlConnectionCreator`.
        :param proxy: the proxy to connect through, if there is one.
        :param waiting: returns whether a call or a message waits for the rendezvous, so that it is tried
        often.
        :param endpoint: connects instead of the host and port of the address; TLS is added.
        """
        addresses = [address] if isinstance(address, RendezvousAddress) else list(address)
        self.address = addresses[0]
        """The address of the server that was tried last; at first the first that was given."""
        self.register = register
        self.proxy = proxy
        self.vouches = False
        """Whether the rendezvous has asked for members, so that one vouches from now on."""
        self._identity = identity
        self._member = member
        self._for_relays = for_relays
        self._waiting = waiting
        self._look = Timer(reactor)
        self.clock = reactor
        self._handler = handler
        self._random = random
        self._protocol: ControlClientProtocol | None = None
        self._problem: ControlProblem | None = None
        self._hopeless = False
        self._was_registered = False
        self._stopped = False
        self._short_registrations = 0
        self._return_delay = _RETURN_DELAY
        self._return_until = 0.0
        self._notice = Timer(reactor)
        self._at_once_until = self._no_backoff_until = 0.0
        self._needed = False
        self.attempt: ConnectAttempt | None = None
        """The newest connection or attempt; None while the next one is waited for."""
        self._servers = Servers(addresses, random)
        self._named_by_dns = False
        self._look_up_service = look_up_service
        self._endpoint = endpoint
        self._creators = {
            address: ControlConnectionCreator(address, identity, roots) for address in addresses
        }
        self._service = ClientService(
            RendezvousEndpoint(self),
            Factory.forProtocol(Protocol),
            retryPolicy=self._retry_in,
            clock=reactor,
        )

    @property
    def registered(self) -> bool:
        """Whether the peer is registered on a connection that is open."""
        return self._protocol is not None

    @property
    def was_registered(self) -> bool:
        """Whether the peer was registered at some time."""
        return self._was_registered

    @property
    def resolver(self) -> Any:
        """A reactor that looks up the host of `address`, and checks where it leads if SRV records name it."""
        return VettedReactor(self.clock, _OF_DNS) if self._named_by_dns else self.clock

    @property
    def local_host(self) -> str | None:
        """The local IP address of the connection, if there is one."""
        return None if self._protocol is None else self._protocol.local_host

    def local_host_for(self, remote: str) -> str | None:
        """
        Return the local IP address of the connection, if `remote` is an IP address of the same family: it is
        taken to be reached from there, too. Return None otherwise.
        """
        local = self.local_host
        return local if local is not None and (":" in local) == (":" in remote) else None

    @property
    def post_quantum(self) -> bool:
        """Whether the keys of the connection were agreed with X25519MLKEM768; False without one."""
        return self._protocol is not None and self._protocol.post_quantum

    def start(self) -> None:
        """Connect, and stay connected."""
        self._service.startService()

    def stop(self) -> Deferred[None]:
        """
        Close the connection and never connect again.

        :return: fires when everything is closed: at once, or within half a second.
        """
        self._stopped = True
        self._notice.cancel()
        self._look.cancel()
        if not self._service.running:
            return succeed(None)
        protocol = self._protocol
        if protocol is not None:
            protocol.finish()
        stopped = self._service.stopService()
        if protocol is not None and not stopped.called:
            # A dead rendezvous would never answer the close of TLS
            late = Timer(self.clock)
            late.start(_CLOSE_TIME, protocol.abort)
            stopped.addCallback(lambda _: late.cancel())
        return stopped

    def check(self, timeout: float, gone: Collection[str] = ()) -> None:
        """
        Check the connection, because the network may have changed, or connect at once.

        :param timeout: seconds within which something has to be received on the connection.
        :param gone: addresses that this machine has lost: a connection from one of these is dead.
        """
        if self._stopped or not self._service.running:
            return
        self._at_once_until = self.clock.seconds() + timeout + 1.0
        self._no_backoff_until = self.clock.seconds() + _NO_BACKOFF_TIME
        protocol = self._protocol
        if protocol is None:
            self._connect_now()
        elif protocol.local_host in gone:
            protocol.lose()
        else:
            protocol.check(timeout)

    def need(self, needed: bool) -> None:
        """Say whether a link waits for the rendezvous."""
        self._needed = needed

    def _connect_now(self) -> None:
        """Connect without waiting for the delay to end."""
        attempt = self.attempt
        if attempt is None:
            self._service.stopService()
            self._service.startService()
        elif self.clock.seconds() > attempt.began + _YOUNG:
            attempt.give_up()

    def send(self, request: Request) -> bool:
        """Send one control message. Returns False if the peer is not registered."""
        if self._protocol is None:
            return False
        self._protocol.send(request)
        return True

    # Called by the attempts

    def ordered_servers(self) -> Deferred[list[Server]]:
        """Look up the names of the servers; fires with the servers, in the order in which to try them."""
        names, look_up = self._servers.names, self._look_up_service
        if look_up is None or not names:
            return succeed(self._servers.order())
        looking_up = [look_up(name).addCallback(partial(self._servers.found, name)) for name in names]
        return gatherResults(looking_up).addCallback(lambda _: self._servers.order())

    def endpoint_for(self, server: Server) -> tuple[IStreamClientEndpoint, ControlConnectionCreator]:
        """Return what connects to a server, TLS included, and what checks its certificate."""
        self.address = server.address
        self._named_by_dns = server.address.host != server.proves.host
        host, port = server.address.host, server.address.port
        tcp = self._endpoint or tcp_endpoint(self.resolver, host, port, self.proxy, self.clock)
        creator = self._creators[server.proves]
        return wrapClientTLS(creator, tcp, clock=self.clock), creator

    def server_failed(self, server: Server) -> None:
        """A server could not be reached, or its connection is lost."""
        self._servers.failed(server)

    def connected(self, server: Server, protocol: ControlClientProtocol, welcome: Welcome) -> None:
        """An attempt was welcomed."""
        self._servers.answered(server)
        self._protocol = protocol
        self._was_registered = True
        # The rendezvous remembers whom it has admitted, so that an invitation is sent once.
        self.register = replace(self.register, invitation="")
        self._set_return_delay(welcome.retry)
        self._handler.control_welcome(welcome, protocol.host)

    def vouch_for_relays(self, welcome: Welcome) -> bool:
        """
        Decide, after a welcome, whether this client is to register again with a member's voucher, since only
        members may use the relay. If so, it vouches from now on.
        """
        again = self._member is not None and self._for_relays and welcome.relays_for_members
        if not again or self.vouches:
            return False
        self.vouches = True
        return True

    def vouch(self, binding: bytes) -> bytes:
        """Return the member's voucher for a connection with this channel binding."""
        assert self._member is not None
        return Voucher.by(self._member, self._identity.peer_id, binding).encode()

    def received(self, reply: Reply) -> None:
        """A control message came."""
        if isinstance(reply, Pong):
            self._set_return_delay(reply.retry)
        elif not self._stopped:
            self._handler.control_reply(reply)

    def disconnected(self, problem: ControlProblem, *, hopeless: bool) -> None:
        """
        An attempt failed, or its connection has ended.

        :param hopeless: no server helps until somebody changes something.
        """
        if self._protocol is not None:
            self._return_until = self.clock.seconds() + _RETURN_TIME
        self._protocol = None
        self._problem, self._hopeless = problem, hopeless
        if self._member is not None and not self.vouches and problem.refusal in _FOR_MEMBERS:
            self.vouches = True
            # This refusal need not be reported yet.
            self._problem, self._hopeless = None, False
            self._at_once_until = self.clock.seconds() + 1.0

    def _retry_in(self, attempt: int) -> float:
        # ClientService calls this within a transition of its own, so the handler is called later.
        failed, self.attempt = self.attempt, None
        soon = self.clock.seconds() < self._at_once_until
        self._at_once_until = 0.0
        if failed is not None and failed.welcomed_at is not None:
            short = self.clock.seconds() < failed.welcomed_at + _SHORT
            self._short_registrations = self._short_registrations + 1 if short else 0
            attempt = max(1, self._short_registrations)
        longest = _LAST_DELAY
        if self.clock.seconds() < self._no_backoff_until:
            longest = _FIRST_DELAY
        elif failed is not None and not failed.reached:
            longest = self._longest_delay()
        delay = 0.0 if soon else backoff(attempt, self._random, longest)
        if failed is not None and not failed.reached:
            # A host that is off lets an attempt take long, and may be back meanwhile.
            delay = max(0.0, delay - (self.clock.seconds() - failed.began))
        problem = self._problem
        if problem is not None and not self._stopped:
            self._notice.start(0, self._tell, problem, delay)
        return delay

    def _longest_delay(self) -> float:
        """Return the longest mean delay between two attempts while TCP is not accepted, in seconds."""
        if self._is_needed:
            return _NEEDED_DELAY
        if not self._stopped:
            self._look_again()
        return self._return_delay if self.clock.seconds() < self._return_until else _LAST_DELAY

    def _set_return_delay(self, retry: int) -> None:
        # A rendezvous can make its peers come neither faster nor later than these limits.
        self._return_delay = min(max(retry, _RETURN_DELAY), _LAST_DELAY)

    @property
    def _is_needed(self) -> bool:
        return self._needed or self._waiting()

    def _look_again(self) -> None:
        self._look.start(_LOOK, self._look_whether_needed)

    def _look_whether_needed(self) -> None:
        """Connect now if something needs the rendezvous since the delay was chosen."""
        if self._stopped or self.attempt is not None or not self._service.running:
            return
        if self._is_needed:
            self._connect_now()
        else:
            self._look_again()

    def _tell(self, problem: ControlProblem, delay: float) -> None:
        if self._hopeless and (problem.final or not self._was_registered):
            self._stopped = True
            self._service.stopService()
            self._handler.control_lost(problem, None)
        else:
            self._handler.control_lost(problem, delay)
