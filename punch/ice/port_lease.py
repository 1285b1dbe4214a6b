"""
The mapping of one socket's port, of UDP or TCP, at one router: how it is asked for, granted, renewed and
given back.

All three protocols are tried at once, but only PCP is asked for a mapping at first, so that there is one
mapping only: NAT-PMP is asked for the external address, and UPnP routers are searched for. NAT-PMP is asked
for the mapping when the router refuses PCP, or has answered NAT-PMP and left `TRIES_BEFORE_OTHERS` requests
of PCP unanswered. UPnP is asked for it when the router has answered the search and refuses both others, or
has left as many of their requests unanswered. IPv6 has PCP only, which opens a firewall (RFC 6887, section
11.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from punch.identity import RandomBytes
from punch.net.deadlines import earliest
from punch.wire.address import Address, Transmit, same_protocol
from punch.wire.port_mapping import (
    MULTICAST,
    PCP,
    SSDP_PORT,
    SUCCESS,
    AddressAnswer,
    Answer,
    MappingAnswer,
    PcpAnswer,
    UpnpGrant,
    UpnpRequest,
    nat_pmp_address_request,
    nat_pmp_map_request,
    parse_search_answer,
    pcp_map_request,
    search_request,
)

LIFETIME = 7200
"""Seconds for which a mapping is requested (RFC 6886, section 3.3)."""
SHORTEST = 20
"""Seconds of the shortest lifetime that is accepted. To keep a shorter one would take too many requests."""
LONGEST = 86400
"""Seconds of the longest lifetime that is believed (RFC 6887, section 15)."""
FIRST_WAIT = 0.25
"""Seconds until a request is sent again; twice as long each time (RFC 6886, section 3.1)."""
TRIES = 5
"""How often a request is sent: after 0, 0.25, 0.75, 1.75 and 3.75 s."""
TRIES_BEFORE_OTHERS = 2
"""
After how many unanswered requests another protocol, by which the router has answered, asks for the mapping.
"""
SOON = 3
"""How many requests are sent while the first answer is still likely to come: for 1.75 s."""
CONFIRM = 30.0
"""
Seconds for which a mapping is believed in. After that, the next call has it renewed, since the router may
have restarted.
"""
RETRY = 600.0
"""Seconds after which the next call has a router asked again that refused, or did not answer."""
SEARCHES = (0, 2)
"""At which tries UPnP is searched for. An answer may take a second (UPnP Device Architecture 2.0)."""


class MappingProtocol(str, Enum):
    """The protocol by which a port was mapped."""

    PCP = "pcp"
    NAT_PMP = "nat-pmp"
    UPNP = "upnp"


class _Question(Enum):
    PCP_MAP = "PCP MAP"
    ADDRESS = "NAT-PMP external address"
    MAPPING = "NAT-PMP map"
    SEARCH = "SSDP search"
    UPNP = "UPnP AddPortMapping"


@dataclass(frozen=True)
class PortMapping:
    """
    A port of the router that leads to one of our sockets.

    :ivar base: the socket's address.
    :ivar external: what the router says that the port's address is. It may be private, where there is another
        NAT, or wrong. For a firewall without NAT, it is `base`.
    """

    base: Address
    external: Address
    method: MappingProtocol


class PortLease:
    """
    The mapping of one socket at one gateway: asked for, held, or refused.

    :param upnp: whether requests of UPnP can be performed.
    :param like: another one with a mapping at this gateway: the port is asked for in the same way, and not in
        another way if it is refused.
    :ivar base: the socket's address.
    :ivar mapping: the mapping that there is now.
    :ivar like_refused_until: until when no other port is to be asked for `like` this one, in monotonic
        seconds, because the router has refused one.
    """

    def __init__(
        self, base: Address, gateway: Address, random: RandomBytes, upnp: bool, like: PortLease | None = None
    ) -> None:
        self.base = base
        self.gateway = gateway
        self.mapping: PortMapping | None = None
        self.like_refused_until = float("-inf")
        self._is_like_another = like is not None
        known = None if like is None else like.mapping
        self._method = None if known is None else known.method
        self._upnp = upnp and not base.is_ipv6
        self._nonce = random(12)
        self._early = 0.875 + random(1)[0] / 2048
        self._address: str | None = None
        self._url: str | None = None
        if like is not None and self._method is MappingProtocol.UPNP:
            self._url = like._url
        self._url_is_new = False
        self._upnp_request: UpnpRequest | None = None
        self._upnp_request_is_new = False
        self._asked: set[_Question] = set()
        self._tries = 0
        self._next_at: float | None = None
        self._granted_at = 0.0
        self._expires_at: float | None = None
        self._renew_at: float | None = None
        self._retry_at: float | None = None
        self._retry_wait = RETRY

    def is_stale(self, now: float) -> bool:
        """Whether the router is to be asked because somebody needs the mapping now."""
        if self.is_asking:
            return False
        if self.mapping is not None:
            return now >= self._granted_at + CONFIRM
        return self._retry_at is None or now >= self._retry_at

    @property
    def is_asking(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._asked)

    @property
    def refused_until(self) -> float | None:
        """Until when the router is not asked again, if it does not map the port and nothing is asked now."""
        return None if self.is_asking or self.mapping is not None else self._retry_at

    def may_be_followed(self, now: float) -> bool:
        """Whether another port may be asked for `like` this one."""
        is_known = self._method is not MappingProtocol.UPNP or self._url is not None
        return self.mapping is not None and is_known and now >= self.like_refused_until

    @property
    def is_new(self) -> bool:
        """Whether an answer is awaited, and not for long."""
        return self.is_asking and self._tries <= SOON

    def ask(self, now: float) -> None:
        """Ask for the mapping, or for its renewal."""
        self._retry_wait = RETRY
        method = self._method
        if method is MappingProtocol.UPNP and self._url is not None:
            self._url_is_new = False
            self._ask_by_upnp(self._url)
        elif method is MappingProtocol.PCP or self.base.is_ipv6:
            self._begin({_Question.PCP_MAP}, now)
        elif method is MappingProtocol.NAT_PMP:
            self._begin({_Question.ADDRESS}, now)
        else:
            self._ask_in_all_ways(now)

    def awaits(self, remote: Address, local: Address) -> bool:
        """Whether an answer that came from `remote` to `local` may be for this mapping."""
        if local.host != self.base.host or remote.host != self.gateway.host.partition("%")[0]:
            return False
        return _Question.SEARCH in self._asked if remote.port != self.gateway.port else self.is_asking

    def receive_search_answer(self, data: bytes, now: float) -> None:
        """Take the answer to a search for UPnP, which may come from any port of the router."""
        url = parse_search_answer(data, self.gateway.host)
        if url is not None and _Question.SEARCH in self._asked:
            self._asked.discard(_Question.SEARCH)
            self._url, self._url_is_new = url, True
            self._choose(now)

    def receive(self, answer: Answer, now: float) -> bool:
        """Take an answer. Returns False if it answers nothing that is asked now."""
        if isinstance(answer, PcpAnswer):
            if _Question.PCP_MAP not in self._asked or answer.nonce not in (b"", self._nonce):
                return False
            if answer.nonce and not self._is_ours(answer):
                return False
            self._take_pcp(answer, now)
        elif isinstance(answer, AddressAnswer):
            if _Question.ADDRESS not in self._asked:
                return False
            self._asked.discard(_Question.ADDRESS)
            # Without an external address there is nothing to map: the router is not connected, say.
            self._address = answer.host
            self._choose(now)
        else:
            if _Question.MAPPING not in self._asked or answer.protocol != self.base.protocol:
                return False
            if answer.result == SUCCESS and not self._is_ours(answer):
                return False
            self._take_mapping(answer, now)
        return True

    def receive_upnp(self, request: UpnpRequest, grant: UpnpGrant | None, now: float) -> bool:
        """
        Take the result of a request of UPnP.

        :return: False if it is not the one that is under way.
        """
        if request is not self._upnp_request or _Question.UPNP not in self._asked:
            return False
        self._upnp_request = None
        if grant is not None:
            # A mapping without end is renewed all the same, since the router may lose it
            self._granted(grant.external, grant.lifetime or LIFETIME, MappingProtocol.UPNP, now)
        elif self._url_is_new or (self._is_like_another and self.mapping is None):
            self._end(now)
        else:
            # The router may describe itself at another URL since it restarted
            self._ask_in_all_ways(now)
        return True

    def get_timer(self) -> float | None:
        return earliest((self._next_at, self._renew_at, self._expires_at))

    def expire(self, now: float) -> PortMapping | None:
        """Return the mapping if it has just expired."""
        if self._expires_at is None or now < self._expires_at:
            return None
        expired, self.mapping = self.mapping, None
        self._method = None
        self._expires_at = self._renew_at = None
        return expired

    def requests(self, now: float) -> list[Transmit]:
        """Return the requests to send now."""
        if self._renew_at is not None and now >= self._renew_at and not self.is_asking:
            self.ask(now)
        if self._next_at is None or now < self._next_at:
            return []
        self._choose(now, due=True)
        if self._tries == TRIES:
            self._asked.clear()
            self._address = None
            self._choose(now)
        if self._next_at is None:
            return []
        self._next_at = now + FIRST_WAIT * 2**self._tries
        self._tries += 1
        asked = [question for question in _Question if question in self._asked]
        return [transmit for question in asked for transmit in self._transmits(question)]

    def upnp_requests(self) -> list[UpnpRequest]:
        """Return the request of UPnP to perform now, if there is one."""
        if self._upnp_request is None or not self._upnp_request_is_new:
            return []
        self._upnp_request_is_new = False
        return [self._upnp_request]

    def release(self) -> list[Transmit]:
        """
        Return what deletes the mapping (RFC 6887, section 15; RFC 6886, section 3.4), also one that was asked
        for and has not been answered yet.
        """
        method = None if self.mapping is None else self.mapping.method
        if method is MappingProtocol.PCP or (method is None and _Question.PCP_MAP in self._asked):
            return [self._transmit(pcp_map_request(self._nonce, self.base, None, 0))]
        if method is MappingProtocol.NAT_PMP or (method is None and _Question.MAPPING in self._asked):
            return [self._transmit(nat_pmp_map_request(self.base, 0, 0))]
        return []

    def release_by_upnp(self) -> list[UpnpRequest]:
        """Return what deletes the mapping by UPnP."""
        if self.mapping is None or self.mapping.method is not MappingProtocol.UPNP or self._url is None:
            return []
        return [UpnpRequest(self._url, self.base, self.mapping.external.port, 0)]

    def _begin(self, asked: set[_Question], now: float) -> None:
        self._asked = asked
        self._next_at = now
        self._tries = 0
        self._address = self._renew_at = self._upnp_request = None

    def _ask_in_all_ways(self, now: float) -> None:
        self._url = None
        # It may be at another URL by now, so that nobody was there to refuse anything
        self.like_refused_until = now
        asked = {_Question.PCP_MAP, _Question.ADDRESS}
        self._begin(asked | {_Question.SEARCH} if self._upnp else asked, now)

    def _choose(self, now: float, *, due: bool = False) -> None:
        """
        Ask for the mapping by what this router has, if that is clear by now; end if it has nothing.

        :param due: the requests are to be sent once more.
        """
        asked = self._asked
        if _Question.MAPPING in asked:
            return
        waited = self._tries > TRIES_BEFORE_OTHERS or (due and self._tries == TRIES_BEFORE_OTHERS)
        if self._address is not None and (waited or _Question.PCP_MAP not in asked):
            # NAT-PMP is what this router has
            self._asked = {_Question.MAPPING} | (asked & {_Question.SEARCH})
            self._next_at = now
            self._tries = 0
        elif self._url is not None and (waited or not asked & {_Question.PCP_MAP, _Question.ADDRESS}):
            self._ask_by_upnp(self._url)
        elif not asked:
            self._end(now)

    def _ask_by_upnp(self, url: str) -> None:
        port = self.base.port if self.mapping is None else self.mapping.external.port
        self._asked = {_Question.UPNP}
        self._next_at = self._renew_at = None
        self._upnp_request = UpnpRequest(url, self.base, port, LIFETIME)
        self._upnp_request_is_new = True

    def _is_ours(self, answer: PcpAnswer | MappingAnswer) -> bool:
        """Whether an answer names our port."""
        return (answer.protocol, answer.internal_port) == (self.base.protocol, self.base.port)

    def _transmit(self, data: bytes) -> Transmit:
        return Transmit(data, self.gateway, self.base)

    def _transmits(self, question: _Question) -> list[Transmit]:
        external = None if self.mapping is None else self.mapping.external
        port = self.base.port if external is None else external.port
        if question is _Question.ADDRESS:
            return [self._transmit(nat_pmp_address_request())]
        if question is _Question.MAPPING:
            return [self._transmit(nat_pmp_map_request(self.base, port, LIFETIME))]
        if question is _Question.SEARCH:
            if self._tries - 1 not in SEARCHES:
                return []
            servers = (Address(self.gateway.host, SSDP_PORT), MULTICAST)
            return [Transmit(search_request(server), server, self.base) for server in servers]
        suggested = external or Address("::" if self.base.is_ipv6 else "0.0.0.0", port)
        return [self._transmit(pcp_map_request(self._nonce, self.base, suggested, LIFETIME))]

    def _take_pcp(self, answer: PcpAnswer, now: float) -> None:
        if answer.result == SUCCESS and answer.external is not None:
            self._granted(answer.external, answer.lifetime, MappingProtocol.PCP, now)
            return
        self._asked.discard(_Question.PCP_MAP)
        if answer.nonce:
            # How long the server will go on to refuse (RFC 6887, section 7.2)
            self._retry_wait = max(RETRY, min(answer.lifetime, LONGEST))
        self._choose(now)

    def _take_mapping(self, answer: MappingAnswer, now: float) -> None:
        if answer.result == SUCCESS and self._address is not None:
            external = Address(self._address, answer.external_port)
            self._granted(external, answer.lifetime, MappingProtocol.NAT_PMP, now)
            return
        self._asked.discard(_Question.MAPPING)
        self._address = None
        self._choose(now)

    def _granted(self, external: Address, lifetime: int, method: MappingProtocol, now: float) -> None:
        if lifetime < SHORTEST or not external.port or external.is_ipv6 != self.base.is_ipv6:
            self._end(now)
            return
        lifetime = min(lifetime, LONGEST)
        self._asked.clear()
        self._next_at = None
        self._granted_at = now
        self._expires_at = now + lifetime
        self._renew_at = now + self._early * lifetime / 2
        self._method = method
        self.mapping = PortMapping(self.base, same_protocol(*external, self.base), method)

    def _end(self, now: float) -> None:
        """No answer, or no useful one: a mapping that there is stays until it expires."""
        self._asked.clear()
        self._next_at = None
        self._retry_at = now + self._retry_wait
        if self._expires_at is not None:
            self._renew_at = now + max(SHORTEST / 2, (self._expires_at - now) / 2)


def protocol_of(data: bytes, remote: Address) -> MappingProtocol:
    """Return the protocol of a request that was sent to this address."""
    if remote.port == SSDP_PORT:
        return MappingProtocol.UPNP
    return MappingProtocol.PCP if data[0] == PCP else MappingProtocol.NAT_PMP
