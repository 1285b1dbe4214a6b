"""
Every pair of RFC 4787's NAT behaviours on the simulated internet.

`python -m punch.test.scenarios.grid --help` tells how to run it.

For each seed there is one simulated internet with a rendezvous and, on the left and on the right, a peer in
each kind of place. In as many rounds as there are kinds, every peer on the left calls another one on the
right. A call is judged by when it connected, and by both sides' paths 5 s later, and with `--later` also by
those 25 s later. So is a call between two homes behind one NAT, of each kind and with each way of
hairpinning.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from punch.identity import PeerID
from punch.node.events import (
    CallFailed,
    Connected,
    Disconnected,
    Event,
    PathChanged,
    Registered,
)
from punch.test.internet import NAT, Filtering, Firewall, Hairpin, Host, Internet, LinkSpec, Mapping, Ports
from punch.test.scenarios.nat_pairs import (
    HAIRPINS,
    KINDS,
    must_connect,
    must_connect_behind_one,
    must_connect_later,
)
from punch.test.scenarios.pages import SentBySide, replace_section, sent_table, table
from punch.test.system import SERVICE, Peer, Rendezvous
from punch.wire.control import Accept

OPEN, FIREWALL, CARRIER, NO_UDP = "open", "firewall", "carrier", "no UDP"
PLACES = (*KINDS, OPEN, FIREWALL, CARRIER, NO_UDP)
"""
Where peers are: behind NATs of each mapping and filtering; on the open internet; under a public address
behind a stateful firewall; behind a home's NAT behind a carrier's; where no UDP gets out.
"""

SEEDS = (1, 2, 3, 4, 5)
CALL_TIMEOUT = 15.0
"""Seconds after which a call has failed."""
SETTLED = 5.0
"""Seconds after `connected` at which the best path must have been found."""
LATER = 25.0
"""…and so many where it takes prediction, simultaneous open or spraying, or TCP while packets get lost."""
CALM = LinkSpec()
BAD = LinkSpec(delay=0.025, loss=0.05)

Pair = tuple[str, str]


def must_be_direct(one: str, other: str) -> bool:
    """
    Whether a pair must have a direct path (RFC 8445), by the table of `nat_pairs` and these rules:

    with the open internet, everything is; a firewall filters like EIM/APDF, and so do two NATs of that kind
    one after the other. Where no UDP gets out, the NAT is of that kind, and the same holds for TCP.
    """
    if OPEN in (one, other):
        return True
    same = dict.fromkeys((FIREWALL, CARRIER, NO_UDP), "EIM/APDF")
    return must_connect()[same.get(one, one), same.get(other, other)]


def must_be_direct_later(one: str, other: str, ports: Ports) -> bool:
    """Whether a pair must be direct after some time, by a technique beyond ICE; see `nat_pairs`."""
    if NO_UDP in (one, other) or OPEN in (one, other):
        return False
    if FIREWALL in (one, other) and "ADM" in (one[:3], other[:3]):
        # The port of the other side is certain, so it can't be that one
        return True
    same = dict.fromkeys((FIREWALL, CARRIER), "EIM/APDF")
    return must_connect_later(same.get(one, one), same.get(other, other), ports)


@dataclass(frozen=True)
class CallOutcome:
    """
    One call.

    :ivar seconds: from the call to `connected` at the caller, None if that did not come.
    :ivar path: `SETTLED` seconds after both sides were connected: "relay" if one of them is on it, "" if
        there was no link then, else the caller's path.
    :ivar later: the same `LATER` seconds after that; None if that was not looked at.
    :ivar ports: how the NATs chose ports.
    :ivar sent: what each side sent for a direct path, by technique.
    """

    seconds: float | None
    path: str = ""
    later: str | None = None
    ports: Ports = Ports.RANDOM
    sent: tuple[SentBySide, ...] = ()


@dataclass
class Results:
    """
    What became of all pairs, one outcome for each seed and each way of choosing ports.

    :ivar names: the rows of the table.
    :ivar columns: its columns.
    :ivar direct: whether a pair of a row and a column must be direct.
    :ivar corner: what rows and columns are.
    :ivar later: whether it must be direct `LATER` seconds after it connected, if NATs choose ports so.
    """

    names: Sequence[str]
    link: LinkSpec
    columns: Sequence[str] = ()
    direct: Callable[[str, str], bool] = must_be_direct
    corner: str = "caller ↓, callee →"
    later: Callable[[str, str, Ports], bool] = lambda one, other, ports: False
    outcomes: dict[Pair, list[CallOutcome]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.columns = self.columns or self.names

    @property
    def seconds(self) -> list[float]:
        """All times to connect."""
        return [
            outcome.seconds
            for outcomes in self.outcomes.values()
            for outcome in outcomes
            if outcome.seconds is not None
        ]

    @property
    def median(self) -> float:
        """Of all times to connect."""
        return statistics.median(self.seconds or [0.0])

    @property
    def worst(self) -> float:
        """Of all times to connect."""
        return max(self.seconds, default=0.0)

    def failures(self) -> list[str]:
        """What is wrong, a sentence each."""
        found = []
        for one in self.names:
            for other in self.columns:
                outcomes = self.outcomes.get((one, other), [])
                if not outcomes:
                    found.append(f"{one} to {other}: missing")
                for number, outcome in enumerate(outcomes, 1):
                    where = f"{one} to {other}, try {number}"
                    if outcome.seconds is None:
                        found.append(f"{where}: no link")
                    elif not outcome.path:
                        found.append(f"{where}: the link was lost")
                    elif outcome.path == "relay" and self._is_judged(one, other):
                        found.append(f"{where}: on the relay after {SETTLED:g} s, but a direct path exists")
                    elif outcome.later == "":
                        found.append(f"{where}: the link was lost later")
                    elif outcome.later == "relay" and self._must_be_direct_later(one, other, outcome.ports):
                        found.append(
                            f"{where}, ports {outcome.ports.value}: on the relay after {LATER:g} s, "
                            "but a direct path exists"
                        )
        return found

    def _must_be_direct_later(self, one: str, other: str, ports: Ports) -> bool:
        return self.direct(one, other) or self.later(one, other, ports)

    def _is_judged(self, one: str, other: str) -> bool:
        """
        Whether a pair must be direct by now. Over TCP, each lost packet before that costs a second, so with
        loss the time is too short for some calls.
        """
        return self.direct(one, other) and not (self.link.loss and NO_UDP in (one, other))

    def summary(self) -> str:
        """A sentence on the whole."""
        outcomes = [outcome for each in self.outcomes.values() for outcome in each]
        direct = sum(outcome.path not in ("", "relay") for outcome in outcomes)
        later = sum(outcome.later not in ("", "relay", None) for outcome in outcomes)
        looked = any(outcome.later is not None for outcome in outcomes)
        link = f"{self.link.delay * 1000:g} ms and {self.link.loss:.0%} loss on each access link, each way"
        return (
            f"{len(self.outcomes)} pairs, {len(outcomes)} calls, {link}: {len(self.seconds)} connected, "
            f"{direct} of them direct {SETTLED:g} s later"
            f"{f' and {later} {LATER:g} s later' if looked else ''}; "
            f"median {self.median:.2f} s, worst {self.worst:.2f} s."
        )

    def of(self, ports: Ports) -> Results:
        """The calls between NATs that choose ports in this way."""
        return replace(
            self,
            outcomes={
                pair: [each for each in outcomes if each.ports is ports]
                for pair, outcomes in self.outcomes.items()
            },
        )

    def matrix(self) -> str:
        """All pairs: the path in the end, and the worst time to connect."""
        head = [self.corner, *self.columns]
        rows = [[f"**{one}**", *(self._cell((one, other)) for other in self.columns)] for one in self.names]
        return table(head, rows)

    def sent(self) -> str:
        """What was sent for direct paths, by technique."""
        return sent_table(outcome.sent for outcomes in self.outcomes.values() for outcome in outcomes)

    def _cell(self, pair: Pair) -> str:
        outcomes = self.outcomes.get(pair, [])
        later = [outcome.path if outcome.later is None else outcome.later for outcome in outcomes]
        seconds = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
        if not outcomes or len(seconds) < len(outcomes):
            return f"{len(outcomes) - len(seconds)} × no"
        relayed = later.count("relay")
        mark = "R" if relayed == len(outcomes) else f"R{relayed}"
        if not relayed:
            mark = "L" if any(outcome.path == "relay" for outcome in outcomes) else "D"
        return f"{mark} {max(seconds):.2f}"


class GridInternet:
    """One simulated internet with a rendezvous, and calls side by side."""

    def __init__(self, seed: int, link: LinkSpec) -> None:
        self.net = Internet(seed)
        self.link = link
        self._rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))

    def start_peer(self, host: Host) -> Peer:
        """A peer that lets everybody in."""
        return Peer(self.net, host, self._rendezvous.address, accept=Accept.ANYONE).start()

    def wait_for(self, peers: Iterable[Peer]) -> None:
        """Until all are registered, and a bit more."""
        for peer in peers:
            peer.wait_for(Registered, 60.0)
        self.net.advance(5.0)

    def call(
        self, peers: Sequence[tuple[Peer, Peer]], ports: Ports, *, later: bool = False
    ) -> list[CallOutcome]:
        """
        Call between all of these pairs at once; what became of each.

        :param later: look at the paths after `LATER` seconds, too.
        """
        start = self.net.now
        for caller, callee in peers:
            caller.call(callee.id)
        deadline = start + CALL_TIMEOUT
        while self.net.now < deadline and not all(
            _ended(caller, callee.id, start) for caller, callee in peers
        ):
            self.net.advance(0.1)
        self.net.advance((LATER if later else SETTLED) + 1.0)
        outcomes = []
        for caller, callee in peers:
            connected = _time_of(caller, callee.id, start, Connected)
            path, path_later = (_paths(caller, callee, start, after) for after in (SETTLED, LATER))
            seconds = None if connected is None else connected - start
            sent = (_sent(caller, callee.id), _sent(callee, caller.id))
            outcomes.append(CallOutcome(seconds, path, path_later if later else None, ports, sent))
            caller.node.hangup(callee.id)
        self.net.advance(1.0)
        return outcomes


class TwoSidedGrid(GridInternet):
    """A peer in each place, left and right."""

    def __init__(self, seed: int, names: Sequence[str], link: LinkSpec, ports: Ports) -> None:
        super().__init__(seed, link)
        self._names = names
        self._ports = ports
        self._sides = [
            [self._peer(side, number, name) for number, name in enumerate(names)] for side in (1, 2)
        ]
        self.wait_for([*self._sides[0], *self._sides[1]])

    def _peer(self, side: int, number: int, name: str) -> Peer:
        host = self._host(f"{side} {name}", f"203.0.{side}.{10 + number}", f"10.{side}.{number}.0/24", name)
        return self.start_peer(host)

    def _host(self, label: str, public: str, subnet: str, name: str) -> Host:
        if name == OPEN:
            return self.net.host(label, public, link=self.link)
        if name == FIREWALL:
            firewall = Firewall(filtering=Filtering.APDF)
            # A relay must reach it (198.18.0.0/15 is special)
            subnet = f"203.9.{subnet.split('.')[1]}.0/24"
            return self.net.lan(label, subnet, firewall=firewall, link=self.link).host(label)
        nat = NAT(public=public, ports=self._ports)
        if name == CARRIER:
            carrier = NAT(public=public, ports=self._ports, hairpin=Hairpin.NONE)
            outer = self.net.lan(f"{label} carrier", "100.64.0.0/24", nat=carrier, link=CALM)
            nat.public = None
            return outer.lan(label, subnet, nat=nat, link=self.link).host(label)
        if name == NO_UDP:
            nat.block_udp = True
        else:
            mapping, filtering = name.split("/")
            nat.mapping, nat.filtering = Mapping[mapping], Filtering[filtering]
        return self.net.lan(label, subnet, nat=nat, link=self.link).host(label)

    def run(self, results: Results, *, later: bool = False) -> None:
        """Call every pair once."""
        count = len(self._names)
        left, right = self._sides
        for shift in range(count):
            calls = [(index, (index + shift) % count) for index in range(count)]
            outcomes = self.call(
                [(left[here], right[there]) for here, there in calls], self._ports, later=later
            )
            for (here, there), outcome in zip(calls, outcomes, strict=True):
                results.outcomes.setdefault((self._names[here], self._names[there]), []).append(outcome)


class SharedNATGrid(GridInternet):
    """Two homes behind one NAT of each kind, with each way of hairpinning."""

    def __init__(self, seed: int, kinds: Sequence[str], link: LinkSpec, ports: Ports) -> None:
        super().__init__(seed, link)
        self._ports = ports
        self._pairs = {
            (kind, hairpin): self._homes(kind, hairpin, number, ports)
            for number, (kind, hairpin) in enumerate(product(kinds, HAIRPINS))
        }
        self.wait_for(peer for pair in self._pairs.values() for peer in pair)

    def _homes(self, kind: str, hairpin: str, number: int, ports: Ports) -> tuple[Peer, Peer]:
        mapping, filtering = kind.split("/")
        carrier = NAT(
            public=f"203.0.1.{10 + number}",
            mapping=Mapping[mapping],
            filtering=Filtering[filtering],
            hairpin=Hairpin[hairpin.upper()],
            ports=ports,
        )
        name = f"{kind} {hairpin}"
        inside = self.net.lan(name, "100.64.0.0/24", nat=carrier, link=CALM)
        hosts = [
            inside.lan(
                f"{name} {side}",
                f"10.{side}.{number}.0/24",
                nat=NAT(filtering=Filtering.EIF, ports=ports),
                link=self.link,
            ).host(f"{name} {side}")
            for side in (1, 2)
        ]
        return self.start_peer(hosts[0]), self.start_peer(hosts[1])

    def run(self, results: Results) -> None:
        """Call every pair once."""
        outcomes = self.call(list(self._pairs.values()), self._ports)
        for pair, outcome in zip(self._pairs, outcomes, strict=True):
            results.outcomes.setdefault(pair, []).append(outcome)


def _time_of(peer: Peer, other: PeerID, since: float, *kinds: type[Event]) -> float | None:
    """When the first event of some kinds about another peer came."""
    for time, event in peer.events:
        if time >= since and isinstance(event, kinds) and getattr(event, "peer", None) == other:
            return time
    return None


def _ended(peer: Peer, other: PeerID, since: float) -> bool:
    return _time_of(peer, other, since, Connected, CallFailed) is not None


def _sent(peer: Peer, other: PeerID) -> SentBySide:
    """What a peer has sent to another one for a direct path, by technique."""
    return {
        technique.value: (done.packets, done.bytes)
        for link in peer.node.status.links
        if link.peer == other
        for technique, done in link.techniques.items()
    }


def _paths(caller: Peer, callee: Peer, since: float, after: float) -> str:
    """The caller's path so many seconds after both were connected; "relay" or "" if one side has that."""
    paths = [_path(caller, callee.id, since, after), _path(callee, caller.id, since, after)]
    return "" if "" in paths else "relay" if "relay" in paths else paths[0]


def _path(peer: Peer, other: PeerID, since: float, after: float) -> str:
    """The path to another peer so many seconds after they were connected, "" if there is none."""
    connected = _time_of(peer, other, since, Connected)
    if connected is None:
        return ""
    path = ""
    for time, event in peer.events:
        if connected <= time <= connected + after and getattr(event, "peer", None) == other:
            if isinstance(event, (Connected, PathChanged)):
                path = event.path.kind
            elif isinstance(event, Disconnected):
                path = ""
    return path


def run_grid(
    names: Sequence[str] = PLACES,
    *,
    seeds: Iterable[int] = SEEDS,
    link: LinkSpec = CALM,
    ports: Iterable[Ports] = (Ports.RANDOM,),
    later: bool = False,
) -> Results:
    """Call every pair once for each seed and each way of choosing ports."""
    results = Results(names, link, later=must_be_direct_later)
    for allocation in ports:
        for seed in seeds:
            TwoSidedGrid(seed, names, link, allocation).run(results, later=later)
    return results


def run_shared(
    kinds: Sequence[str] = KINDS,
    *,
    seeds: Iterable[int] = SEEDS,
    link: LinkSpec = CALM,
    ports: Iterable[Ports] = (Ports.RANDOM,),
) -> Results:
    """Call between two homes behind one NAT of each kind, once for each seed and way of choosing ports."""
    marks = must_connect_behind_one()
    results = Results(
        kinds, link, HAIRPINS, lambda kind, hairpin: marks[kind, hairpin], "shared NAT ↓, hairpinning →"
    )
    for allocation in ports:
        for seed in seeds:
            SharedNATGrid(seed, kinds, link, allocation).run(results)
    return results


def pairs_by_ports(results: Results, ports: Iterable[Ports]) -> list[str]:
    """What docs/nat.md shows of all pairs: a table for each way of choosing ports."""
    parts = [results.summary()]
    for each in ports:
        chosen = results.of(each)
        parts += [f"NATs with {each.value} ports: {chosen.summary()}", chosen.matrix(), chosen.sent()]
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the grid, print it as markdown, and return 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m punch.test.scenarios.grid", description=__doc__)
    add = parser.add_argument
    add("--delay", type=float, default=0.0, help="milliseconds that an access link takes, each way")
    add("--loss", type=float, default=0.0, help="percent of packets that an access link loses, each way")
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=SEEDS,
        help="one simulated internet for each [default: 1 to 5]",
    )
    add("--later", action="store_true", help=f"also say which path each call has {LATER:g} s later")
    choices = [ports.value for ports in Ports]
    add(
        "--ports",
        nargs="+",
        choices=choices,
        default=choices,
        help="how the NATs choose ports [default: each]",
    )
    add(
        "--write",
        nargs=2,
        metavar=("PAGE", "SECTION"),
        help="put what is printed there: docs/nat.md simulated",
    )
    given = parser.parse_args(arguments)
    link = LinkSpec(delay=given.delay / 1000, loss=given.loss / 100)
    ports = [Ports(value) for value in given.ports]
    pairs = run_grid(seeds=given.seeds, link=link, ports=ports, later=given.later)
    shared = run_shared(seeds=given.seeds, link=link, ports=ports)
    tables = [pairs, shared]
    text = "\n\n".join([*pairs_by_ports(pairs, ports), shared.summary(), shared.matrix(), shared.sent()])
    print(text)
    if given.write:
        replace_section(Path(given.write[0]), given.write[1], text)
    wrong = [sentence for results in tables for sentence in results.failures()]
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
