"""Two people who do not know each other, in their browsers: a code, then files in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from tests.processes import Programs, programs
from tests.web.browsers import EITHER, Visitor, browser_in, playing
from tests.web.web_pages import PagePeer
from tests.web.web_pair import PageInspector, inspector

__all__ = ["inspector"]


class Strangers:
    """Alice and Bob with a page each, who have never met."""

    def __init__(self, stack: ExitStack, directory: Path, browser: str) -> None:
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
        self.browser = browser_in(browser, playwright, [], directory)
        self.folders = {name: directory / f"received by {name}" for name in ("alice", "bob")}
        self.alice, self.bob = (self.visitor(running, name, address) for name in ("alice", "bob"))

    def visitor(self, running: Programs, name: str, address: str) -> Visitor:
        """Somebody at a page."""
        self.folders[name].mkdir()
        peer = PagePeer(running, name, address, "--downloads", str(self.folders[name]))
        visitor = Visitor(self.browser, peer.url)
        visitor.sees("Can be called")
        return visitor


@pytest.fixture(params=EITHER)
def strangers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Strangers]:
    with ExitStack() as stack:
        yield Strangers(stack, tmp_path, request.param)


PHOTO = bytes(range(250)) * 12_000


def drop(page: Page, name: str) -> None:
    """Drop a file onto the chat."""
    page.evaluate(
        """name => {
            const data = new DataTransfer();
            data.items.add(new File([name.repeat(1000)], name));
            const target = document.querySelector(".chat");
            const options = {dataTransfer: data, bubbles: true, cancelable: true};
            for (const type of ["dragenter", "dragover", "drop"]) {
                target.dispatchEvent(new DragEvent(type, options));
            }
        }""",
        name,
    )


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

    # Files, chosen in a dialog: what is odd about them is said before they are accepted.
    files: list[FilePayload] = [
        {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": PHOTO},
        {"name": "aux.txt", "mimeType": "text/plain", "buffer": b""},
    ]
    with alice.expect_file_chooser() as choosing:
        alice.get_by_role("button", name="Send files", exact=True).click()
    choosing.value.set_files(files)
    offer = bob.get_by_role("region", name="Files from alicia", exact=True)
    expect(offer).to_contain_text("photo.jpg")
    expect(offer).to_contain_text("Windows can't have this name")
    expect(offer).to_contain_text(str(strangers.folders["bob"]))
    strangers.alice.sees(re.compile("Waits until they accept"))
    inspector.look("offer", strangers.bob)
    offer.get_by_role("button", name="Accept", exact=True).click()
    strangers.alice.sees(re.compile("Sent · 3.0 MB"))
    strangers.bob.sees(re.compile("Received · 3.0 MB"))
    assert (strangers.folders["bob"] / "photo.jpg").read_bytes() == PHOTO
    assert (strangers.folders["bob"] / "aux.txt").read_bytes() == b""
    inspector.look("received", strangers.bob)
    bob.get_by_role("button", name="Where it is: photo.jpg and 1 more", exact=True).click()
    expect(bob.get_by_role("dialog")).to_contain_text(str(strangers.folders["bob"] / "photo.jpg"))
    bob.keyboard.press("Escape")
    bob.get_by_role("button", name="Take photo.jpg and 1 more off the list", exact=True).click()
    expect(bob.locator(".transfer")).to_have_count(0)

    # Dropped onto the chat, two at once, in the other direction: one is refused, by the keyboard.
    for name in ("one.bin", "two.bin"):
        drop(bob, name)
    offers = alice.get_by_role("region", name="Files from bob", exact=True)
    expect(offers).to_have_count(2)
    alice.locator("#main").focus()
    alice.keyboard.press("Alt+n")
    expect(offers).to_have_count(1)
    strangers.bob.sees(re.compile("does not want it"))
    alice.keyboard.press("Alt+y")
    strangers.bob.sees(re.compile("^Sent"))
    (received,) = strangers.folders["alice"].iterdir()
    assert received.read_bytes() == received.name.encode() * 1000
    strangers.alice.go("#/activity")
    strangers.alice.sees("files/1")
    expect(alice.locator(".transfer")).to_have_count(3)
    inspector.look("activity", strangers.alice)

    assert inspector.problems == []
    # What failed was asked for by the user
    assert strangers.alice.complaints == []
    assert strangers.bob.complaints == []
