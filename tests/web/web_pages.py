"""
Two linked peers on one machine, whose pages are opened in both kinds of browsers, for tests without NATs.

The programs and the browsers are started once for all tests of a module. Each test opens pages of its own and
begins with an empty chat.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Playwright

from tests.processes import JSONProcess, Programs, programs
from tests.web.browsers import DESKTOP, FORCED_COLOURS, Visitor, browser_in, check_layout, open_pages, playing


class PagePeer:
    """A peer that serves a page."""

    def __init__(self, running: Programs, name: str, address: str, *options: str) -> None:
        self.running = running
        self.name = name
        self._address = address
        self.options = options
        self.peer = self.start()
        self.id: str = self.peer.wait("ready")["id"]
        self.url: str = self.peer.wait("web")["url"]

    def start(self) -> JSONProcess:
        """Start the peer, anew with the same identity when it was ended."""
        return self.running.peer(
            self.name, "--web", *self.options, "--rendezvous", self._address, state=f"state-{self.name}"
        )

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        self.peer.command(command, request=command, **fields)
        answer = self.peer.wait(("result", "error"), where=lambda event: event.get("request") == command)
        assert answer["event"] == "result", answer
        return answer

    def new_url(self) -> str:
        """One more address of the page."""
        return str(self.ask("web")["url"])

    @property
    def origin(self) -> str:
        """Where the page is."""
        return self.url.partition("?")[0].rstrip("/")


class LinkedPages:
    """The linked peers Alice and Bob, and the browsers."""

    def __init__(self, running: Programs, playwright: Playwright) -> None:
        self.running = running
        self.directory = running.directory
        self.playwright = playwright
        self._browsers: dict[tuple[str, bool], Browser] = {}
        rendezvous = running.rendezvous(
            "--host",
            "127.0.0.1",
            "--control",
            "tcp:0:interface=127.0.0.1",
            "--reflector-port",
            "127.0.0.1:0",
            state="state-service",
        )
        self.address: str = rendezvous.wait("listening")["address"]
        self.alice = PagePeer(running, "alice", self.address)
        self.bob = PagePeer(running, "bob", self.address, "--accept", "anyone")
        self.bob.peer.wait("registered")
        self.connect()

    def connect(self) -> None:
        """Alice calls Bob."""
        self.alice.ask("call", peer=self.bob.id)
        self.alice.peer.wait("connected")

    def browser(self, name: str, *, forced_colours: bool = False) -> Browser:
        """The browser of this name, started when it is first asked for."""
        key = name, forced_colours
        if key not in self._browsers:
            preferences = FORCED_COLOURS if forced_colours else None
            self._browsers[key] = browser_in(name, self.playwright, [], self.directory, preferences)
        return self._browsers[key]

    def visit(
        self, name: str, who: PagePeer, size: dict[str, int] = DESKTOP, *, forced_colours: bool = False
    ) -> Visitor:
        """A new visitor with a page of this peer."""
        visitor = Visitor(self.browser(name, forced_colours=forced_colours), who.new_url(), size)
        visitor.page.locator(".me").wait_for()
        if forced_colours and name == "chromium":
            visitor.page.emulate_media(forced_colors="active")
        return visitor

    def tidy(self) -> None:
        """Close all pages, erase what was said. :raise AssertionError: a page does not fit its window."""
        try:
            check_layout()
        finally:
            for page in open_pages():
                page.context.close()
            self.alice.ask("erase", all=True)
            self.bob.ask("erase", all=True)


@pytest.fixture(scope="module")
def linked_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinkedPages]:
    """Peers and browsers that all tests of a module share."""
    directory: Path = tmp_path_factory.mktemp("linked")
    with ExitStack() as stack:
        running = stack.enter_context(programs(directory))
        yield LinkedPages(running, stack.enter_context(playing()))


@pytest.fixture
def linked(linked_pages: LinkedPages) -> Iterator[LinkedPages]:
    """The module's peers and browsers; afterwards, all pages are closed and all messages erased."""
    yield linked_pages
    linked_pages.tidy()
