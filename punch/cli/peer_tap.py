"""
The `twistd` plugin `punch-peer`: its options.

What runs is put together in `punch.cli.peer_service`. It is imported only after the options are read, because
it takes long to load, and `--help` does not need it.
"""

from __future__ import annotations

import punch.cli.startup  # first: what follows takes long

with punch.cli.startup.loading():
    import os
    import time
    from dataclasses import dataclass
    from enum import Enum
    from pathlib import Path
    from typing import NoReturn, TypeVar

    from twisted.application.service import IService

    from punch.cli.startup import end_without_collecting, loading, raise_descriptor_limit
    from punch.cli.twistd import CommandOptions as BaseOptions
    from punch.cli.twistd import end_on_signals, fail, use_own_files
    from punch.contacts import UnknownPeer, find_peer
    from punch.identity import PeerID
    from punch.local.rendezvous import (
        BadProxy,
        NoRendezvous,
        choose_proxy,
        choose_rendezvous,
        proxy_sentence,
        rendezvous_sentence,
    )
    from punch.node.policies import PortMappingPolicy, RelayPolicy, SprayPolicy
    from punch.sanitize import quoted
    from punch.sentences import sentence_of
    from punch.state import StateDirectory, login_name, own_state_dir
    from punch.state_files import StateError
    from punch.ui.standard_streams import occupy_standard_descriptors
    from punch.ui.terminal.escapes import Notice
    from punch.wire.address import PortError, parse_port
    from punch.wire.control import Accept

E = TypeVar("E", bound=Enum)

_started = time.monotonic()

_RARE = frozenset(
    ("no-history", "notify", "port-mapping", "proxy", "relay", "retention", "spray", "state-dir", "version")
)
_RARE_OF = {
    "punch chat": frozenset(("json", "peer", "web-port")),
    "punch web": frozenset(("json", "peer", "web")),
}
"""Further rare options of the two commands whose argument is the peer to call."""


class Options(BaseOptions):
    """What `twistd punch-peer` takes."""

    plugin = "punch-peer"
    files = frozenset(("state-dir", "downloads"))

    @property
    def rare(self) -> frozenset[str]:  # type: ignore[override]  # what is rare depends on the command
        """The options that `--help` leaves out."""
        return _RARE | _RARE_OF.get(self.command, frozenset(("downloads", "web", "web-port")))

    longdesc = (
        "Waits for other peers to call, or with --peer calls one, connects directly through the NATs in "
        "between, and chats: every line of stdin is a message. Prints its own ID, which others call."
    )

    optFlags = [
        [
            "json",
            None,
            "Events as JSON lines on stdout, commands as JSON lines on stdin, for scripts; docs/json.md "
            "explains them. [default: a chat for people]",
        ],
        [
            "no-history",
            None,
            "Keep nothing of what is said on disk: what is not delivered when the process ends is lost. "
            "[default: messages are kept, see --retention]",
        ],
        [
            "web",
            None,
            "Also open the chat to a browser on this machine: prints the address to open. [default: no]",
        ],
    ]

    optParameters = [
        [
            "peer",
            None,
            None,
            "Whom to call: the ID that the other side printed (upper case, spaces and dashes do not matter), "
            "or a name from the address book. [default: wait to be called]",
        ],
        [
            "name",
            None,
            None,
            "Name that the other side sees. It also chooses the identity: another name is another ID. "
            f"[default: your login name, {login_name(os.environ)}]",
        ],
        [
            "accept",
            None,
            "ask",
            "Who may connect besides those you called or accepted before: ask (you are asked about "
            "each), known (nobody else) or anyone.",
        ],
        [
            "relay",
            None,
            "auto",
            "Whether a relay may carry links: auto (while there is no direct path), never, or only (always: "
            "the other side does not learn your addresses).",
        ],
        [
            "port-mapping",
            None,
            "auto",
            "Whether your router is asked for a port that leads here, which makes more links direct: auto "
            "(by PCP, NAT-PMP and UPnP; the port is given back at the end), or never.",
        ],
        [
            "spray",
            None,
            "auto",
            "Whether many packets may go to guessed ports of a peer on a relayed link, or many sockets be "
            "opened for that, if a NAT has random ports: auto (if both sides want it), or never.",
        ],
        [
            "proxy",
            None,
            None,
            "HTTP or SOCKS5 proxy for TCP connections, such as http://proxy:3128 or socks5://proxy:1080, "
            "or none. UDP goes past it. [default: what https_proxy or all_proxy of the environment says, and "
            "directly where that fails]",
        ],
        [
            "state-dir",
            None,
            None,
            f"Directory for keys, address book, messages and logs. [default: {own_state_dir(os.environ)}]",
        ],
        [
            "retention",
            None,
            None,
            "How many days messages are kept from now on, or off: until they are erased. [default: as it was "
            "set last, at first off]",
        ],
        [
            "notify",
            None,
            "bell",
            "What tells you of messages and calls while you look elsewhere, in a terminal that reports its "
            "focus: bell, a notice by osc9 or osc777, whichever yours knows, or off.",
        ],
        [
            "downloads",
            None,
            None,
            "Folder for files that are accepted in page and terminal. [default: your folder for downloads]",
        ],
        [
            "web-port",
            None,
            "0",
            "Port of the page on 127.0.0.1; 0 is any that is free.",
        ],
    ]

    def getSynopsis(self) -> str:
        """The first line of the help."""
        who = " [WHO]" if self.command in _RARE_OF else ""
        return f"Usage: {self.command}{who} [options]"

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["rendezvous"] = None

    def opt_rendezvous(self, address: str) -> None:
        """Address of the rendezvous, as it printed it: punch://host:port/PIN; several servers of one with \
commas, or in several options. [default: that of PUNCH_RENDEZVOUS, else the one used last, else your own on \
this machine]"""
        self["rendezvous"] = address if self["rendezvous"] is None else f"{self['rendezvous']},{address}"

    def postOptions(self) -> None:
        """
        Check the options, and find the identity and the rendezvous. What fails is reported before the log is
        opened and the reactor runs.
        """
        occupy_standard_descriptors()
        if self["name"] is None:
            self["name"] = login_name(os.environ)
        if self["state-dir"] == "":
            self.fail("usage", "--state-dir is empty: name a directory.")
        try:
            self.state = StateDirectory(Path(self["state-dir"] or own_state_dir(os.environ)))
        except StateError as error:
            self.fail("state", sentence_of(error))
        self.accept = self._choice("accept", Accept)
        self.relay = self._choice("relay", RelayPolicy)
        self.port_mapping = self._choice("port-mapping", PortMappingPolicy)
        self.spray = self._choice("spray", SprayPolicy)
        self.notice = self._choice("notify", Notice)
        self.retention = self._retention()
        self.web_port = self._web_port()
        self.downloads = self._downloads()
        try:
            self.peer = self.state.peer(self["name"])
        except StateError as error:
            self.fail("state", sentence_of(error))
        self.target = self._target()
        try:
            self.rendezvous = choose_rendezvous(self["rendezvous"], self.state, self["name"], os.environ)
        except NoRendezvous as error:
            self.fail(error.reason, rendezvous_sentence(error))
        try:
            self.proxy = choose_proxy(self["proxy"], os.environ)
        except BadProxy as error:
            self.fail("bad-proxy", proxy_sentence(error))
        try:
            self.peer.prepare()
        except StateError as error:
            self.fail("state", sentence_of(error))
        use_own_files(
            self, self.peer.directory, self.peer.log_path, lambda sentence: self.fail("usage", sentence)
        )

    def fail(self, reason: str, sentence: str) -> NoReturn:
        """End the process with a sentence on stderr, and with `--json` an event on stdout."""
        fail(self.command, sentence, reason=reason, as_json=bool(self["json"]))

    def _choice(self, option: str, kind: type[E]) -> E:
        """Return the member of `kind` that the user chose."""
        try:
            return kind(self[option].strip().lower())
        except ValueError:
            *others, last = (member.value for member in kind)
            self.fail("usage", f"--{option} takes {', '.join(others)} or {last}, not {quoted(self[option])}.")

    def _target(self) -> PeerID | None:
        if self["peer"] is None:
            return None
        try:
            return find_peer(self.peer.book, self["peer"])
        except StateError as error:
            self.fail("state", sentence_of(error))
        except UnknownPeer as error:
            self.fail("bad-peer-id", sentence_of(error))

    def _retention(self) -> Retention | None:
        text = self["retention"]
        if text is None:
            return None
        if text.strip().lower() in ("off", "never", "forever"):
            return Retention(None)
        try:
            days = float(text)
        except ValueError:
            days = 0.0
        if not 0 < days < 1_000_000:
            self.fail("usage", f"--retention takes a number of days, or off, not {quoted(text)}.")
        return Retention(days)

    def _downloads(self) -> Path | None:
        if self["downloads"] is None:
            return None
        folder = Path(self["downloads"])
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            self.fail(
                "usage", f"--downloads takes a folder that you may write to, not {quoted(self['downloads'])}."
            )
        return folder.resolve()

    def _web_port(self) -> int:
        try:
            port = parse_port(self["web-port"].strip(), 0)
        except PortError:
            self.fail("usage", f"--web-port takes a port from 0 to 65535, not {quoted(self['web-port'])}.")
        if self["web"]:
            try:
                import punch.ui.web.view  # noqa: F401
            except ImportError as error:
                from punch.extras import install_command_here

                self.fail(
                    "usage",
                    f"--web needs a package that is not there, {error.name}: {install_command_here('web')}",
                )
        return port


@dataclass(frozen=True)
class Retention:
    """For how many days messages are to be kept; None: until they are erased."""

    days: float | None


def makeService(options: Options) -> IService:
    """Return the service that `twistd` runs."""
    end_without_collecting()
    with loading():
        from twisted.internet import reactor

        from punch.cli.peer_service import PeerService
        from punch.net.reactor import install_resolver, use_monotonic_time

    raise_descriptor_limit()
    use_monotonic_time(reactor)
    install_resolver(reactor)
    service = PeerService(options, reactor, lambda: time.monotonic() - _started)
    words = "" if options["json"] else "The peer has stopped."
    end_on_signals(reactor, final_line=words)
    return service
