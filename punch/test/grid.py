"""
Every pair of RFC 4787's NAT behaviours on the simulated internet: `python -m punch.test.grid --help`.

For each seed there is one simulated internet with a rendezvous and, on the left and on the right, a peer in
each kind of place. In as many rounds as there are kinds, every peer on the left calls another one on the
right. A call is judged by when it connected, and by its path 5 s later.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from punch.identity import PeerID
from punch.peer.events import Connected, Disconnected, Event, Failed, PathChanged, Registered
from punch.test.internet import NAT, Filtering, Firewall, Hairpin, Host, Internet, LinkSpec, Mapping, Ports
from punch.test.nat_pairs import KINDS, must_connect
from punch.test.pages import replace_section, table
from punch.test.system import SERVICE, Peer, Rendezvous
from punch.wire.control import Accept

OPEN, FIREWALL, CARRIER, NO_UDP = "open", "firewall", "carrier", "no UDP"
PLACES = (*KINDS, OPEN, FIREWALL, CARRIER, NO_UDP)
"""
Where peers are: behind NATs of each mapping and filtering; on the open internet; under a public address
behind a stateful firewall; behind a home's NAT behind a carrier's; where no UDP gets out.
"""

SEEDS = (1, 2, 3, 4, 5)
PATIENCE = 15.0
"""Seconds after which a call has failed."""
SETTLED = 5.0
"""Seconds after `connected` at which the best path must have been found."""
CALM = LinkSpec()
BAD = LinkSpec(delay=0.025, loss=0.05)

Pair = tuple[str, str]


def must_be_direct(one: str, other: str) -> bool:
    """
    Whether a pair must have a direct path (RFC 8445), by the table of `nat_pairs` and these rules:

    without UDP, nothing is direct; with the open internet, everything else is; a firewall filters like
    EIM/APDF, and so do two NATs of that kind one after the other.
    """
    if NO_UDP in (one, other):
        return False
    if OPEN in (one, other):
        return True
    same = {FIREWALL: "EIM/APDF", CARRIER: "EIM/APDF"}
    return must_connect()[same.get(one, one), same.get(other, other)]


@dataclass(frozen=True)
class Outcome:
    """
    One call.

    :ivar seconds: from the call to `connected` at the caller, None if that did not come.
    :ivar path: the caller's path `SETTLED` seconds after that, "" if there was no link then.
    """

    seconds: float | None
    path: str = ""


@dataclass
class Results:
    """What became of all pairs, one outcome for each seed."""

    names: Sequence[str]
    link: LinkSpec
    outcomes: dict[Pair, list[Outcome]] = field(default_factory=dict)

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
            for other in self.names:
                outcomes = self.outcomes.get((one, other), [])
                if not outcomes:
                    found.append(f"{one} to {other}: missing")
                for number, outcome in enumerate(outcomes, 1):
                    where = f"{one} to {other}, try {number}"
                    if outcome.seconds is None:
                        found.append(f"{where}: no link")
                    elif not outcome.path:
                        found.append(f"{where}: the link was lost")
                    elif outcome.path == "relay" and must_be_direct(one, other):
                        found.append(f"{where}: on the relay after {SETTLED:g} s, but a direct path exists")
        return found

    def summary(self) -> str:
        """A sentence on the whole."""
        outcomes = [outcome for each in self.outcomes.values() for outcome in each]
        direct = sum(outcome.path not in ("", "relay") for outcome in outcomes)
        weather = f"{self.link.delay * 1000:g} ms and {self.link.loss:.0%} loss on each access link, each way"
        return (
            f"{len(self.outcomes)} pairs, {len(outcomes)} calls, {weather}: {len(self.seconds)} connected, "
            f"{direct} of them direct {SETTLED:g} s later; "
            f"median {self.median:.2f} s, worst {self.worst:.2f} s."
        )

    def matrix(self) -> str:
        """All pairs: the path in the end, and the worst time to connect."""
        head = ["caller ↓, callee →", *self.names]
        rows = [[f"**{one}**", *(self._cell((one, other)) for other in self.names)] for one in self.names]
        return table(head, rows)

    def _cell(self, pair: Pair) -> str:
        outcomes = self.outcomes.get(pair, [])
        seconds = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
        if not outcomes or len(seconds) < len(outcomes):
            return f"{len(outcomes) - len(seconds)} × no"
        relayed = sum(outcome.path == "relay" for outcome in outcomes)
        mark = "D" if not relayed else "R" if relayed == len(outcomes) else f"R{relayed}"
        return f"{mark} {max(seconds):.2f}"


class World:
    """One simulated internet with a peer in each place, left and right."""

    def __init__(self, seed: int, names: Sequence[str], link: LinkSpec, ports: Ports) -> None:
        self.net = Internet(seed)
        self._names = names
        self._link = link
        self._ports = ports
        self._rendezvous = Rendezvous(self.net, self.net.host("rendezvous", SERVICE))
        self._sides = [
            [self._peer(side, number, name) for number, name in enumerate(names)] for side in (1, 2)
        ]
        for peer in (*self._sides[0], *self._sides[1]):
            peer.wait_for(Registered, 60.0)
        self.net.advance(5.0)

    def _peer(self, side: int, number: int, name: str) -> Peer:
        host = self._host(f"{side} {name}", f"203.0.{side}.{10 + number}", f"10.{side}.{number}.0/24", name)
        return Peer(self.net, host, self._rendezvous.address, accept=Accept.ANYONE).start()

    def _host(self, label: str, public: str, subnet: str, name: str) -> Host:
        if name == OPEN:
            return self.net.host(label, public, link=self._link)
        if name == FIREWALL:
            firewall = Firewall(filtering=Filtering.APDF)
            subnet = f"198.18.{subnet.split('.')[1]}.0/24"
            return self.net.lan(label, subnet, firewall=firewall, link=self._link).host(label)
        nat = NAT(public=public, ports=self._ports)
        if name == CARRIER:
            carrier = NAT(public=public, ports=self._ports, hairpin=Hairpin.NONE)
            outer = self.net.lan(f"{label} carrier", "100.64.0.0/24", nat=carrier, link=CALM)
            nat.public = None
            return outer.lan(label, subnet, nat=nat, link=self._link).host(label)
        if name == NO_UDP:
            nat.block_udp = True
        else:
            mapping, filtering = name.split("/")
            nat.mapping, nat.filtering = Mapping[mapping], Filtering[filtering]
        return self.net.lan(label, subnet, nat=nat, link=self._link).host(label)

    def run(self, results: Results) -> None:
        """Call every pair once."""
        count = len(self._names)
        for shift in range(count):
            calls = [(index, (index + shift) % count) for index in range(count)]
            for pair, outcome in self._round(calls):
                names = self._names[pair[0]], self._names[pair[1]]
                results.outcomes.setdefault(names, []).append(outcome)

    def _round(self, calls: Sequence[tuple[int, int]]) -> Iterable[tuple[tuple[int, int], Outcome]]:
        start = self.net.now
        left, right = self._sides
        peers = [(left[here], right[there]) for here, there in calls]
        for caller, callee in peers:
            caller.node.call(callee.id)
        deadline = start + PATIENCE
        while self.net.now < deadline and not all(
            _ended(caller, callee.id, start) for caller, callee in peers
        ):
            self.net.advance(0.1)
        outcomes = []
        self.net.advance(SETTLED)
        for caller, callee in peers:
            connected = _time_of(caller, callee.id, start, Connected)
            path = "" if connected is None else _path(caller, callee.id, connected + SETTLED)
            outcomes.append(Outcome(None if connected is None else connected - start, path))
            caller.node.hangup(callee.id)
        self.net.advance(1.0)
        return zip(calls, outcomes, strict=True)


def _time_of(peer: Peer, other: PeerID, since: float, *kinds: type[Event]) -> float | None:
    """When the first event of some kinds about another peer came."""
    for time, event in peer.events:
        if time >= since and isinstance(event, kinds) and getattr(event, "peer", None) == other:
            return time
    return None


def _ended(peer: Peer, other: PeerID, since: float) -> bool:
    return _time_of(peer, other, since, Connected, Failed) is not None


def _path(peer: Peer, other: PeerID, until: float) -> str:
    """The path to another peer at a moment, "" if there is none."""
    path = ""
    for time, event in peer.events:
        if time <= until and getattr(event, "peer", None) == other:
            if isinstance(event, (Connected, PathChanged)):
                path = event.path
            elif isinstance(event, Disconnected):
                path = ""
    return path


def run_grid(
    names: Sequence[str] = PLACES,
    *,
    seeds: Iterable[int] = SEEDS,
    link: LinkSpec = CALM,
    ports: Iterable[Ports] = (Ports.RANDOM,),
) -> Results:
    """Call every pair once for each seed and each way of choosing ports."""
    results = Results(names, link)
    for allocation in ports:
        for seed in seeds:
            World(seed, names, link, allocation).run(results)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the grid, print it as markdown, and return 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m punch.test.grid", description=__doc__)
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
    results = run_grid(seeds=given.seeds, link=link, ports=[Ports(value) for value in given.ports])
    text = f"{results.summary()}\n\n{results.matrix()}"
    print(text)
    if given.write:
        replace_section(Path(given.write[0]), given.write[1], text)
    wrong = results.failures()
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
