"""The page in real browsers: two people behind two NATs, each with Chromium in the peer's own namespace."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.processes import PUNCH
from tests.web import axe
from tests.web.browsers import EITHER, Visitor, browser_in, playing
from tests.web.web_pair import DIRECT, BrowserPair, PageInspector, inspector, pair

__all__ = ["inspector", "pair"]


def test_every_state_of_a_chat(pair: BrowserPair, inspector: PageInspector) -> None:
    """One run from the first name to the hang-up, with everything that may happen to a chat in between."""
    alice, bob = pair.alice.visitor, pair.bob.visitor
    bob_id = bob.id
    alice.sees("Can be called")
    bob.sees("Can be called")

    # A name
    alice.name("Alice")
    bob.name("Bob")
    expect(alice.page.locator(".me")).to_contain_text("Alice")
    expect(alice.page.locator(".notice")).to_have_count(0, timeout=10_000)
    inspector.look("1-welcome", alice)

    # A call, with the keyboard alone; the other side sees who it is
    alice.call(bob_id)
    card = bob.page.get_by_role("region", name="Incoming calls").locator(".call")
    expect(card).to_contain_text("Alice is calling")
    expect(card.locator(".id")).to_have_text(re.sub(r"(.{4})(?=.)", r"\1 ", alice.id))
    alice.page.go_back()
    alice.sees("Calling")
    expect(alice.page.locator(".diagram")).to_be_visible()
    expect(bob.page.locator(".notice")).to_have_count(0, timeout=10_000)
    inspector.look("2-calling", alice)
    inspector.look("3-ringing", bob)

    # Accepted: the live picture, up to the path that is taken
    bob.page.keyboard.press("Alt+y")
    alice.sees(DIRECT)
    bob.sees(DIRECT)
    expect(alice.page.locator(".picture .words")).to_contain_text("Direct, through the NATs")
    expect(bob.page.locator(".picture .words")).to_contain_text("Direct, through the NATs")
    expect(alice.page.locator("h1.name")).to_have_text("Bob")
    expect(alice.page.locator("#way")).to_have_class("taken")
    expect(alice.page.locator(".diagram .node.n-nat.used")).to_have_count(2)
    how = alice.page.get_by_role("button", name="How you are connected", exact=True)
    expect(alice.page.locator(".diagram")).to_be_hidden()
    how.click()
    alice.page.locator(".picture summary").click()
    expect(alice.page.locator(".pairs tr.selected")).to_contain_text("taken")
    inspector.look("4-connected", alice)
    alice.page.locator(".picture summary").click()
    how.click()

    # Messages both ways, and how far they came
    alice.say("Hello Bob, can you read me?")
    alice.mark("Hello Bob", "read")
    bob.say("Loud and clear, Alice, and nobody else can.")
    bob.say("Have you seen the picture? That line is us.")
    bob.mark("That line is us", "read")
    alice.say("Straight through both NATs.\nThe rendezvous only introduced us.")
    alice.mark("only introduced us", "read")
    inspector.look("5-chat", alice)

    # The path changes, and nothing is lost
    pair.block_direct_paths()
    alice.say("Now I pull the plug on the direct path.")
    alice.sees("The path changed. Through a relay")
    alice.mark("pull the plug", "read")
    expect(alice.page.locator(".diagram .node.n-relay.used")).to_have_count(1)
    bob.say("I noticed nothing but the picture.")
    alice.sees("noticed nothing")
    how.click()
    inspector.look("6-path-changed", alice)
    how.click()
    pair.unblock()

    # Reload: everything is there again
    alice.page.reload()
    bodies = alice.page.locator(".message .body")
    expect(bodies).to_have_count(6)
    expect(bodies.last).to_have_text("I noticed nothing but the picture.")
    expect(bodies.filter(has_text="pull the plug")).to_have_text("Now I pull the plug on the direct path.")
    expect(alice.page.locator(".chat-head")).to_contain_text(re.compile("Relayed|Direct"))
    inspector.look("7-reloaded", alice)

    # The rendezvous restarts: the chat does not need it
    pair.rendezvous.close()
    alice.sees("Can’t reach the rendezvous")
    alice.say("The rendezvous is gone, and we still talk.")
    alice.mark("we still talk", "read")
    inspector.look("8-no-rendezvous", alice)
    alice.go("#/you")
    alice.sees("Nobody can call you right now.")
    assert axe.violations(alice.page) == []
    alice.page.go_back()
    pair.rendezvous = pair.serve()
    alice.sees("Can be called", timeout=60_000)
    bob.sees("Can be called", timeout=60_000)

    # The other side goes away; what is written waits, also for its return
    pair.bob.leave()
    alice.sees("Not connected")
    expect(bob.page.locator(".banner")).to_contain_text("Punch does not answer")
    alice.say("You are away. This waits on my disk.")
    alice.mark("waits on my disk", "waiting")
    expect(alice.page.locator(".person .last")).to_contain_text("You: You are away.")
    inspector.look("9-away", alice)
    pair.bob.come_back()
    bob.sees("You are away. This waits on my disk.", timeout=90_000)
    alice.mark("waits on my disk", "delivered")
    expect(bob.page.locator(".badge")).to_have_text("1 unread")
    inspector.look("10-unread", bob)
    bob.page.locator(".person").click()
    alice.mark("waits on my disk", "read")
    bob.say("Back, and here it is.")
    alice.sees("Back, and here it is.")
    inspector.look("11-back", alice)

    # The end
    alice.page.get_by_role("button", name=re.compile("^Hang up: ")).click()
    alice.sees("Not connected")
    bob.sees("Not connected")
    inspector.look("12-hung-up", alice)

    assert not inspector.problems, "\n".join(inspector.problems)
    assert alice.complaints == []
    # Bob's page tried to reach a peer that had ended, and perhaps the next one, which did not know it yet.
    expected = re.compile(
        r"ERR_CONNECTION_REFUSED|/ws\?key=.* response code: 403$"
        r"|^The connection to ws://\S+ was interrupted while the page was loading\.$"
        r"|^Firefox can’t establish a connection to the server at ws://\S+\.$"
    )
    assert [each for each in bob.complaints if not expected.search(each)] == []


def exported_by(visitor: Visitor, button: Locator) -> str:
    """What a button saves as a file. Of downloads of Firefox, Playwright tells nothing."""
    if visitor.browser_name == "chromium":
        with visitor.page.expect_download() as download:
            button.click()
        return Path(download.value.path()).read_text()
    visitor.page.evaluate(
        """() => {
            const make = URL.createObjectURL;
            URL.createObjectURL = (blob) => ((window.made = blob), make.call(URL, blob));
        }"""
    )
    button.click()
    visitor.sees(re.compile("^Exported "))
    return str(visitor.page.evaluate("made.text()"))


def test_every_other_page(pair: BrowserPair, inspector: PageInspector) -> None:
    """Search, the network check, settings, dialogs and menus, in both sizes and themes, without a mouse."""
    pair.connect()
    alice, bob = pair.alice.visitor, pair.bob.visitor
    page = alice.page
    for number in range(3):
        alice.say(f"Message {number} about the weather in Łódź")
        alice.mark(f"Message {number}", "read")

    alice.go("#/")
    page.keyboard.press("Control+k")
    expect(page.locator("#find")).to_be_focused()
    page.keyboard.type("weather")
    expect(page.locator(".hit")).to_have_count(3)
    inspector.look("20-search", alice)
    page.keyboard.press("Control+k")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".hit").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".message.found-one")).to_have_count(1)
    page.keyboard.press("Control+k")
    page.keyboard.press("Escape")
    expect(page.locator("#find")).to_have_value("")

    alice.go("#/network")
    alice.sees("Checked at")
    alice.sees("Ways to the rendezvous")
    inspector.look("21-network", alice)

    alice.go("#/settings")
    expect(page.locator(".list li")).to_have_count(1)
    inspector.look("22-settings", alice)
    page.get_by_role("button", name="Dark", exact=True).click()
    expect(page.locator("body")).to_have_css("background-color", "rgb(16, 20, 18)")
    page.get_by_role("button", name="System", exact=True).click()
    expect(page.locator("body")).to_have_css("background-color", "rgb(246, 245, 241)")
    page.get_by_role("button", name=re.compile("^Name ")).click()
    expect(page.get_by_role("dialog").get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.type("Robert")
    inspector.look("23-name", alice)
    page.keyboard.press("Enter")
    expect(page.locator(".person .name")).to_have_text("Robert")
    expect(page.locator("dialog")).to_have_count(0)
    page.get_by_label("Keep messages", exact=True).select_option(label="For 30 days")
    expect(page.locator("dialog")).to_contain_text("This can’t be undone")
    inspector.look("24-confirm", alice)
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.get_by_label("Keep messages", exact=True)).to_have_value("null")
    exported = exported_by(alice, page.get_by_role("button", name="Export everything", exact=True))
    assert [json.loads(line)["text"] for line in exported.splitlines()] == [
        f"Message {each} about the weather in Łódź" for each in range(3)
    ]

    page.keyboard.press("Control+/")
    expect(page.locator("dialog kbd").first).to_be_visible()
    inspector.look("25-keyboard", alice)
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    page.keyboard.press("Alt+ArrowDown")
    expect(page.locator("h1.name")).to_have_text("Robert")
    more = page.get_by_role("button", name="More", exact=True)
    more.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem").first).to_be_focused()
    inspector.look("26-menu", alice)
    page.keyboard.press("Escape")
    expect(more).to_be_focused()

    # By the name that was given, and erased, blocked and forgotten
    page.get_by_role("button", name=re.compile("^Hang up: ")).click()
    alice.sees("Not connected")
    alice.go("#/you")
    box = page.get_by_label("Call somebody", exact=True)
    box.fill("nobody")
    box.press("Enter")
    expect(page.locator("#call-peer-problem")).to_contain_text(
        "neither a name in the address book nor a peer ID"
    )
    box.fill("robert")
    box.press("Enter")
    expect(page.locator("h1.name")).to_have_text("Robert")
    expect(page.locator(".note", has_text="Connected.")).to_have_count(2)
    page.get_by_role("button", name=re.compile("^Hang up: ")).click()
    expect(page.locator(".chat-head")).to_contain_text("Not connected")
    alice.call("Robert")
    expect(page.locator(".note", has_text="Connected.")).to_have_count(3)
    more.click()
    page.get_by_role("menuitem", name="Erase these messages", exact=True).click()
    page.get_by_role("button", name="Erase", exact=True).click()
    expect(page.locator(".message")).to_have_count(0)
    expect(page.locator("dialog")).to_have_count(0)
    more.click()
    page.get_by_role("menuitem", name="Block", exact=True).click()
    page.get_by_role("button", name="Block", exact=True).click()
    alice.sees("Blocked: nothing can be sent.")
    inspector.look("27-blocked", alice)
    bob.sees("Not connected")
    assert not inspector.problems, "\n".join(inspector.problems)
    assert alice.complaints == []
    assert bob.complaints == []


@pytest.mark.parametrize("name", EITHER)
def test_three_commands_lead_to_a_chat(tmp_path: Path, name: str) -> None:
    """`punch demo --web`: two addresses, a click, a yes, and two people talk."""
    demo = subprocess.Popen([PUNCH, "demo", "--web"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    try:
        urls: list[str] = []
        for line in demo.stdout:
            urls += re.findall(r"http://\S+", line)
            if "Ctrl-C" in line:
                break
        assert len(urls) == 2
        with playing() as playwright:
            browser = browser_in(name, playwright, [], tmp_path)
            alice, bob = (Visitor(browser, url) for url in urls)
            alice.page.locator("a.person", has_text="Bob").click()
            alice.page.get_by_role("button", name="Call: Bob", exact=True).click()
            bob.page.get_by_role("button", name="Accept", exact=True).click()
            alice.sees(DIRECT)
            alice.say("Three commands, and here we are.")
            bob.sees("here we are")
            alice.mark("here we are", "read")
            assert alice.complaints + bob.complaints == []
    finally:
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == -signal.SIGINT
