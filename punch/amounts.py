"""Numbers of bytes and times, as people write and read them."""

from __future__ import annotations

import re

from punch.sanitize import quoted

_BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
MAX_BYTES = 10**15
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
MAX_DAYS = 3660


def number_of_bytes(text: str) -> int:
    """
    Read a number of bytes, such as 500M or 10G. The units are powers of ten.

    :raise ValueError: it can't be read; `str()` is the rest of a sentence that begins with the option.
    """
    found = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,9}))?([kMGT]?)B?", text.strip())
    if found is None:
        raise ValueError(f"takes a number of bytes, such as 500M or 10G, not {quoted(text, 40)}")
    scale = _BYTES[found[3]]
    fraction = found[2] or "0"
    number = int(found[1]) * scale + int(fraction.ljust(12, "0")) * scale // 10**12
    if not 1 <= number <= MAX_BYTES:
        raise ValueError(f"takes from 1 to {MAX_BYTES // 10**12}T bytes, not {quoted(text, 40)}")
    return number


def seconds(text: str) -> int:
    """
    Read a time, such as 30m, 12h, 7d or 4w, and return it in seconds.

    :raise ValueError: it can't be read; `str()` is the rest of a sentence that begins with the option.
    """
    found = re.fullmatch(r"([0-9]{1,6})([mhdw])", text.strip())
    if found is None:
        raise ValueError(f"takes a time such as 30m, 12h, 7d or 4w, not {quoted(text, 40)}")
    number = int(found[1]) * _SECONDS[found[2]]
    if not 60 <= number <= MAX_DAYS * 86_400:
        raise ValueError(f"takes from 1m to {MAX_DAYS}d, not {quoted(text, 40)}")
    return number


def format_bytes(number: float) -> str:
    """Return a number of bytes for people, such as 1 byte, 1.5 MB or 262 GB: rounded, in powers of ten."""
    if round(number) == 1:
        return "1 byte"
    unit = 0
    while number >= 999.5 and unit < len(_UNITS) - 1:
        number /= 1000
        unit += 1
    digits = 1 if unit and number < 9.95 else 0
    return f"{number:.{digits}f} {_UNITS[unit]}"


def format_duration(seconds: float) -> str:
    """Return a time, given in seconds, for people, such as `3 d 4 h` or `5 min`."""
    minutes = int(seconds) // 60
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {rest} min"
    return f"{rest} min" if rest else f"{int(seconds)} s"


def format_count(number: float) -> str:
    """Return a number for people, rounded, such as `12,345`."""
    return f"{number:,.0f}"
