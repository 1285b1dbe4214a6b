"""
Chromium or Firefox, in a peer's own network namespace if need be, and what a person does in it.

Playwright drives both: Chromium over its DevTools protocol, Debian's unmodified Firefox over WebDriver BiDi.
What that can't do yet is not asked of Firefox: other media features, and permissions. (Playwright 1.65 and
newer set media features always, which a Firefox ESR refuses.)
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

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


@contextlib.contextmanager
def playing() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


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


def open_pages(*browsers: Browser) -> list[Page]:
    """All pages that are open in them."""
    return [page for browser in browsers for context in browser.contexts for page in context.pages]


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
    return playwright.chromium.launch(
        executable_path=str(starter("chromium", prefix, directory)),
        args=["--no-sandbox", "--disable-dev-shm-usage"],
        headless=True,
    )


#: Firefox without a screen has neither a mouse, nor the focus in more than one window.
AT_A_DESK: dict[str, bool | int] = {
    "focusmanager.testmode": True,
    "ui.allPointerCapabilities": 6,
    "ui.primaryPointerCapabilities": 6,
}


def firefox_in(
    playwright: Playwright,
    prefix: Sequence[str],
    directory: Path,
    preferences: dict[str, bool | int] | None = None,
) -> Browser:
    """Debian's Firefox, started by a command that puts it somewhere."""
    return playwright.firefox.launch(
        channel="moz-firefox",
        executable_path=str(starter("firefox-esr", prefix, directory)),
        headless=True,
        firefox_user_prefs={**AT_A_DESK, **(preferences or {})},
    )
