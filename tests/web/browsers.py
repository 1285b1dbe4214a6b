"""
Chromium or Firefox, in a peer's own network namespace if need be, and what a person does in it.

Playwright drives both: Chromium over its DevTools protocol, Debian's unmodified Firefox over WebDriver BiDi.
What that can't do yet is not asked of Firefox: other media features, for which it has preferences (themes are
those of the page), and permissions. (Playwright 1.65 and newer set media features always, which a Firefox ESR
refuses.)
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Playwright,
    Request,
    expect,
    sync_playwright,
)

from tests.needs import need
from tests.web import browser_bridge

#: The browsers of a test that always runs in both.
BOTH = ["chromium", "firefox"]

#: Those of a test that runs in Firefox only with `--browsers=all`.
EITHER = ["chromium", pytest.param("firefox", marks=pytest.mark.all_browsers)]

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1180, "height": 800}

#: The desktop at a zoom of 400 %, in CSS pixels.
ZOOMED = {"width": 295, "height": 200}

#: A height that no window has, and that a page must not outgrow either.
FLAT = {"width": 360, "height": 120}

#: Milliseconds that something may take on a slow machine.
TIMEOUT = 30_000.0

expect.set_options(timeout=TIMEOUT)


class Visitor:
    """
    A person at a browser.

    :ivar browser_name: "chromium" or "firefox".
    :ivar requests: all that the page asked for, with its size.
    :ivar complaints: what the console showed as errors, and exceptions of the page.
    """

    def __init__(self, browser: Browser, url: str, size: dict[str, int] = DESKTOP) -> None:
        self.browser_name = browser.browser_type.name
        self.context = browser.new_context(
            viewport={"width": size["width"], "height": size["height"]},
            locale="en-GB",
            timezone_id="Europe/Berlin",
        )
        self.context.set_default_timeout(TIMEOUT)
        if self.browser_name == "chromium":
            self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.requests: list[Request] = []
        self.sockets: list[str] = []
        self.complaints: list[str] = []
        self.page = self.tab()
        self.page.goto(url)

    def tab(self) -> Page:
        """One more tab of the same browser."""
        page = self.context.new_page()
        page.on("request", lambda request: self.requests.append(request))
        page.on("websocket", lambda socket: self.sockets.append(socket.url))
        page.on("console", self._printed)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def _printed(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def said(self) -> str:
        """What stands on the page now, and what the console showed as errors."""
        page = self.page
        return "\n".join([page.url, page.locator("body").inner_text(), *self.complaints])

    def show(self, size: dict[str, int], theme: str) -> None:
        """Another window, another taste."""
        self.page.set_viewport_size({"width": size["width"], "height": size["height"]})
        if self.browser_name == "firefox":
            self.page.evaluate("theme => (document.documentElement.dataset.theme = theme)", theme)
        else:
            self.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")

    def go(self, where: str) -> None:
        """Open another part of the page: it is there, and has taken the focus."""
        self.page.evaluate(
            """where => new Promise(there => {
                if (location.hash === where) return there();
                addEventListener("hashchange", there, {once: true});
                location.hash = where;
            })""",
            where,
        )

    @property
    def id(self) -> str:
        """The ID that this person sees."""
        self.go("#/you")
        return self.page.locator("#my-id").inner_text().replace(" ", "")

    def name(self, name: str) -> None:
        """Choose a name."""
        field = self.page.get_by_label("Your name, as others see it", exact=True)
        field.fill(name)
        self.page.get_by_role("button", name="Save", exact=True).click()
        expect(self.page.locator(".me .name")).to_have_text(name)

    def call(self, whom: str) -> None:
        """Call somebody from the box at the side, with the keyboard alone."""
        self.page.keyboard.press("Control+k")
        expect(self.page.locator("#find")).to_be_focused()
        self.page.keyboard.type(whom)
        self.page.keyboard.press("Enter")

    def say(self, text: str) -> None:
        """Write a message."""
        box = self.page.locator("#write")
        box.fill(text)
        expect(self.page.get_by_role("button", name="Send", exact=True)).to_be_enabled()
        box.press("Enter")

    def message(self, text: str) -> Locator:
        """A message that is shown."""
        return self.page.locator(".message", has=self.page.locator(".body", has_text=text)).last

    def sees(self, text: str | re.Pattern[str], timeout: float = TIMEOUT) -> None:
        """A text stands on the page, now or soon."""
        self.page.get_by_text(text).filter(visible=True).first.wait_for(timeout=timeout)

    def mark(self, text: str, state: str, timeout: float = TIMEOUT) -> None:
        """A message of ours has come so far."""
        self.page.locator(f'.message.ours[data-state="{state}"]', has_text=text).last.wait_for(
            timeout=timeout
        )


#: The browsers that were started and may still run.
_started: list[Browser] = []


@contextlib.contextmanager
def playing() -> Iterator[Playwright]:
    """
    What starts browsers, which end with it.

    :raise AssertionError: at the end, a page that is open does not fit its window.
    """
    with sync_playwright() as playwright:
        yield playwright
        check_layout()
        _started.clear()


def open_pages() -> list[Page]:
    """All pages that are open in any browser."""
    return [page for browser in _started for context in browser.contexts for page in context.pages]


def check_layout() -> None:
    """:raise AssertionError: a page that is open does not fit its window."""
    assert [problem for page in open_pages() for problem in layout_problems(page)] == []


def layout_problems(
    page: Page, sizes: Sequence[dict[str, int]] = (DESKTOP, PHONE, ZOOMED, FLAT)
) -> list[str]:
    """
    What of a page is wrong in windows of these sizes: the document is exactly as high as its window, and no
    wider, whatever is in it. Leaves the page in the last one.
    """
    problems = []
    for size in sizes:
        page.set_viewport_size({"width": size["width"], "height": size["height"]})
        # Two frames: what follows the size of the window has done so.
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        found = page.evaluate(
            """() => {
                const all = [document.documentElement];
                // A page that is only to be read scrolls, in its body.
                if (!document.body.classList.contains("center")) all.push(document.body);
                const most = (what) => Math.max(...all.map((each) => each[what]));
                return [most("scrollWidth"), most("scrollHeight"), innerWidth, innerHeight];
            }"""
        )
        width, height, inner_width, inner_height = found
        if width > inner_width or height > inner_height:
            problems.append(
                f"{page.url.partition('#')[2]} in {inner_width} x {inner_height} is {width} x {height}"
            )
    return problems


def starter(program: str, prefix: Sequence[str], directory: Path) -> Path:
    """A command that starts a browser somewhere (`ip netns exec …`)."""
    found = shutil.which(program)
    assert found is not None
    start = directory / f"{program}-{len(list(directory.glob(f'{program}-*')))}"
    start.write_text(f'#!/bin/sh\nexec {" ".join(prefix)} {found} "$@"\n')
    os.chmod(start, stat.S_IRWXU)
    return start


def chromium_in(playwright: Playwright, prefix: Sequence[str], directory: Path) -> Browser:
    """Chromium, started by a command that puts it somewhere."""
    browser = playwright.chromium.launch(
        executable_path=str(starter("chromium", prefix, directory)),
        args=["--no-sandbox", "--disable-dev-shm-usage"],
        headless=True,
    )
    _started.append(browser)
    return browser


#: Firefox without a screen has neither a mouse, nor the focus in more than one window.
AT_A_DESK: dict[str, bool | int] = {
    "focusmanager.testmode": True,
    "ui.allPointerCapabilities": 6,
    "ui.primaryPointerCapabilities": 6,
    # A page may use the clipboard without a click.
    "dom.events.testing.asyncClipboard": True,
    # The panel of downloads would take the focus from the page.
    "browser.download.alwaysOpenPanel": False,
}

#: Firefox's own setting for high contrast: the colours of the system for all pages.
FORCED_COLOURS: dict[str, bool | int] = {"browser.display.document_color_use": 2}


def firefox_in(
    playwright: Playwright,
    prefix: Sequence[str],
    directory: Path,
    preferences: dict[str, bool | int] | None = None,
) -> Browser:
    """Debian's Firefox, started by a command that puts it somewhere: into a network namespace, if any."""
    if prefix:
        prefix = [sys.executable, str(Path(browser_bridge.__file__)), prefix[-1]]
    browser = playwright.firefox.launch(
        channel="moz-firefox",
        executable_path=str(starter("firefox-esr", prefix, directory)),
        headless=True,
        firefox_user_prefs={**AT_A_DESK, **(preferences or {})},
    )
    _started.append(browser)
    return browser


def browser_in(
    name: str,
    playwright: Playwright,
    prefix: Sequence[str],
    directory: Path,
    preferences: dict[str, bool | int] | None = None,
) -> Browser:
    """The browser of this name, started by a command that puts it somewhere; `preferences` are of Firefox."""
    if name == "firefox":
        need("firefox-esr")
        return firefox_in(playwright, prefix, directory, preferences)
    need("chromium")
    return chromium_in(playwright, prefix, directory)
