"""
The log as JSON, one object a line.

An event of `punch.rendezvous.operator_log` has its fields as they are: that module has cut what is not to be
logged. The text of all other events, which may come from any library, is searched for addresses and IDs.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import TextIO

from twisted.logger import FileLogObserver, LogEvent, eventAsText

from punch.rendezvous.operator_log import network_of

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
    An observer that writes to `file`.

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
