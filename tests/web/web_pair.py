"""Two users with a browser each, behind two kernel NATs, and checks of how their pages look."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, Playwright

from tests.needs import need_namespaces
from tests.netns import Host, Namespaces
from tests.network.homes import Homes
from tests.processes import JSONProcess, Programs, programs
from tests.web import axe
from tests.web.browsers import DESKTOP, EITHER, PHONE, Visitor, browser_in, layout_problems, playing

SIZES = (DESKTOP, PHONE)
VIEWS = [(size, theme) for size in SIZES for theme in ("light", "dark")]

#: The note in a chat when its link comes up, and not any "Not connected." beside it.
CONNECTED = re.compile(r"^Connected\. ")

#: The first path may be one through the relay, until a direct one has been found.
DIRECT = re.compile(r"^(Connected|The path changed)\. Direct")


class BrowserUser:
    """A user with a peer and a browser."""

    def __init__(self, pair: BrowserPair, name: str, host: Host) -> None:
        self._pair = pair
        self._name = name
        self.host = host
        self.peer = self.start()
        self.url: str = self.peer.wait("web")["url"]
        # Chromium drops what it is fetching when addresses come.
        host.settle()
        browser = browser_in(pair.browser, pair.playwright, host.prefix, pair.directory)
        self.visitor = Visitor(browser, self.url)
        self.page = self.visitor.page

    def start(self, *options: str) -> JSONProcess:
        """Start the peer, anew with the same identity after `leave`."""
        return self._pair.running.peer(
            self._name,
            "--web",
            *options,
            "--rendezvous",
            self._pair.address,
            state=f"state-{self._name}",
            prefix=self.host.prefix,
        )

    def leave(self) -> None:
        """End the peer; the browser stays open."""
        self.peer.command("quit")
        assert self.peer.exit() == 0

    def come_back(self) -> None:
        """Start the peer again, and open what it prints."""
        self.peer = self.start()
        self.page.goto(self.peer.wait("web")["url"])


class BrowserPair(Homes):
    """Two users with a browser each, both of one kind."""

    def __init__(
        self, namespaces: Namespaces, running: Programs, playwright: Playwright, browser: str
    ) -> None:
        super().__init__(namespaces, running)
        self.playwright = playwright
        self.browser = browser
        self.alice = BrowserUser(self, "alice", self.home_of_alice)
        self.bob = BrowserUser(self, "bob", self.home_of_bob)

    def connect(self) -> None:
        """
        Alice calls Bob, who accepts.

        :raise AssertionError: they do not come together; it has what pages and processes said.
        """
        alice, bob = self.alice.visitor, self.bob.visitor
        try:
            alice.sees("Can be called")
            bob.sees("Can be called")
            alice.call(bob.id)
            bob.page.get_by_role("button", name="Accept", exact=True).click()
            alice.sees(CONNECTED)
            bob.sees(CONNECTED)
        except (AssertionError, PlaywrightError) as problem:
            raise AssertionError("\n\n".join([str(problem), *self.said()])) from problem

    def said(self) -> list[str]:
        """What everybody has said so far: the pages, and the processes."""
        pages = [user.visitor.said() for user in (self.alice, self.bob)]
        return pages + [each.said() for each in (self.alice.peer, self.bob.peer, self.rendezvous)]


@pytest.fixture(params=EITHER)
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[BrowserPair]:
    need_namespaces()
    with Namespaces() as namespaces, programs(tmp_path) as running, playing() as playwright:
        yield BrowserPair(namespaces, running, playwright, request.param)


class PageInspector:
    """
    Shows a page in both sizes and both themes, takes screenshots, and checks accessibility and layout.

    :param directory: where screenshots are kept; None: nowhere.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.problems: list[str] = []
        self.states = 0

    def look(self, name: str, visitor: Visitor) -> None:
        self.states += 1
        page = visitor.page
        for size, theme in VIEWS:
            visitor.show(size, theme)
            page.wait_for_timeout(250)
            where = f"{name}, {size['width']} px, {theme}"
            self.problems += [f"{where}: {each}" for each in axe.violations(page)]
            self.problems += [f"{where}: {each}" for each in layout_problems(page, [size])]
            self._keep(name, size, theme, visitor)
        if self.directory is not None and visitor.browser_name == "chromium":
            page.emulate_media(color_scheme="light", forced_colors="active")
            for size in SIZES:
                page.set_viewport_size({"width": size["width"], "height": size["height"]})
                page.wait_for_timeout(250)
                self._keep(name, size, "forced", visitor)
            page.emulate_media(forced_colors="none")
        visitor.show(DESKTOP, "light")
        page.wait_for_timeout(100)

    def _keep(self, name: str, size: dict[str, int], colours: str, visitor: Visitor) -> None:
        if self.directory is not None:
            browser = "" if visitor.browser_name == "chromium" else f"{visitor.browser_name}-"
            path = self.directory / f"{browser}{name}-{size['width']}-{colours}.png"
            # Else Playwright hides the cursor with a style, which the page's policy refuses with a complaint.
            visitor.page.screenshot(path=str(path), caret="initial")


@pytest.fixture
def inspector(request: pytest.FixtureRequest) -> PageInspector:
    chosen = request.config.getoption("--screenshots")
    if chosen is not None:
        Path(chosen).mkdir(parents=True, exist_ok=True)
    return PageInspector(None if chosen is None else Path(chosen))


def origin(url: str) -> str:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def wait_until(page: Page, done: Callable[[], bool]) -> None:
    """Let the page go on until something has happened."""
    for _ in range(600):
        if done():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not happen")
