"""
Prediction of UDP ports: which ports a NAT gives to the next mappings, if it allocates them in sequence. (Over
TCP, `punch.node.punching.tcp_attempt` predicts one port.)

One side *aims*, the other one *opens* (`techniques.opens`). The side that aims says at which ports it will be
seen next (`targets`). The side that opens sends to all of them, with a new mapping just before and one just
after, so it knows afterwards which ports its own mappings have (`opened`). The side that aims makes a new
mapping too, to see how many ports other hosts have taken meanwhile, and sends to those ports (`aims`). A path
comes up if one of its packets leaves from a port to which the other side has sent, towards the port from
which it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from punch.ice.punching.techniques import NatClass, depends_on_port, nat_class
from punch.wire.peers.link_frames import MAX_ALTERNATIVES
from punch.wire.peers.nat_profile import NatProfile

TARGETS: Final = 8
"""How many ports are predicted in one attempt."""
MAX_AIMS: Final = 10
"""How many packets the side that aims sends in one attempt."""
ROUNDS: Final = 3
"""How often the side that aims sends to each port at most, if none of these packets is answered."""
LOW_TTLS: Final = (5, 5, None, 5, 8)
"""
The TTL of the packets of the side that opens, in successive attempts; None: the usual one. They are only to
open its own NATs. A router that takes unsolicited packets as its own (`simultaneous_open`) would give the
other side's packets another port if they arrived.
"""
ROUTERS: Final = (None, 1, None, 1, None)
"""
How many routers may take such a packet, to pass it on or because it is for them, in successive attempts;
None: any number. With 1, only the router of our own home does.
"""
MAX_STEPS: Final = 64
"""Within how many steps a later port of the sequence is recognized; beyond that, prediction is hopeless."""
_SHIFTS: Final = (0, 1, 0, 2, 1, 0, 3, 1, 2, 0)
"""
Assumptions about how many ports other hosts have taken before each packet of the side that aims, if the
mappings of both sides depend on the port. Each number occurs several times, at different places.
"""
_LOWEST, _HIGHEST = 1024, 65535


def port_after(port: int, steps: int, step: int) -> int:
    """Return the port that a NAT allocates `steps` after another one."""
    size = _HIGHEST - _LOWEST + 1
    return _LOWEST + (port + steps * step - _LOWEST) % size


def step_of(profile: NatProfile) -> int:
    """Return the difference between the ports of two new mappings in sequence; 0: one port is kept."""
    chosen = nat_class(profile)
    if chosen is NatClass.PRESERVING:
        return 1
    return profile.step if chosen is NatClass.SEQUENTIAL else 0


def needs_second_observation(profile: NatProfile) -> bool:
    """Whether the side that aims has to make a new mapping once more, just before it sends."""
    return depends_on_port(profile) and nat_class(profile) is NatClass.SEQUENTIAL


def targets(profile: NatProfile, port: int, taken: int) -> list[int]:
    """
    Return the ports from which the next packets to the other side will leave.

    :param port: the external port of the socket, as a reflector has just seen it.
    :param taken: how many mappings other hosts, and our second observation, make before that.
    """
    step = step_of(profile)
    if not step:
        return [port]
    stays = not depends_on_port(profile)
    if nat_class(profile) is NatClass.PRESERVING:
        # The socket's own port is used again, or the next free one
        return [port_after(port, steps, step) for steps in range(TARGETS)]
    first = taken + 1 if needs_second_observation(profile) else 1
    following = [port_after(port, first + steps, step) for steps in range(TARGETS - stays)]
    return [port, *following] if stays else following


def opened(profile: NatProfile, first: int, last: int | None, sent: int) -> list[list[int]]:
    """
    Return for each of `sent` packets to different ports which external ports it may have.

    :param first: the external port of the mapping that the same socket made before.
    :param last: that of the mapping that another socket made afterwards; None if it is not known.
    """
    step = step_of(profile)
    if not step:
        return [[first]] * sent
    between = sent
    if last is not None:
        steps = steps_between(profile, first, last)
        between = sent if steps is None else steps - 1
    if depends_on_port(profile):
        others = min(max(between - sent, 0), MAX_ALTERNATIVES - 1)
        return [
            [port_after(first, number + 1 + other, step) for other in range(others + 1)]
            for number in range(sent)
        ]
    # One mapping for all of them: the one before, or one of those in between
    number = min(max(between, 1), MAX_ALTERNATIVES - 1)
    return [[first, *(port_after(first, steps, step) for steps in range(1, number + 1))]] * sent


def aims(
    profile: NatProfile, ours: Sequence[int], theirs: Sequence[Sequence[int]], port: int | None
) -> list[int]:
    """
    Return the ports to send to, in this order, each once.

    :param ours: the ports that we have named as targets.
    :param theirs: what is open for each of them.
    :param port: the external port of the newest mapping of ours, if that was looked up again.
    """
    rows = [row for row in theirs if row]
    if not depends_on_port(profile) or all(list(row) == list(rows[0]) for row in rows):
        # Every packet leaves from the same port, or every one may go to the same
        columns = (row[number] for number in range(MAX_ALTERNATIVES) for row in rows if number < len(row))
        return list(dict.fromkeys(columns))[:MAX_AIMS]
    step = step_of(profile)
    if port is None:
        # A port that is preserved: that of the socket has gone to the reflector
        start = 1
    else:
        following = port_after(port, 1, step)
        if following not in ours:
            return []
        start = list(ours).index(following)
    chosen: list[int] = []
    used = [0] * len(theirs)
    for shift in _SHIFTS:
        place = start + len(chosen) + shift
        if place < len(theirs) and theirs[place]:
            aim = theirs[place][used[place] % len(theirs[place])]
            used[place] += 1
            if aim not in chosen:
                chosen.append(aim)
    return chosen[:MAX_AIMS]


def rounds(aims: Sequence[int]) -> list[Sequence[int]]:
    """
    Return the ports to which the side that aims sends, in successive rounds, until one of its packets is
    answered: all of them at first, then the likeliest, which come first.
    """
    found: list[Sequence[int]] = []
    left = MAX_AIMS
    while aims and left and len(found) < ROUNDS:
        found.append(aims[:left])
        left -= len(found[-1])
    return found


def steps_between(profile: NatProfile, first: int, last: int) -> int | None:
    """Return how many steps there are from one port to a later one; None if there are `MAX_STEPS` or more."""
    step = step_of(profile)
    return next((steps for steps in range(1, MAX_STEPS) if port_after(first, steps, step) == last), None)
