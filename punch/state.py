"""
What Punch keeps between runs: keys, the address book, the rendezvous used last. All below one directory.

    ROOT/rendezvous/       identity.key, certificate.pem, address, rendezvous.log, status.sock (while it runs)
    ROOT/peers/NAME/       identity.key, known.json (the address book), history.sqlite, display-name,
                           last-rendezvous, last-web-port, offers.json (which offers were taken),
                           prekeys/ID (of known peers, `punch.wire.peers.prekey`), peer.log, .lock,
                           node.sock (while it runs; `punch.local`)

Directories are made when something is first written to them, for their owner only.
"""

from __future__ import annotations

import getpass
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from punch.contacts import AddressBook, AddressBookError, AddressBookProblem
from punch.identity import Identity, PeerID, PeerIDError, RandomBytes
from punch.names import without_format, without_ignorable
from punch.state_files import (
    Lock,
    StateError,
    StateProblem,
    kept_identity,
    lock_identity,
    prepare_files,
    read_file,
    read_line,
    state_errors,
    write_file,
)
from punch.wire.address import PortError, parse_port

MAX_NAME = 64


def login_name(environ: Mapping[str, str]) -> str:
    """Return the user's login name as a name for an identity; "peer" if there is none."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        name = environ.get("USER", "")
    kept = "".join(character if character.isalnum() or character in "._-" else "-" for character in name)
    return kept.lstrip(".-")[:64] or "peer"


def default_state_dir(environ: Mapping[str, str], platform: str, home: Path) -> Path:
    """
    Return the platform's own place for a program's state.

    :param platform: as `sys.platform`.
    """
    if platform == "win32":
        local = environ.get("LOCALAPPDATA")
        return (Path(local) if local else home / "AppData" / "Local") / "punch"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "punch"
    # The XDG specification wants relative paths to be ignored.
    configured = environ.get("XDG_STATE_HOME", "")
    return (Path(configured) if configured.startswith("/") else home / ".local" / "state") / "punch"


def own_state_dir(environ: Mapping[str, str]) -> Path:
    """Return `default_state_dir` for the user and the system of this process."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home needs --state-dir
        home = Path("/nonexistent")
    return default_state_dir(environ, sys.platform, home)


class StateDirectory:
    """The directory of everything that is kept. No file is opened or made before it is needed."""

    def __init__(self, root: Path) -> None:
        """:raise StateError: `root` begins with the ``~`` of somebody who has no home."""
        try:
            # twistd may change its working directory between the command line and the first use.
            self.root = root.expanduser().absolute()
        except RuntimeError as error:
            raise StateError(StateProblem.HOME, path=root) from error

    @property
    def rendezvous(self) -> RendezvousState:
        """What a rendezvous service keeps."""
        return RendezvousState(self.root / "rendezvous")

    def peer(self, name: str) -> PeerState:
        """
        What the peer of this name keeps.

        :param name: 1 to 64 letters, digits, dots, dashes and underscores, the first of them not a dot.
        :raise StateError: the name is not like that.
        """
        name = unicodedata.normalize("NFC", without_format(name))
        seen = without_ignorable(name)
        allowed = all(c in "._-" or unicodedata.category(c)[0] in "LMN" for c in name)
        if (
            not seen
            or not 1 <= len(name) <= MAX_NAME
            or not allowed
            or name.startswith(".")
            or len(name.encode()) > 255
        ):
            raise StateError(StateProblem.NAME, name=name)
        return PeerState(self.root / "peers" / name, name)


class RendezvousState:
    """What a rendezvous service keeps."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log_path = directory / "rendezvous.log"
        self.pid_path = directory / "twistd.pid"
        self._certificate_path = directory / "certificate.pem"
        self._address_path = directory / "address"

    def identity(self, random: RandomBytes = os.urandom) -> Identity:
        """
        The service's key, made on first use.

        :raise StateError: it can't be loaded or made.
        """
        return kept_identity(self.directory, random)

    def certificate(self, identity: Identity, hosts: Sequence[str], now: datetime) -> bytes:
        """
        The self-signed certificate of the service's key, in PEM form.

        It is kept, and made anew when the key or a host has changed, or within 30 days of its end.

        :param now: an aware datetime.
        :raise StateError: it can't be written.
        """
        kept = read_file(self._certificate_path)
        if kept is not None and _still_good(kept, identity, hosts, now):
            return kept
        certificate = identity.certificate(now - timedelta(days=1), hosts=hosts)
        pem = certificate.public_bytes(Encoding.PEM)
        write_file(self._certificate_path, pem)
        return pem

    def prepare(self) -> None:
        """
        Make the directory and the log file, and see whether all that will be opened there is a file.

        :raise StateError: it can't be made, or something else has the name of a file.
        """
        prepare_files(self.log_path, [self.pid_path, self._certificate_path, self._address_path])

    def write_address(self, address: str) -> None:
        """
        Leave the service's address for this user's peers on this machine.

        :raise StateError: it can't be written.
        """
        write_file(self._address_path, address.encode() + b"\n")

    def read_address(self) -> str | None:
        """
        The address that a service on this machine has left, if one ever ran.

        :raise StateError: it can't be read.
        """
        return read_line(self._address_path)


class PeerState:
    """What the peer of one name keeps. Each name of a user has an identity of its own."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.name = name
        self.log_path = directory / "peer.log"
        self.pid_path = directory / "twistd.pid"
        self.typed_lines_path = directory / "typed-lines"
        self._last_path = directory / "last-rendezvous"
        self._last_web_port_path = directory / "last-web-port"
        self.history_path = directory / "history.sqlite"
        self._display_name_path = directory / "display-name"
        self._offers_path = directory / "offers.json"
        self._prekeys_path = directory / "prekeys"
        self._new = False
        self._replacements_path = directory / "replaced"
        self._book: AddressBook | None = None

    def identity(self, random: RandomBytes = os.urandom) -> Identity:
        """
        The peer's key, made on first use.

        :raise StateError: it can't be loaded or made.
        """
        self._new = self._new or not self.has_identity
        return kept_identity(self.directory, random)

    @property
    def has_identity(self) -> bool:
        """Whether there is a key, made by this process or another one."""
        return (self.directory / "identity.key").exists()

    def prepare(self) -> None:
        """
        Make the directory and the log file, and see whether all that will be opened there is a file. The
        history checks its own file, since a peer may run without a history.

        :raise StateError: it can't be made, or something else has the name of a file.
        """
        others = [self.pid_path, self.typed_lines_path, self._last_path, self._display_name_path]
        others += [self._offers_path, self._replacements_path, self._last_web_port_path]
        prepare_files(self.log_path, others)

    @property
    def new(self) -> bool:
        """Whether the key was made by this process."""
        return self._new

    def read_offers(self) -> bytes | None:
        """
        What was kept about the offers of other peers, at most 64 KiB; None if nothing was.

        :raise StateError: it can't be read.
        """
        return read_file(self._offers_path)

    def write_offers(self, content: bytes) -> None:
        """
        Keep something about the offers of other peers.

        :raise StateError: it can't be written.
        """
        write_file(self._offers_path, content)

    def read_prekey(self, peer: PeerID) -> bytes | None:
        """
        The prekey that was kept of another peer; None if none was.

        :raise StateError: it can't be read.
        """
        return read_file(self._prekeys_path / str(peer))

    def write_prekey(self, peer: PeerID, signed: bytes | None) -> None:
        """
        Keep a prekey of another peer; None removes the one that was kept.

        :raise StateError: it can't be written.
        """
        path = self._prekeys_path / str(peer)
        if signed is not None:
            write_file(path, signed)
            return
        with state_errors(path):
            path.unlink(missing_ok=True)

    def forget_prekeys(self) -> None:
        """
        Remove the prekeys of peers that are not in the address book any more, though nobody has removed them
        there: the file of the book may have been replaced.

        :raise StateError: the directory can't be read, or a file can't be removed.
        """
        known = self.book
        with state_errors(self._prekeys_path), suppress(FileNotFoundError):
            for path in list(self._prekeys_path.iterdir()):
                with suppress(PeerIDError):  # a file that Punch did not make
                    if PeerID.parse(path.name) not in known:
                        path.unlink(missing_ok=True)

    def _forget_prekey(self, peer: PeerID) -> None:
        try:
            self.write_prekey(peer, None)
        except StateError as error:
            raise AddressBookError(AddressBookProblem.STATE, peer=peer, cause=error) from error

    def lock(self, program: str = "") -> Lock:
        """
        Keep other processes from running with this identity, until released or until this process ends.

        :param program: what this process is, if it is one that could use the node of another process as well.
        :raise IdentityInUse: another process has it.
        :raise StateError: the file can't be locked.
        """
        return lock_identity(self.directory / ".lock", self.name, program)

    @property
    def book(self) -> AddressBook:
        """
        The address book.

        :raise StateError: it can't be read.
        """
        if self._book is None:
            try:
                self._book = AddressBook(self.directory / "known.json", forgotten=self._forget_prekey)
            except AddressBookError as error:
                raise StateError(StateProblem.ADDRESS_BOOK, cause=error) from error
        return self._book

    @property
    def display_name(self) -> str:
        """
        What this peer calls itself: the name of its identity, until the user chose another one.

        :raise StateError: it can't be read.
        """
        return read_line(self._display_name_path) or self.name

    def remember_display_name(self, name: str) -> None:
        """
        Keep what this peer calls itself from now on.

        :raise StateError: it can't be written.
        """
        write_file(self._display_name_path, name.encode() + b"\n")

    @property
    def replacements(self) -> int:
        """
        How often in a row another process with this identity has replaced this one.

        :raise StateError: it can't be read.
        """
        line = read_line(self._replacements_path) or ""
        return min(int(line), 1000) if line.isascii() and line.isdigit() and len(line) < 5 else 0

    def remember_replacements(self, count: int) -> None:
        """
        Keep that number for the next process.

        :raise StateError: it can't be written.
        """
        if count != self.replacements:
            write_file(self._replacements_path, b"%d\n" % count)

    @property
    def last_rendezvous(self) -> str | None:
        """
        The address of the rendezvous used last.

        :raise StateError: it can't be read.
        """
        return read_line(self._last_path)

    def remember_rendezvous(self, address: str) -> None:
        """
        Make this the rendezvous used last.

        :raise StateError: it can't be written.
        """
        if self.last_rendezvous != address:
            write_file(self._last_path, address.encode() + b"\n")

    @property
    def last_web_port(self) -> int | None:
        """
        The port at which the page was served last.

        :raise StateError: it can't be read.
        """
        try:
            return parse_port(read_line(self._last_web_port_path) or "")
        except PortError:
            return None

    def remember_web_port(self, port: int) -> None:
        """
        Make this the port at which the page was served last.

        :raise StateError: it can't be written.
        """
        if self.last_web_port != port:
            write_file(self._last_web_port_path, b"%d\n" % port)


def _still_good(pem: bytes, identity: Identity, hosts: Sequence[str], now: datetime) -> bool:
    try:
        kept = x509.load_pem_x509_certificate(pem)
        same_key = PeerID.from_certificate(kept) == identity.peer_id
    except ValueError:  # PeerIDError is one
        return False
    start, end = kept.not_valid_before_utc, kept.not_valid_after_utc
    # Certificates are signed deterministically: the same key, dates and hosts make the same bytes.
    remade = identity.certificate(start, days=(end - start).days, hosts=hosts)
    return same_key and remade == kept and start <= now <= end - timedelta(days=30)
