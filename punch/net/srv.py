"""Look-ups of SRV records (RFC 2782), which the system's `getaddrinfo` does not look up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IResolver
from twisted.python.failure import Failure

from punch.net.driver import Timer
from punch.wire.address import usable_port
from punch.wire.rendezvous_address import SERVICE, RendezvousAddress, RendezvousAddressError, ServiceRecord

TIMEOUT = 3.0
"""Seconds after which a look-up has failed; the name itself is then connected to."""

_RESOLV_CONF = "/etc/resolv.conf"
_TIMEOUTS = (1, 1)
"""Seconds until a query is sent again, and until it has failed."""

LookUpService = Callable[[str], "Deferred[Sequence[ServiceRecord] | None]"]
"""Look the SRV records of a domain up; None if they could not be looked up."""


class ServiceResolver:
    """
    Looks up which hosts and ports a domain has for the service of Punch.

    It asks the name servers of /etc/resolv.conf. Where there is no such file, nothing is found, and users
    write the addresses out.

    :param reactor: sends the queries, and is the clock.
    :param resolver: makes what sends the queries, when the first domain is looked up.
    """

    def __init__(self, reactor: Any, resolver: Callable[[], IResolver] | None = None) -> None:
        self._reactor = reactor
        self._make = resolver or self._system_resolver
        self._resolver: IResolver | None = None

    def __call__(self, domain: str) -> Deferred[Sequence[ServiceRecord] | None]:
        """
        Look the records of a domain up; there are none if the name has none. Those with IP addresses for
        names, or with ports that others may not name (`usable_port`), are left out.
        """
        done: Deferred[Sequence[ServiceRecord] | None] = Deferred()
        late = Timer(self._reactor)

        def end(records: Sequence[ServiceRecord] | None) -> None:
            late.cancel()
            if not done.called:
                done.callback(records)

        def failed(failure: Failure) -> None:
            from twisted.names.error import DomainError

            # Whatever else the library raises for an odd answer or a broken network, the name itself is left
            end(() if isinstance(failure.value, DomainError) else None)

        def answered(answer: Any) -> None:
            end(_records(answer[0]))

        late.start(TIMEOUT, end, None)
        # It may fail at once, as for a malformed /etc/resolv.conf, or without descriptors.
        asked = maybeDeferred(self._ask, f"{SERVICE}.{domain}")
        asked.addCallback(answered)
        asked.addErrback(failed)
        return done

    def _ask(self, name: str) -> Deferred[Any]:
        if self._resolver is None:
            self._resolver = self._make()
        asked: Deferred[Any] = self._resolver.lookupService(name, _TIMEOUTS)
        return asked

    def _system_resolver(self) -> IResolver:
        # Twisted's DNS is only loaded for those who need it.
        from twisted.names.client import Resolver

        resolver: IResolver = Resolver(_RESOLV_CONF, reactor=self._reactor)  # type: ignore[no-untyped-call]
        return resolver


def _records(answers: Sequence[Any]) -> list[ServiceRecord]:
    from twisted.names.dns import Record_SRV

    found = []
    for answer in answers:
        payload = answer.payload
        if isinstance(payload, Record_SRV):
            host = payload.target.name.decode("ascii", "replace").removesuffix(".")
            if not host or (_is_name(host) and usable_port(payload.port)):
                found.append(ServiceRecord(payload.priority, payload.weight, host.lower(), payload.port))
    return found


def _is_name(target: str) -> bool:
    """Whether the target of a record is the name of a host, all of it, and no IP address."""
    try:
        host = RendezvousAddress.parse(f"{target}:1").host
    except RendezvousAddressError:
        return False
    return host == target.lower() and ":" not in host and not isIPAddress(host)
