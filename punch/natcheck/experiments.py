"""The experiments of RFC 5780, on one address family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from punch.ice.candidates import is_local
from punch.natcheck.behaviour import (
    filtering_of,
    hairpinning_of,
    mapping_of,
    ports_of,
)
from punch.natcheck.report import FamilyReport, Lifetime
from punch.natcheck.tasks import Later
from punch.natcheck.transactions import (
    PROBE_TRIES,
    PROBE_WAIT,
    ObservedAddress,
    Transactions,
)
from punch.wire.address import Address
from punch.wire.probing import Vantage

GRACE = 0.2
"""Seconds that a preferred interface may answer later than another."""
NEW_MAPPINGS = 6
"""Sockets by which port allocation is seen."""
HAIRPIN_ROUNDS = 4
SETTLING = 2.5
"""
Seconds between the two exchanges after which a mapping is left alone: Linux keeps one longer that is still in
use after two.
"""
SAMPLES = 8
"""Mappings that are left alone at the same time."""
SHORTEST = 5.0
"""Seconds: a shorter life is no life."""
LONGEST = 540.0
"""Seconds: a proof is not good for longer."""
PRECISION = 1.0
"""Seconds: nearer than this nobody wants to know."""
OVERHEAD = SETTLING + PROBE_TRIES * (PROBE_WAIT + 0.3)
"""Seconds that a sample takes besides the time in which it is left alone."""


@dataclass(frozen=True)
class Places:
    """Where the reflectors are that one address family reaches; None for those that there are not."""

    first: Address
    second: Address | None = None
    third: Address | None = None
    fourth: Address | None = None

    @classmethod
    def of(cls, hosts: Sequence[str], port: int, second: int) -> Places:
        """
        :param hosts: the service's addresses, of one family; the first is the main one.
        :param port: the reflector's port.
        :param second: its second port, 0 if there is none.
        """
        main = hosts[0]
        other = next((host for host in hosts if host != main), None)
        return cls(
            Address(main, port),
            Address(main, second) if second else None,
            None if other is None else Address(other, port),
            Address(other, second) if other is not None and second else None,
        )


async def examine(
    transactions: Transactions, places: Places, hosts: Sequence[str], lifetime: float | None
) -> FamilyReport:
    """
    Find out what there is to know.

    :param hosts: our own addresses of this family, in order of preference.
    :param lifetime: seconds that measuring the lifetime of mappings may take; None leaves it out.
    """
    home = await _find_home(transactions, places.first, hosts)
    if home is None:
        return FamilyReport(local_addresses=tuple(hosts))
    host = home.local.host
    translated = home.mapped != home.local
    mapping = transactions.spawn(_see_elsewhere(transactions, home, places))
    filtering = transactions.spawn(_probe(transactions, host, places))
    others = transactions.spawn(_open_more(transactions, host, places.first)) if translated else None
    crossing = transactions.spawn(_cross(transactions, host, places.first)) if translated else None
    second, third, fourth = await mapping
    port, address = await filtering
    # Silence says something only where an answer could have come from.
    mappings = mapping_of(home.mapped, second, third, fourth)
    filterings = filtering_of(
        None if port is False and second is None else port,
        None if address is False and fourth is None else address,
    )
    seen = [home] if others is None else [home, *await others]
    # Others than the main one may see another address: a NAT may have several.
    mapped = [*(each.mapped for each in seen), second, third, fourth]
    hairpinning = None
    if crossing is not None:
        crossed = await crossing
        hairpinning = None if crossed is None else hairpinning_of(crossed, mappings, filterings)
    lived = None
    if lifetime is not None and (translated or address is not True):
        lived = await measure_lifetime(transactions, host, places.first, lifetime)
    rtts = [rtt for remote, rtt in transactions.rtts if remote == places.first]
    return FamilyReport(
        udp=True,
        local_addresses=(host, *(each for each in hosts if each != host)),
        near=places.first.host in hosts or is_local(places.first.host) or is_local(home.mapped.host),
        public_addresses=tuple(dict.fromkeys(each.host for each in mapped if each is not None)),
        translated=translated,
        mapping=mappings if translated else frozenset(),
        filtering=filterings,
        hairpinning=hairpinning,
        ports=ports_of([(each.local, each.mapped) for each in seen]) if translated else None,
        lifetime=lived,
        latency=median(rtts) if rtts else None,
    )


async def measure_lifetime(
    transactions: Transactions, host: str, first: Address, budget: float
) -> Lifetime | None:
    """
    How long a mapping that was in use is kept when it is not.

    Many mappings are left alone at once, each for another time, and then a datagram from the service must get
    in. The next round looks closer between the longest that lived and the shortest that did not, as long as
    there is time.

    :param budget: seconds, for all rounds together.
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
    """Times to leave mappings alone for, each longer than the one before by the same factor."""
    if longest <= shortest:
        return [longest] if longest > 0 else []
    factor = (longest / shortest) ** (1 / (SAMPLES - 1))
    return [shortest * factor**number for number in range(SAMPLES)]


def _between(low: float, high: float, longest: float) -> list[float]:
    """Times between two others, evenly, none above `longest`."""
    step = (high - low) / (SAMPLES + 1)
    ages = [low + step * number for number in range(1, SAMPLES + 1)]
    return [age for age in ages if age <= longest]


async def _find_home(
    transactions: Transactions, first: Address, hosts: Sequence[str]
) -> ObservedAddress | None:
    """The first of our own addresses from which the reflector answers, by a new socket."""
    tries: list[Later[ObservedAddress | None]] = []
    settled: Later[None] = Later()

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
    transactions: Transactions, home: ObservedAddress, places: Places
) -> tuple[Address | None, Address | None, Address | None]:
    """What the other reflectors see of the same socket."""
    asked = [
        None if place is None else transactions.spawn(transactions.ask(home.local, place))
        for place in (places.second, places.third, places.fourth)
    ]
    seen = [None if each is None else await each for each in asked]
    second, third, fourth = (None if each is None else each.mapped for each in seen)
    return second, third, fourth


async def _probe(transactions: Transactions, host: str, places: Places) -> tuple[bool | None, bool | None]:
    """Whether datagrams from the other port, and from another address, get in."""
    port = (
        transactions.spawn(_gets_in(transactions, host, places.first, Vantage.PORT))
        if places.second
        else None
    )
    address = (
        transactions.spawn(_gets_in(transactions, host, places.first, Vantage.ADDRESS))
        if places.fourth
        else None
    )
    return None if port is None else await port, None if address is None else await address


async def _gets_in(transactions: Transactions, host: str, first: Address, vantage: Vantage) -> bool | None:
    """
    Whether a datagram gets in from where nothing was sent to; by a new socket, that has sent nothing there.
    """
    seen = await _seen_anew(transactions, host, first)
    # Where not even this arrives, probes say nothing.
    if seen is None or not await transactions.probed(seen, Vantage.SAME):
        return None
    return await transactions.probed(seen, vantage)


async def _cross(transactions: Transactions, host: str, first: Address) -> bool | None:
    """Whether two sockets of ours reach each other by their mapped addresses."""
    asked = [transactions.spawn(_seen_anew(transactions, host, first)) for _ in range(2)]
    one, other = [await each for each in asked]
    if one is None or other is None:
        return None
    return await transactions.crossed(one, other, HAIRPIN_ROUNDS)


async def _open_more(transactions: Transactions, host: str, first: Address) -> list[ObservedAddress]:
    """What the reflector sees of some more new sockets."""
    asked = [transactions.spawn(_seen_anew(transactions, host, first)) for _ in range(NEW_MAPPINGS - 1)]
    seen = [await each for each in asked]
    return [each for each in seen if each is not None]


async def _survives(
    transactions: Transactions, host: str, first: Address, age: float
) -> tuple[bool | None, float]:
    """
    Whether a mapping that was in use still is there when nobody has used it for `age` seconds; and how many
    it had not been used for when the answer was certain.
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
