"""
What a reactor is given before anything runs in it: monotonic time, and name look-ups that end in any case.
And `look_up`, which looks up a host.

**Time.** Twisted's reactors count `time.time`. When the wall clock is set back by an hour, because NTP
corrects it or a virtual machine is restored, every delayed call that was scheduled before comes an hour late.
`use_monotonic_time` gives the reactor the monotonic clock; `IReactorTime.seconds` is the only clock that a
reactor reads.

**Names.** The system's `getaddrinfo` blocks for as long as the name servers in /etc/resolv.conf are silent,
half a minute and more. Twisted calls it in the reactor's thread pool, whose threads are joined when the
reactor stops. `DaemonThreadResolver` calls it in a daemon thread for each look-up, which nobody joins. It
still uses the system's resolver, unlike `twisted.names`, so that /etc/hosts, nsswitch.conf, mDNS and names
of a VPN mean what the user expects.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import implementer

from punch.net.driver import Timer

TIMEOUT = 8.0
"""
Seconds after which a look-up has failed. More than 5, after which the system's resolver asks the second
server of /etc/resolv.conf; less than the 10 of a connection attempt.
"""
KEPT = 30.0
"""Seconds for which an answer that came too late is kept for the next attempt."""
MAX_THREADS = 16
"""Look-ups that may be under way at once. When there are so many, further names count as not known."""

Answer = Sequence[tuple[Any, ...]]
GetAddrInfo = Callable[..., Answer]
Start = Callable[[Callable[[], None]], object]


def use_monotonic_time(reactor: Any) -> None:
    """
    Make `reactor` count `time.monotonic`. Delayed calls that are scheduled already keep their delay.

    For composition roots, before the reactor runs or while it does. A program that runs a `Node` of Punch in
    its own reactor calls this once. `reactor.seconds()` is not the wall clock afterwards.

    :param reactor: one of Twisted's.
    """
    before = reactor.seconds
    if before is time.monotonic:
        return
    now = before()
    waiting = [(call, call.getTime() - now) for call in reactor.getDelayedCalls()]
    reactor.seconds = time.monotonic
    for call, left in waiting:
        call.seconds = time.monotonic
        call.reset(max(0.0, left))


def install_resolver(reactor: Any) -> None:
    """Make `reactor` look names up with a `DaemonThreadResolver`. For composition roots."""
    reactor.installNameResolver(DaemonThreadResolver(reactor))


def start_daemon(work: Callable[[], None]) -> None:
    """Do `work` in a thread that ends with the process."""
    threading.Thread(target=work, name="name look-up", daemon=True).start()


@implementer(IHostnameResolver)
class DaemonThreadResolver:
    """
    The system's resolver as a reactor's `nameResolver`.

    Attempts that want the same name while it is being looked up share that look-up.
    """

    def __init__(
        self, reactor: Any, getaddrinfo: GetAddrInfo = socket.getaddrinfo, start: Start = start_daemon
    ) -> None:
        """
        :param reactor: the clock, and where answers are delivered.
        :param getaddrinfo: as `socket.getaddrinfo`; it is called in another thread.
        :param start: calls a function in another thread.
        """
        self._reactor = reactor
        self._getaddrinfo = getaddrinfo
        self._start = start
        self._under_way: dict[_Question, list[_Resolution]] = {}
        self._late: dict[_Question, tuple[float, Answer]] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """Look a name up; the receiver hears of no address where that fails or takes over `TIMEOUT`."""
        question = hostName, _FAMILIES[frozenset(addressTypes or _BOTH)]
        timeout = Timer(self._reactor)
        resolution = _Resolution(hostName, portNumber, transportSemantics, resolutionReceiver, timeout)
        resolutionReceiver.resolutionBegan(resolution)
        late = self._late.pop(question, None)
        if late is not None and self._reactor.seconds() < late[0] + KEPT:
            resolution.complete(late[1])
            return resolution
        if question in self._under_way:
            self._under_way[question].append(resolution)
        elif len(self._under_way) >= MAX_THREADS:
            resolution.complete(())
            return resolution
        else:
            self._under_way[question] = [resolution]
            self._start(lambda: self._look_up(question))
        resolution.timeout.start(TIMEOUT, resolution.complete, ())
        return resolution

    def _look_up(self, question: _Question) -> None:
        """In the other thread."""
        name, family = question
        try:
            answer = self._getaddrinfo(name, 0, family, socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # UnicodeError: no name can be so long
            answer = ()
        self._reactor.callFromThread(self._answered, question, answer)

    def _answered(self, question: _Question, answer: Answer) -> None:
        waiting = [one for one in self._under_way.pop(question) if not one.over]
        if answer and not waiting:
            self._late[question] = self._reactor.seconds(), answer
            while len(self._late) > MAX_THREADS:
                del self._late[next(iter(self._late))]
        for resolution in waiting:
            resolution.complete(answer)


_Question = tuple[str, int]
_BOTH = (IPv4Address, IPv6Address)
_FAMILIES = {
    frozenset(_BOTH): socket.AF_UNSPEC,
    frozenset({IPv4Address}): socket.AF_INET,
    frozenset({IPv6Address}): socket.AF_INET6,
}


@implementer(IHostResolution)
class _Resolution:
    """What one attempt waits for."""

    def __init__(
        self, name: str, port: int, semantics: str, receiver: IResolutionReceiver, timeout: Timer
    ) -> None:
        self.name = name
        self.over = False
        self.timeout = timeout
        self._port = port
        self._semantics = semantics
        self._receiver = receiver

    def cancel(self) -> None:
        """Tell nothing more."""
        self.over = True
        self.timeout.cancel()

    def complete(self, answer: Answer) -> None:
        """Tell the addresses, once."""
        if self.over:
            return
        self.cancel()
        for family, _, _, _, sockaddr in answer:
            kind = IPv6Address if family == socket.AF_INET6 else IPv4Address
            host, _, *rest = sockaddr
            self._receiver.addressResolved(kind(self._semantics, host, self._port, *rest))  # type: ignore[arg-type]
        self._receiver.resolutionComplete()


def look_up(reactor: IReactorPluggableNameResolver, name: str, done: Callable[[list[str]], None]) -> None:
    """Call `done` with the IP addresses of a host; with none where the name is not known."""
    reactor.nameResolver.resolveHostName(_Collector(done), name, 0, [IPv4Address, IPv6Address])


@implementer(IResolutionReceiver)
class _Collector:
    def __init__(self, done: Callable[[list[str]], None]) -> None:
        self._done = done
        self._hosts: list[str] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Nothing to do."""

    def addressResolved(self, address: IAddress) -> None:
        """Keep one address."""
        if isinstance(address, (IPv4Address, IPv6Address)) and "%" not in address.host:
            self._hosts.append(address.host)

    def resolutionComplete(self) -> None:
        """Hand over all addresses."""
        self._done(self._hosts)
