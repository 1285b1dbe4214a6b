"""Links: what happens to packets between a host or router and the network that it is attached to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from punch.test.internet.clock import Scheduler
from punch.test.internet.packet import Packet, Seen

Tracer = Callable[[Seen], object]


@dataclass(frozen=True)
class LinkSpec:
    """
    The properties of one direction of a link.

    Jitter alone keeps packets in order, as a queue does; only `reorder` makes one overtake another.
    """

    delay: float = 0.0
    """Seconds from one end to the other."""
    jitter: float = 0.0
    """The largest additional delay of a packet in seconds; uniformly distributed."""
    loss: float = 0.0
    """Probability that a packet is lost."""
    reorder: float = 0.0
    """Probability that a packet is held back for `reorder_by` seconds while later ones pass."""
    duplicate: float = 0.0
    """Probability that a packet arrives twice."""
    rate: float | None = None
    """Bits per second; None for no limit."""
    mtu: int = 1500
    """Bytes of the largest packet, IP header included; larger ones are dropped."""
    queue: int = 256 * 1024
    """Bytes that may wait for a link with a rate; packets beyond that are dropped."""
    reorder_by: float = 0.01

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, from 0 to 1")
        if self.delay < 0 or self.jitter < 0 or (self.rate is not None and self.rate <= 0):
            raise ValueError("time moves forward: delay and jitter are at least 0, a rate is above 0")

    @property
    def is_plain(self) -> bool:
        """Whether the link delays each packet alike, and loses none that is not too large."""
        return not (self.jitter or self.loss or self.reorder or self.duplicate or self.rate)


class Wire:
    """One direction of a link."""

    __slots__ = (
        "_busy_until",
        "_instant",
        "_last_arrival",
        "_plain",
        "_random",
        "_scheduler",
        "_spec",
        "name",
        "tracer",
        "up",
    )

    def __init__(self, name: str, spec: LinkSpec, scheduler: Scheduler, random: Random) -> None:
        self.name = name
        self.up = True
        self.tracer: Tracer | None = None
        self._scheduler = scheduler
        self._random = random
        self._busy_until = 0.0
        self._last_arrival = 0.0
        self.spec = spec

    @property
    def spec(self) -> LinkSpec:
        return self._spec

    @spec.setter
    def spec(self, spec: LinkSpec) -> None:
        self._spec = spec
        self._plain = spec.is_plain
        self._instant = self._plain and not spec.delay

    def carry(self, packet: Packet, deliver: Callable[[Packet], None], *, later: bool = False) -> None:
        """
        Call `deliver` with the packet at the other end, unless the packet is lost.

        :param later: `deliver` must not be called before this returns.
        """
        spec = self._spec
        if self._plain and self.up and self.tracer is None and packet.size <= spec.mtu:
            scheduler = self._scheduler
            if self._instant:
                if later:
                    scheduler.at(scheduler.now, deliver, packet)
                else:
                    deliver(packet)
                return
            arrival = scheduler.now + spec.delay
            if arrival < self._last_arrival:
                arrival = self._last_arrival
            self._last_arrival = arrival
            scheduler.at(arrival, deliver, packet)
            return
        fate = self._fate(packet)
        if self.tracer is not None:
            self.tracer(
                Seen(
                    self._scheduler.now,
                    packet.size,
                    packet.source,
                    packet.destination,
                    packet.protocol,
                    packet.data,
                    self.name,
                    fate,
                )
            )
        if fate != "sent":
            return
        if self._instant:
            if later:
                self._scheduler.at(self._scheduler.now, deliver, packet)
            else:
                deliver(packet)
            return
        arrival = self._arrival(packet)
        self._scheduler.at(arrival, deliver, packet)
        if self._spec.duplicate and self._random.random() < self._spec.duplicate:
            self._scheduler.at(arrival + self._random.uniform(0.0, self._spec.jitter), deliver, packet)

    def _fate(self, packet: Packet) -> str:
        spec = self._spec
        if not self.up:
            return "down"
        if packet.size > spec.mtu:
            return "mtu"
        if self._instant:
            return "sent"
        if spec.loss and self._random.random() < spec.loss:
            return "lost"
        if spec.rate and (self._busy_until - self._scheduler.now) * spec.rate / 8 > spec.queue:
            return "queue"
        return "sent"

    def _arrival(self, packet: Packet) -> float:
        spec = self._spec
        departure = self._scheduler.now
        if spec.rate:
            departure = max(departure, self._busy_until) + packet.size * 8 / spec.rate
            self._busy_until = departure
        arrival = departure + spec.delay
        if spec.jitter:
            arrival += self._random.uniform(0.0, spec.jitter)
        if spec.reorder and self._random.random() < spec.reorder:
            return arrival + spec.reorder_by
        self._last_arrival = arrival = max(arrival, self._last_arrival)
        return arrival
