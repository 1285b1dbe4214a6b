"""
One side of plain ICE, by aioice, as JSON lines: `python -m tests.nat.plain_ice HOST PORT` (of the reflector).

`{"command": "gather", "controlling": true}` is answered by a `gathered` event with credentials and
candidates. `{"command": "connect", …}` has those of the other side, and is answered by `connected` if a
datagram of the other side has arrived within `TIMEOUT`, else by `failed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

import aioice

TIMEOUT = 10.0
"""Seconds in which the two sides must hear each other: checks begin at once, and each is repeated."""
DATAGRAM = b"\x80"
"""What each side sends on the path: no STUN message (RFC 7983)."""
INTERVAL = 0.1
"""Seconds between two of these."""

Description = dict[str, Any]


def tell(event: str, **fields: Any) -> None:
    """Print an event."""
    print(json.dumps({"event": event, "time": time.time(), **fields}), flush=True)


async def gather(connection: aioice.Connection) -> Description:
    """Return what the other side needs."""
    await connection.gather_candidates()
    return {
        "ufrag": connection.local_username,
        "password": connection.local_password,
        "candidates": [candidate.to_sdp() for candidate in connection.local_candidates],
    }


async def connect(connection: aioice.Connection, other: Description) -> None:
    """
    Find a path, and send on it until something has come.

    :raise ConnectionError: there is none.
    """
    connection.remote_username = other["ufrag"]
    connection.remote_password = other["password"]
    for text in other["candidates"]:
        await connection.add_remote_candidate(aioice.Candidate.from_sdp(text))
    await connection.add_remote_candidate(None)
    await connection.connect()

    async def send() -> None:
        while True:
            await connection.send(DATAGRAM)
            await asyncio.sleep(INTERVAL)

    sending = asyncio.create_task(send())
    try:
        await connection.recv()
        # The other side may have heard nothing yet
        await asyncio.sleep(5 * INTERVAL)
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sending


async def main(host: str, port: int) -> None:
    """Obey one command after the other."""
    loop = asyncio.get_running_loop()
    connection: aioice.Connection | None = None
    tell("ready")
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        if command["command"] == "gather":
            connection = aioice.Connection(ice_controlling=command["controlling"], stun_server=(host, port))
            tell("gathered", description=await gather(connection))
        elif connection is not None:
            try:
                await asyncio.wait_for(connect(connection, command["description"]), TIMEOUT)
            except (asyncio.TimeoutError, ConnectionError) as problem:
                tell("failed", reason=repr(problem))
            else:
                tell("connected")
            await connection.close()
            connection = None


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
