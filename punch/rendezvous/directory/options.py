"""The option `--registry`: from its text to the directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from punch.identity import Identity
from punch.rendezvous.directory.redis import RedisDirectory
from punch.rendezvous.directory.redis_address import RedisAddress, RedisAddressError


class RegistryError(ValueError):
    """The option can't be used; `str()` is a sentence for the user."""


def read_registry(text: str, install_command: Callable[[], str]) -> RedisAddress:
    """
    Parse the option.

    :param install_command: returns the command that installs the package for Redis.
    :raise RegistryError: it is malformed, or the package for Redis is missing.
    """
    try:
        address = RedisAddress.parse(text)
    except RedisAddressError as problem:
        raise RegistryError(f"--registry: {problem}") from problem
    if find_spec("txredisapi") is None:
        raise RegistryError(f"--registry needs the package txredisapi; install it with {install_command()}.")
    return address


def open_directory(
    address: RedisAddress | None,
    identity: Identity,
    reactor: Any,
    report: Callable[[str | None], None],
) -> RedisDirectory | None:
    """
    Return the directory of a process of the service with this key; None if there is no address.

    :param report: see `RedisDirectory`.
    """
    if address is None:
        return None
    return RedisDirectory(
        address,
        secret=identity.private_key.private_bytes_raw(),
        reactor=reactor,
        monotonic=time.monotonic,
        wall=time.time,
        random=os.urandom,
        report=report,
    )
