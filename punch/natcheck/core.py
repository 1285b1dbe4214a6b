"""
The core of `punch netcheck`: finds out what the NATs and firewalls between here and a rendezvous do to UDP.

A sans-I/O core. The caller opens sockets when asked to (`bind`), passes in datagrams and the service's
answers, and after any input sends `datagrams_to_send()` and `probes_to_send()`, until it is `done`.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from punch.ice.reach import is_local
from punch.identity import PeerID, RandomBytes
from punch.natcheck.profile import (
    Filtering,
    filtering_of,
    hairpinning_of,
    mapping_of,
    observe,
    ports_of,
    profile_of,
)
from punch.natcheck.report import FamilyReport, Lifetime
from punch.natcheck.transactions import (
    PROBE_TRIES,
    PROBE_WAIT,
    Bind,
    Future,
    ObservedAddress,
    ReflectorAddresses,
    Transactions,
)
from punch.wire.address import Address, Transmit
from punch.wire.control import Probe, Probed, Vantage

GRACE = 0.2
"""Seconds that a preferred interface may answer later than another one and still be chosen."""
NEW_MAPPINGS = 6
"""How many sockets are opened to find out how ports are allocated."""
HAIRPIN_ROUNDS = 4
"""How often datagrams are exchanged between two sockets of ours to test hairpinning."""
SETTLING = 2.5
"""
Seconds between the two exchanges after which a mapping is left unused: Linux keeps a mapping longer if it is
still in use after two seconds.
"""
SAMPLES = 8
"""How many mappings are left unused at the same time."""
SHORTEST = 5.0
"""The shortest lifetime that is measured, in seconds."""
LONGEST = 540.0
"""The longest lifetime that is measured, in seconds: a proof expires later."""
PRECISION = 1.0
"""The precision of the measured lifetime, in seconds."""
OVERHEAD = SETTLING + PROBE_TRIES * (PROBE_WAIT + 0.3)
"""Seconds that a sample takes in addition to the time for which its mapping is unused."""


async def examine(
    transactions: Transactions, reflectors: ReflectorAddresses, hosts: Sequence[str], lifetime: float | None
) -> FamilyReport:
    """
    Run all experiments for one address family.

    :param hosts: our own addresses of this family, in order of preference.
    :param lifetime: seconds that measuring the lifetime of mappings may take; None leaves it out.
    """
    home = await _find_home(transactions, reflectors.first, hosts)
    if home is None:
        return FamilyReport(local_addresses=tuple(hosts))
    host = home.local.host
    translated = home.mapped != home.local
    mapping = transactions.spawn(_see_elsewhere(transactions, home, reflectors))
    filtering = transactions.spawn(_probe(transactions, host, reflectors))
    others = transactions.spawn(_open_more(transactions, host, reflectors.first)) if translated else None
    observed = transactions.spawn(observe(transactions, host, reflectors)) if not home.local.is_ipv6 else None
    crossing = transactions.spawn(_cross(transactions, host, reflectors.first)) if translated else None
    second, third, fourth = await mapping
    port, address = await filtering
    # Silence is a result only if an answer could have been sent
    mappings = mapping_of(home.mapped, second, third, fourth)
    filterings = filtering_of(
        None if port is False and second is None else port,
        None if address is False and fourth is None else address,
    )
    seen = [home] if others is None else [home, *await others]
    # The other reflectors may see another address, since a NAT may have several
    mapped = [*(each.mapped for each in seen), second, third, fourth]
    hairpinning = None
    if crossing is not None:
        crossed = await crossing
        hairpinning = None if crossed is None else hairpinning_of(crossed, mappings, filterings)
    observation = None if observed is None else await observed
    lived = None
    if lifetime is not None and (translated or address is not True):
        lived = await measure_lifetime(transactions, host, reflectors.first, lifetime)
    profile = None if observation is None else profile_of(observation)
    # Those of the profile, which calls use, if there is one
    ports = ports_of([(each.local, each.mapped) for each in seen]) if profile is None else profile.ports
    rtts = [rtt for remote, rtt in transactions.rtts if remote == reflectors.first]
    return FamilyReport(
        udp=True,
        local_addresses=(host, *(each for each in hosts if each != host)),
        near=reflectors.first.host in hosts or is_local(reflectors.first.host) or is_local(home.mapped.host),
        public_addresses=tuple(dict.fromkeys(each.host for each in mapped if each is not None)),
        translated=translated,
        mapping=mappings if translated else frozenset(),
        filtering=filterings,
        hairpinning=hairpinning,
        ports=ports if translated else None,
        lifetime=lived,
        latency=median(rtts) if rtts else None,
        profile=profile,
    )


async def measure_lifetime(
    transactions: Transactions, host: str, first: Address, budget: float
) -> Lifetime | None:
    """
    Measure how long an unused mapping is kept.

    Many mappings are left unused at once, each for another time. Then a datagram from the service must
    arrive. The next round narrows the range between the longest time that a mapping survived and the shortest
    that it did not, as long as there is time.

    :param budget: seconds for all rounds together.
    """
    end = transactions.now + budget
    low = high = below = None
    ages = _growing(SHORTEST, min(LONGEST, budget - OVERHEAD))
    while ages:
        samples = [(age, transactions.spawn(_survives(transactions, host, first, age))) for age in ages]
        for age, sample in samples:
            lives, silent = await sample
            if lives:
                low = age
            elif lives is False:
                high, below = age, silent
                break
        left = min(LONGEST, end - transactions.now - OVERHEAD)
        bottom = low or 0.0
        if high is None or high - bottom <= PRECISION or left <= bottom + PRECISION:
            break
        ages = _between(bottom, high, left)
    return None if low is None and below is None else Lifetime(low or 0.0, below)


def _growing(shortest: float, longest: float) -> list[float]:
    """Times to leave mappings unused, each longer than the one before by the same factor."""
    if longest <= shortest:
        return [longest] if longest > 0 else []
    factor = (longest / shortest) ** (1 / (SAMPLES - 1))
    return [shortest * factor**number for number in range(SAMPLES)]


def _between(low: float, high: float, longest: float) -> list[float]:
    """Evenly spaced times between `low` and `high`, none above `longest`."""
    step = (high - low) / (SAMPLES + 1)
    ages = [low + step * number for number in range(1, SAMPLES + 1)]
    return [age for age in ages if age <= longest]


async def _find_home(
    transactions: Transactions, first: Address, hosts: Sequence[str]
) -> ObservedAddress | None:
    """The first of our own addresses that the reflector answers, asked from a new socket."""
    tries: list[Future[ObservedAddress | None]] = []
    settled: Future[None] = Future()

    def one_more() -> None:
        if all(each.done for each in tries) or any(each.done and each.value for each in tries):
            settled.set(None)

    for host in hosts:
        local = transactions.bind(host)
        if local is not None:
            tries.append(transactions.spawn(transactions.ask(local, first)))
    if not tries:
        return None
    for each in tries:
        each.then(one_more)
    await settled
    if not (tries[0].done and tries[0].value) and not all(each.done for each in tries):
        await transactions.sleep(GRACE)
    return next((each.value for each in tries if each.done and each.value is not None), None)


async def _see_elsewhere(
    transactions: Transactions, home: ObservedAddress, reflectors: ReflectorAddresses
) -> tuple[Address | None, Address | None, Address | None]:
    """The addresses that the other reflectors see the same socket at."""
    asked = [
        None if reflector is None else transactions.spawn(transactions.ask(home.local, reflector))
        for reflector in (reflectors.second, reflectors.third, reflectors.fourth)
    ]
    seen = [None if each is None else await each for each in asked]
    second, third, fourth = (None if each is None else each.mapped for each in seen)
    return second, third, fourth


async def _probe(
    transactions: Transactions, host: str, reflectors: ReflectorAddresses
) -> tuple[bool | None, bool | None]:
    """Whether datagrams from the other port and from another address arrive."""
    port = (
        transactions.spawn(_gets_in(transactions, host, reflectors.first, Vantage.PORT))
        if reflectors.second
        else None
    )
    address = (
        transactions.spawn(_gets_in(transactions, host, reflectors.first, Vantage.ADDRESS))
        if reflectors.fourth
        else None
    )
    return None if port is None else await port, None if address is None else await address


async def _gets_in(transactions: Transactions, host: str, first: Address, vantage: Vantage) -> bool | None:
    """
    Whether a datagram arrives from an address that nothing was sent to, at a new socket.
    """
    seen = await _seen_anew(transactions, host, first)
    # If not even this arrives, probes prove nothing
    if seen is None or not await transactions.probed(seen, Vantage.SAME):
        return None
    return await transactions.probed(seen, vantage)


async def _cross(transactions: Transactions, host: str, first: Address) -> bool | None:
    """Whether two sockets of ours reach each other at their mapped addresses."""
    asked = [transactions.spawn(_seen_anew(transactions, host, first)) for _ in range(2)]
    one, other = [await each for each in asked]
    if one is None or other is None:
        return None
    return await transactions.crossed(one, other, HAIRPIN_ROUNDS)


async def _open_more(transactions: Transactions, host: str, first: Address) -> list[ObservedAddress]:
    """The addresses that the reflector sees some more new sockets at."""
    asked = [transactions.spawn(_seen_anew(transactions, host, first)) for _ in range(NEW_MAPPINGS - 1)]
    seen = [await each for each in asked]
    return [each for each in seen if each is not None]


async def _survives(
    transactions: Transactions, host: str, first: Address, age: float
) -> tuple[bool | None, float]:
    """
    Whether a mapping still exists after it was not used for `age` seconds, and for how many seconds it was
    unused when the answer was known.
    """
    seen = await _seen_anew(transactions, host, first)
    if seen is None:
        return None, 0.0
    await transactions.sleep(SETTLING)
    used = transactions.now
    seen = await transactions.ask(seen.local, first)
    if seen is None:
        return None, 0.0
    await transactions.sleep(age)
    return await transactions.probed(seen, Vantage.SAME), transactions.now - used


async def _seen_anew(transactions: Transactions, host: str, first: Address) -> ObservedAddress | None:
    local = transactions.bind(host)
    return None if local is None else await transactions.ask(local, first)


class Netcheck:
    """All experiments, for both address families at once."""

    def __init__(self, *, peer: PeerID, random: RandomBytes, bind: Bind, now: float) -> None:
        """
        :param peer: our peer ID, as on the control channel.
        :param bind: opens a socket at one of our addresses and returns its local address.
        :param now: the time in monotonic seconds.
        """
        self._transactions = Transactions(peer, random, bind, now)
        self._reflectors: dict[bool, ReflectorAddresses] = {}
        self._reports: dict[bool, Future[FamilyReport]] = {}
        self._reached: list[Future[bool | None]] = []

    def start(
        self,
        hosts: Sequence[str],
        services: Sequence[str],
        port: int,
        second_port: int = 0,
        lifetime: float | None = None,
        *,
        now: float,
    ) -> None:
        """
        Start the experiments.

        :param hosts: our own IP addresses, in order of preference.
        :param services: the service's IP addresses; the first of each family is the main one.
        :param port: the reflector's UDP port.
        :param second_port: the reflector's second UDP port, 0 if there is none.
        :param lifetime: seconds that measuring the lifetime of mappings may take; None leaves it out.
        """
        # They begin now, and not when the core was made
        self._transactions.handle_timer(now)
        for ipv6 in (False, True):
            there = [each for each in services if (":" in each) == ipv6]
            here = [each for each in hosts if (":" in each) == ipv6]
            if there:
                reflectors = self._reflectors[ipv6] = ReflectorAddresses.of(there, port, second_port)
                self._reports[ipv6] = self._transactions.spawn(
                    examine(self._transactions, reflectors, here, lifetime)
                )

    def reach(self, local: Address, external: Address, now: float) -> Future[bool | None]:
        """
        Find out whether everybody reaches a port that a router has mapped to our socket at `local`. To be
        called after `start`.

        :param external: the address of this port.
        :return: whether a datagram from where nothing was sent to arrives there. None: that can't be found
            out, for example because what the socket sends does not come from this port.
        """
        self._transactions.handle_timer(now)
        reached = self._transactions.spawn(self._reach(local, external))
        self._reached.append(reached)
        return reached

    async def _reach(self, local: Address, external: Address) -> bool | None:
        transactions, reflectors = self._transactions, self._reflectors.get(local.is_ipv6)
        seen = None if reflectors is None else await transactions.ask(local, reflectors.first)
        if reflectors is None or seen is None or seen.mapped != external:
            return None
        if not await transactions.probed(seen, Vantage.SAME):
            return None
        if reflectors.fourth is not None:
            return await transactions.probed(seen, Vantage.ADDRESS)
        arrives = None if reflectors.second is None else await transactions.probed(seen, Vantage.PORT)
        if not arrives:
            return arrives
        # It shows something only if other sockets receive nothing from that port
        report = await self._reports[local.is_ipv6]
        return True if report.filtering == {Filtering.ADDRESS_AND_PORT_DEPENDENT} else None

    @property
    def done(self) -> bool:
        """Whether all experiments have ended."""
        reported = all(each.done for each in self._reports.values())
        return reported and all(each.done for each in self._reached)

    @property
    def ipv4(self) -> FamilyReport | None:
        """The report on IPv4; None if the service has no IPv4 address."""
        return self._report(False)

    @property
    def ipv6(self) -> FamilyReport | None:
        """The report on IPv6; None if the service has no IPv6 address."""
        return self._report(True)

    def receive_datagram(self, data: bytes, remote: Address, local: Address, now: float) -> None:
        """Process a datagram that came from `remote` to our socket at `local`."""
        self._transactions.receive_datagram(data, remote, local, now)

    def receive_probed(self, reply: Probed, now: float) -> None:
        """Process the service's answer to a probe request."""
        self._transactions.receive_probed(reply, now)

    def datagrams_to_send(self, now: float) -> list[Transmit]:
        """Return the datagrams to send now."""
        return self._transactions.datagrams_to_send()

    def probes_to_send(self) -> Sequence[Probe]:
        """Return the probes to request from the service now."""
        return self._transactions.probes_to_send()

    def get_timer(self) -> float | None:
        """When to call `handle_timer`, in monotonic seconds; None: not needed."""
        return None if self.done else self._transactions.get_timer()

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`."""
        self._transactions.handle_timer(now)

    def _report(self, ipv6: bool) -> FamilyReport | None:
        report = self._reports.get(ipv6)
        return None if report is None else report.value
