"""
What Redis may answer to each command that is used. Any other answer is an error: it is not from Redis, or
belongs to another command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

MOST_BYTES = 64 << 20
"""
The longest answer, in bytes: far more than all processes tell each other. A longer one would only fill the
memory.
"""


def _ok(answer: Any) -> bool:
    return answer in ("OK", b"OK")


def _ok_or_nothing(answer: Any) -> bool:
    return answer is None or _ok(answer)


def _text(answer: Any) -> bool:
    return isinstance(answer, bytes)


def _text_or_nothing(answer: Any) -> bool:
    return answer is None or isinstance(answer, bytes)


def _count(answer: Any) -> bool:
    return isinstance(answer, int) and 0 <= answer < 1 << 63


def _texts(answer: Any) -> bool:
    return isinstance(answer, list) and all(isinstance(each, bytes) for each in answer)


def _pairs(answer: Any) -> bool:
    return _texts(answer) and len(answer) % 2 == 0


def _time(answer: Any) -> bool:
    return (
        _texts(answer)
        and len(answer) == 2
        and all(re.fullmatch(rb"[0-9]{1,12}", each) is not None for each in answer)
    )


def _host_and_port(answer: Any) -> bool:
    if answer is None:
        return True
    return _texts(answer) and len(answer) == 2 and re.fullmatch(rb"[0-9]{1,5}", answer[1]) is not None


def _subscribed(answer: Any) -> bool:
    return isinstance(answer, list) and len(answer) == 3 and answer[0] in ("subscribe", b"subscribe")


_ANSWERS: dict[str, Callable[[Any], bool]] = {
    "INFO": _text,
    "SET": _ok_or_nothing,
    "GET": _text_or_nothing,
    "GETSET": _text_or_nothing,
    "LRANGE": _texts,
    "SMEMBERS": _texts,
    "HGETALL": _pairs,
    "TIME": _time,
    "SENTINEL": _host_and_port,
    "SUBSCRIBE": _subscribed,
    **dict.fromkeys(("EVAL", "EXISTS", "EXPIRE", "HDEL", "HSET", "PUBLISH", "RPUSH", "SADD", "SREM"), _count),
}


def is_answer(command: Sequence[str | bytes | int], answer: Any) -> bool:
    """
    Whether Redis can have given this answer.

    :param command: one of the commands that docs/deployment.md names, with its arguments.
    :param answer: no error; text is bytes, as it came.
    """
    return _ANSWERS[str(command[0])](answer)
