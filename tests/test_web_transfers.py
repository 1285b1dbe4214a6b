"""Two people who do not know each other, in their browsers: a code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from .browsers import Visitor, chromium_in, playing
from .processes import programs
from .web_pages import PagePeer
from .web_pair import PageInspector, inspector

__all__ = ["inspector"]


class Strangers:
    """Alice and Bob with a page each, who have never met."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        running = stack.enter_context(programs(directory))
        playwright = stack.enter_context(playing())
        rendezvous = running.rendezvous(
            "--host",
            "127.0.0.1",
            "--control",
            "tcp:0:interface=127.0.0.1",
            "--reflector-port",
            "127.0.0.1:0",
            state="state-service",
        )
        address = rendezvous.wait("listening")["address"]
        self.browser = chromium_in(playwright, [], directory)
        self.alice = self.visitor(PagePeer(running, "alice", address))
        self.bob = self.visitor(PagePeer(running, "bob", address))

    def visitor(self, peer: PagePeer) -> Visitor:
        visitor = Visitor(self.browser, peer.url)
        visitor.sees("Can be called")
        return visitor


@pytest.fixture
def strangers(tmp_path: Path) -> Iterator[Strangers]:
    with ExitStack() as stack:
        yield Strangers(stack, tmp_path)


def code_field(page: Page) -> Locator:
    return page.get_by_label("A code of theirs", exact=True)


def test_the_whole_story(strangers: Strangers, inspector: PageInspector) -> None:
    alice, bob = strangers.alice.page, strangers.bob.page

    # A wrong word: both sides are told.
    alice.get_by_role("button", name="Make a code", exact=True).click()
    made = alice.locator("#my-code").inner_text().replace("\u200b", "")
    number, *words = made.split("-")
    assert (len(number), len(words)) == (5, 3)
    expect(alice.get_by_role("img", name="The code as a QR code", exact=True)).to_be_visible()
    inspector.look("code", strangers.alice)
    wrong = "aardvark" if words[2] != "aardvark" else "abdomen"
    code_field(bob).fill("-".join([number, *words[:2], wrong]))
    bob.get_by_role("button", name="Use it", exact=True).click()
    strangers.bob.sees(re.compile("This is not the code of the other side"))
    strangers.alice.sees(re.compile("Somebody used this number with other words"))
    code_field(bob).fill("")

    # The right one, by the keyboard alone: three letters of each word are enough.
    alice.get_by_role("button", name="Make another code", exact=True).click()
    number, *words = alice.locator("#my-code").inner_text().replace("\u200b", "").split("-")
    bob.get_by_label("Your name for them", exact=True).fill("alicia")
    code_field(bob).focus()
    bob.keyboard.type(f"{number}-")
    for word in words[:2]:
        bob.keyboard.type(word[:3])
        bob.keyboard.press("Tab")
    bob.keyboard.type(words[2][:3])
    expect(code_field(bob)).to_have_value("-".join([number, *words]))
    bob.keyboard.press("Enter")
    strangers.bob.sees("You and alicia know each other now.")
    strangers.alice.sees("You and bob know each other now.")
    alice.get_by_role("link", name="Write to bob, or call", exact=True).click()
    alice.locator("#write").wait_for()

    assert inspector.problems == []
    # What failed was asked for by the user
    assert strangers.alice.complaints == []
    assert strangers.bob.complaints == []
