"""
Peers that come and go through failing processes of one service, for a simulated while:

    PUNCH_DAY=whole pytest tests/simulation/test_service_day.py   # 24 hours and 300 peers, in about 8 minutes
"""

from __future__ import annotations

import os

from punch.test.rendezvous.service_day import Day

WHOLE = os.environ.get("PUNCH_DAY") == "whole"
SECONDS, PEERS = (86_400, 300) if WHOLE else (300, 60)


def test_nothing_is_left_and_no_call_is_stuck() -> None:
    """Every caller is told, nobody by a stale entry, and all tables are empty at the end."""
    day = Day(seed=1, peers=PEERS)
    day.run(SECONDS)
    print(day.counts)
    assert day.wrong == []
    assert day.counts["answered"] > SECONDS / 60
    # What the garbage collector sees does not grow, with the same peers coming and going.
    first, last = day.objects
    assert last < 1.2 * first + 20_000, day.objects
