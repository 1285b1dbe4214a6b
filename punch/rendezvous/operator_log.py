"""
Log lines for the operator about refusals, limits and allocations.

Each line is one event of `twisted.logger` whose fields are named as in the line, so that an observer that
writes JSON (`json_log`) has them as well. Addresses are cut to the /24 (IPv6: /48) unless full addresses are
configured. The rate of lines is limited: events that repeat are counted and logged once a minute, and the
others have a rate limit. Only the line of an allocation that may relay has no limit, because it may answer a
complaint.
"""

from __future__ import annotations

import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from datetime import datetime, timezone
from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from typing import TextIO

from twisted.internet.interfaces import IReactorTime
from twisted.logger import FileLogObserver, LogEvent, Logger, eventAsText

from punch.net.driver import Timer
from punch.net.rate_limits import SourceBuckets
from punch.net.sources import source_of
from punch.net.token_bucket import TokenBuckets
from punch.rendezvous.monitoring.status import Totals
from punch.wire.address import parsed

PERIOD = 60.0
"""Seconds in which an event that repeats is logged once."""
_KINDS = 512
"""Kinds of events that are counted separately…"""
_OF_GROUP = 16
"""
…and how many of one group. Of full addresses, those of one network are a group; what comes from its further
addresses is counted for the network.
"""
_OTHERS = "others"
_SHORT = 8
"""Characters of a peer ID that are logged if not the whole ID is."""
_RATE, _BURST = 20.0, 2000.0
"""Lines a second, and at once, of events that are not counted…"""
_SOURCE_RATE, _SOURCE_BURST = 1.0, 100.0
"""…and those about one address; about a /56 twice, about a /24 or a /48 four times as many."""
_SOURCES = 4096

Fields = dict[str, object]


class Repetitions:
    """
    Counts events by kind. Pure: `now` is monotonic seconds. The first event of a kind is to be logged at
    once; those that follow within a period are counted. When there are `capacity` kinds, all further kinds
    are counted as one. Kinds may belong to groups, each of which has room for `of_group` kinds.
    """

    def __init__(self, capacity: int = _KINDS, period: float = PERIOD, of_group: int = _OF_GROUP) -> None:
        self._capacity = capacity
        self._period = period
        self._of_group = of_group
        self._counts: OrderedDict[Hashable, tuple[float, int, Hashable]] = OrderedDict()
        """
        By kind: the end of its period, the number of events in it, and its group. The first to end comes
        first.
        """
        self._groups: Counter[Hashable] = Counter()
        """How many kinds of each group there are."""

    def __len__(self) -> int:
        """The number of kinds that are remembered."""
        return len(self._counts)

    def has_room(self, kind: Hashable, group: Hashable) -> bool:
        """Whether a group has this kind, or room for it."""
        return kind in self._counts or self._groups[group] < self._of_group

    def count(self, kind: Hashable, now: float, group: Hashable = None) -> bool:
        """
        Count an event. Return whether it is to be logged now.

        :param group: the group of its kind, which has room; None if it has no group.
        """
        if kind not in self._counts and len(self._counts) >= self._capacity:
            kind, group = _OTHERS, None
        entry = self._counts.get(kind)
        if entry is None:
            self._counts[kind] = (now + self._period, int(kind == _OTHERS), group)
            if group is not None:
                self._groups[group] += 1
            return kind != _OTHERS
        self._counts[kind] = (entry[0], entry[1] + 1, entry[2])
        return False

    def get_timer(self) -> float | None:
        """When `due` is to be called; None if nothing is counted."""
        return next(iter(self._counts.values()))[0] if self._counts else None

    def due(self, now: float, *, all_of_them: bool = False) -> list[tuple[Hashable, int]]:
        """
        The kinds whose period is over, with the number of events in it; kinds without events are left out.
        """
        found = []
        while self._counts:
            kind, (end, count, group) = next(iter(self._counts.items()))
            if end > now and not all_of_them:
                break
            del self._counts[kind]
            if count:
                found.append((kind, count))
                if not all_of_them:
                    self._counts[kind] = (now + self._period, 0, group)
                    continue
            if group is not None:
                self._groups[group] -= 1
                if not self._groups[group]:
                    del self._groups[group]
        return found


class OperatorLog:
    """
    Writes the log lines, and counts their events.

    :param totals: where the events are counted, also those that have no line.
    :param full_addresses: whether addresses are logged in full.
    :param full_peers: whether peer IDs are logged in full, and names at all.
    """

    def __init__(
        self,
        *,
        clock: IReactorTime,
        monotonic: Callable[[], float],
        totals: Totals | None = None,
        full_addresses: bool = False,
        full_peers: bool = True,
        log: Logger | None = None,
    ) -> None:
        self._monotonic = monotonic
        self._totals = Totals() if totals is None else totals
        self._full = full_addresses
        self._full_peers = full_peers
        self._log = log or Logger()
        self._repetitions = Repetitions()
        self._rate = TokenBuckets(_RATE, _BURST, 2)
        self._source_rate = SourceBuckets(_SOURCE_RATE, _SOURCE_BURST, _SOURCES)
        self._timer = Timer(clock)

    # -- events --

    def registered(self, peer: object, name: str) -> None:
        """A peer is registered."""
        if self._may_log("registered"):
            self._write("registered", self._peer(peer) | ({"name": name} if self._full_peers else {}))

    def gone(self, peer: object, reason: str) -> None:
        """A peer is no longer registered."""
        if self._may_log("gone"):
            self._write("gone", self._peer(peer) | {"reason": reason})

    def registration_refused(self, host: str, peer: object, reason: str) -> None:
        """A peer that has proved its key was not registered."""
        self._totals.refused(f"registration-{reason}")
        fields: Fields = {"address": self._cut(host), "reason": reason}
        self._count("registration-refused", fields, self._peer(peer), host)

    def limit_hit(self, host: str, limit: str, peer: object = None) -> None:
        """
        A request or connection of this host was refused, closed or slowed down.

        :param limit: the name of the limit, as in the command-line option if there is one.
        """
        self._totals.refused(limit)
        self._count("limit-hit", {"limit": limit, "address": self._cut(host)}, self._peer(peer), host)

    def denied(self, host: str, peer: object = None) -> None:
        """A peer or host that the operator refuses has connected."""
        self._totals.refused("denied")
        self._count("denied", {"address": self._cut(host)}, self._peer(peer), host)

    def members_unusable(self, problem: str) -> None:
        """A peer was refused because the list of members can't be used; `problem` is a sentence."""
        self._totals.refused("members-unusable")
        self._count("members-unusable", {"problem": problem}, {})

    def allocation_made(self, host: str, user: str, relayed: str, transport: str) -> bool:
        """An allocation relays from now on. Return whether there is a line; if not, it is counted."""
        self._totals.allocations += 1
        return self._trace("allocation-made", host, self._allocation(host, user, relayed, transport))

    def allocation_permitted(self, host: str, user: str, relayed: str, transport: str) -> None:
        """
        An allocation whose line was not written when it was made has its first permission, so that it may
        relay. The line is written now, whatever the rate: others could use that up to hide it. A client needs
        two requests for each such allocation, which have a limit of their own.
        """
        self._write("allocation-made", self._allocation(host, user, relayed, transport))

    def allocation_ended(
        self, host: str, user: str, relayed: str, *, seconds: float, to_peers: int, to_client: int
    ) -> None:
        """An allocation ended. Bytes to the client include the headers of TURN."""
        fields = self._allocation(host, user, relayed)
        fields |= {"seconds": round(seconds), "to_peers": to_peers, "to_client": to_client}
        self._trace("allocation-ended", host, fields)

    def close(self) -> None:
        """Log what was counted."""
        self._timer.cancel()
        self._log_counts(all_of_them=True)

    # -- within --

    def _may_log(self, event: str) -> bool:
        """Whether a line about a registration is to be written; if not, it is counted."""
        if self._rate.allow("peers", self._monotonic()):
            return True
        self._count(f"{event}-not-logged", {}, {})
        return False

    def _peer(self, peer: object) -> Fields:
        """The field of a peer; empty if it is not known."""
        if peer is None:
            return {}
        return {"peer": peer if self._full_peers else str(peer)[:_SHORT]}

    def _allocation(self, host: str, user: str, relayed: str, transport: str | None = None) -> Fields:
        fields: Fields = {"relayed": relayed, "address": self._cut(host)} | self._peer(user)
        return fields if transport is None else fields | {"transport": transport}

    def _cut(self, host: str) -> str:
        return (host or "unknown") if self._full else network_of(host)

    def _count(self, event: str, fields: Fields, more: Fields, host: str | None = None) -> None:
        """
        Count an event, and log it now if it is the first of its kind.

        :param fields: what makes its kind; with the address of `host`, if that is given.
        """
        kind: Hashable = (event, *fields.items())
        group = None
        if host is not None and self._full:
            network = fields | {"address": network_of(host)}
            group = (event, *network.items())
            if not self._repetitions.has_room(kind, group):
                fields, kind, group = network, group, None
        if self._repetitions.count(kind, self._monotonic(), group):
            self._write(event, fields | more)
        self._schedule()

    def _trace(self, event: str, host: str, fields: Fields) -> bool:
        """
        Write a line about an allocation if the rates allow it, and count it otherwise. Return whether they
        did.
        """
        now = self._monotonic()
        if self._source_rate.allow(source_of(host), now) and self._rate.allow("allocations", now):
            self._write(event, fields)
            return True
        self._count(f"{event}-not-logged", {"address": self._cut(host)}, {}, host)
        return False

    def _write(self, event: str, fields: Fields) -> None:
        # Formatted here, so that no field is taken for a format string.
        line = " ".join(f"{key}={value}" for key, value in fields.items())
        self._log.info("{event} {line}", event=event, line=line, **fields)

    def _schedule(self) -> None:
        at = self._repetitions.get_timer()
        if not self._timer.running and at is not None:
            self._timer.start(max(0.0, at - self._monotonic()), self._timed_out)

    def _timed_out(self) -> None:
        self._log_counts()
        self._schedule()

    def _log_counts(self, *, all_of_them: bool = False) -> None:
        for kind, count in self._repetitions.due(self._monotonic(), all_of_them=all_of_them):
            if isinstance(kind, tuple):
                event, *fields = kind
                self._write(str(event), dict(fields) | {"times": count})
            else:
                self._write("limit-hit", {"limit": "of-others", "times": count})


@lru_cache(4096)
def network_of(host: str) -> str:
    """The /24 of an IPv4 address, the /48 of an IPv6 address."""
    try:
        address = parsed(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(ip_network((int(address), 24 if address.version == 4 else 48), strict=False))


_MAX_TEXT = 8000
"""Characters of a text, such as a traceback, that are logged."""
_ADDRESS = re.compile(
    r"(?<![0-9a-fA-F.:])[0-9a-fA-F]{0,4}:[0-9a-fA-F]{0,4}:[0-9a-fA-F:.]*(?!\w)"
    r"|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w)"
)
"""
What may be an address: IPv6, or IPv4. Only one part of it has any length, so that the time of a search grows
with the length of the text and not with its square.
"""
_ID = re.compile(r"\b([a-z2-7]{8})[a-z2-7]{44,48}\b")
"""A peer ID or a pin."""


def json_log(file: TextIO, *, full_addresses: bool, full_peers: bool) -> FileLogObserver:
    """
    An observer that writes the log to `file` as JSON, one object a line.

    The fields of events of `OperatorLog` are written as they are: it has shortened what is not to be logged
    in full. The text of all other events, which may come from any library, is searched for addresses and IDs.

    :param full_addresses: whether text may have addresses in full, instead of /24s and /48s.
    :param full_peers: whether text may have peer IDs in full, instead of their first eight characters.
    """

    def line(event: LogEvent) -> str:
        return json_line(event, full_addresses=full_addresses, full_peers=full_peers)

    return FileLogObserver(file, line)


def json_line(event: LogEvent, *, full_addresses: bool, full_peers: bool) -> str:
    """One event as a line."""
    source = str(event.get("log_namespace", ""))
    level = event.get("log_level")
    moment = datetime.fromtimestamp(event["log_time"], timezone.utc)
    found: dict[str, object] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": "info" if level is None else level.name,
        "source": source,
    }
    if source.startswith("punch.") and "event" in event:
        found |= {key: _plain(value) for key, value in event.items() if not _is_internal(key)}
    else:
        text = eventAsText(event, includeTimestamp=False, includeSystem=False)
        if not full_addresses:
            text = _ADDRESS.sub(_network, text)
        if not full_peers:
            text = _ID.sub(r"\1…", text)
        message, _, traceback = text.partition("\n")
        found["message"] = message[:_MAX_TEXT]
        if traceback:
            found["traceback"] = traceback[:_MAX_TEXT]
    return json.dumps(found) + "\n"


def _is_internal(key: str) -> bool:
    return key.startswith("log_") or key == "line"


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _network(match: re.Match[str]) -> str:
    network = network_of(match[0].rstrip("."))
    # A time, or a class such as zope::interface, is no address.
    return match[0] if network == "unknown" else network
