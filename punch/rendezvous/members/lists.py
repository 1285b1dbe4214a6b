"""
Lists of the operator, in files with one entry a line: the deny list, which has the peers and networks that
are refused, and the list of members, which has peer IDs only.

    # comments, and empty lines
    txjl2ynp4nzcq3wdb44oy7lgmqcyy5fdrg7xyqpdzjv3ujyyrbfc5aid
    203.0.113.9
    198.51.100.0/24
    2001:db8:7::/48

Errors name the line and the column. Pure except for what reads files.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path

from punch.files import read_regular
from punch.identity import PeerID, PeerIDError
from punch.wire.address import parsed

MAX_BYTES = 16 * 1024 * 1024
"""The largest size of such a file."""
_MAPPED = IPv6Network("::ffff:0:0/96")
_ADDRESS = "0123456789abcdefABCDEF.:/%"


class ListFileError(ValueError):
    """A list cannot be used; `str()` is a sentence that names the place of the error."""

    @classmethod
    def at(cls, line: int, column: int, problem: str) -> ListFileError:
        """The error at a place of the file, whose name is not known here."""
        return cls(f"line {line}, column {column}: {problem}")


def entries(text: str) -> Iterator[tuple[int, int, str]]:
    """
    The entries of a list, each with its line and its column.

    :raise ListFileError: there are two entries in one line.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.isascii():
            # Pasted addresses and IDs may contain invisible characters.
            line = "".join(c for c in line if unicodedata.category(c) != "Cf")
        content = line.partition("#")[0]
        entry = content.strip()
        if not entry:
            continue
        column = content.index(entry) + 1
        words = entry.split()
        if len(words) > 1:
            column += entry.index(words[1], len(words[0]))
            raise ListFileError.at(number, column, "there is one entry a line, and comments begin with #")
        yield number, column, entry


def read_list(path: Path, what: str) -> str:
    """
    The text of a file.

    :param what: names the list in errors: "The deny list".
    :raise ListFileError: it cannot be read, or is not UTF-8.
    """
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as problem:
        raise ListFileError(f"{what} {path} can't be read ({problem.strerror}).") from problem
    try:
        return data.decode()
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        column = problem.start - (data.rfind(b"\n", 0, problem.start) + 1) + 1
        raise ListFileError(f"{what} {path}, line {line}, column {column}: not UTF-8.") from problem


@dataclass(frozen=True)
class DenyList:
    """
    Peers and networks that are refused.

    :ivar networks: the first bits of the networks as numbers, by IP version (4 or 6) and length of the
        prefix.
    """

    peers: frozenset[PeerID] = frozenset()
    networks: dict[tuple[int, int], frozenset[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, peers: Iterable[PeerID], networks: Iterable[IPv4Network | IPv6Network]) -> DenyList:
        """The list of these peers and networks."""
        grouped: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            shift = network.max_prefixlen - network.prefixlen
            prefix = int(network.network_address) >> shift
            grouped.setdefault((network.version, network.prefixlen), set()).add(prefix)
        return cls(frozenset(peers), {key: frozenset(prefixes) for key, prefixes in grouped.items()})

    @classmethod
    def parse(cls, text: str) -> DenyList:
        """
        Read the text of a file.

        The keys of peer IDs are not checked, only their checksums.

        :raise ListFileError: with the line and the column of the first error.
        """
        peers: list[PeerID] = []
        networks: list[IPv4Network | IPv6Network] = []
        for line, column, entry in entries(text):
            try:
                if set(entry) <= set(_ADDRESS) and (":" in entry or "." in entry):
                    networks.append(_network(entry))
                else:
                    peers.append(PeerID.parse_unchecked(entry))
            except PeerIDError as problem:
                why = str(problem).rstrip(".")
                sentence = f"{entry[:80]!r} is no peer ID and no network ({why})"
                raise ListFileError.at(line, column, sentence) from problem
            except ValueError as problem:
                raise ListFileError.at(line, column, str(problem)) from problem
        return cls.of(peers, networks)

    def __len__(self) -> int:
        """The number of entries."""
        return len(self.peers) + sum(map(len, self.networks.values()))

    def has_peer(self, peer: PeerID) -> bool:
        """Whether a peer is refused."""
        return peer in self.peers

    def has_host(self, host: str) -> bool:
        """Whether an IP address is refused. Any other text is not."""
        if not self.networks:
            return False
        try:
            address = parsed(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        version, bits, value = address.version, address.max_prefixlen, int(address)
        return any(
            family == version and value >> (bits - length) in prefixes
            for (family, length), prefixes in self.networks.items()
        )


def _network(text: str) -> IPv4Network | IPv6Network:
    """:raise ValueError: with the reason."""
    try:
        network = ip_network(text)
    except ValueError as problem:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"{text[:80]!r} is no IP address or network") from problem
        raise ValueError(f"{text[:80]!r} is an address within a network; write {meant}") from problem
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


def read_deny_list(path: Path) -> DenyList:
    """
    Read a file.

    :raise ListFileError: it cannot be read, or it has an error; the sentence names the file.
    """
    text = read_list(path, "The deny list")
    try:
        return DenyList.parse(text)
    except ListFileError as problem:
        raise ListFileError(f"The deny list {path}, {problem}.") from problem


def parse_members(text: str) -> frozenset[PeerID]:
    """
    Read the text of a list of members: one peer ID a line.

    The keys of peer IDs are not checked, only their checksums.

    :raise ListFileError: with the line and the column of the first error.
    """
    peers = set()
    for line, column, entry in entries(text):
        try:
            peers.add(PeerID.parse_unchecked(entry))
        except PeerIDError as problem:
            why = str(problem).rstrip(".")
            raise ListFileError.at(line, column, f"{entry[:80]!r} is no peer ID ({why})") from problem
    return frozenset(peers)
