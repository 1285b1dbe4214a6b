"""The page in real browsers: two people behind two NATs, each with Chromium in the peer's own namespace."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Playwright, expect

from punch.identity import Identity

from . import axe
from .browsers import DESKTOP, PHONE, Visitor, chromium_in, playing
from .needs import need, need_namespaces
from .netns import Host, Lab
from .processes import PUNCH, JSONProcess, Programs, programs
from .test_namespaces import SERVICE, two_homes

#: What opening the page may load, in bytes.
MAX_PAGE = 200_000

VIEWS = [(size, theme) for size in (DESKTOP, PHONE) for theme in ("light", "dark")]


class Person:
    """Somebody with a peer and a browser."""

    def __init__(self, story: Story, name: str, host: Host) -> None:
        self._story = story
        self._name = name
        self.host = host
        self.peer = self.start()
        self.url: str = self.peer.wait("web")["url"]
        self.chromium = chromium_in(story.playwright, host.prefix, story.directory)
        self.visitor = Visitor(self.chromium, self.url)
        self.page = self.visitor.page

    def start(self, *options: str) -> JSONProcess:
        """Start the peer, anew with the same identity after `leave`."""
        return self._story.running.peer(
            self._name,
            "--web",
            *options,
            "--rendezvous",
            self._story.address,
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


class Story:
    """Two people behind two kernel NATs, and a rendezvous between them."""

    def __init__(self, lab: Lab, running: Programs, directory: Path, playwright: Playwright) -> None:
        self.running = running
        self.directory = directory
        self.playwright = playwright
        self.service, alice, bob, _ = two_homes(lab)
        self.rendezvous = self.serve()
        self.address: str = self.rendezvous.wait("listening")["address"]
        self.alice = Person(self, "alice", alice)
        self.bob = Person(self, "bob", bob)
        (self.router,) = [host for host in lab.hosts if host.name.endswith("nat-a")]

    def serve(self) -> JSONProcess:
        """Start the rendezvous, with the key that it had before."""
        return self.running.rendezvous("--host", SERVICE, state="state-service", prefix=self.service.prefix)

    def block_direct_paths(self) -> None:
        """From now on Alice's router lets nothing through between the two homes; the relay is open."""
        self.router.nft(
            """
            table ip block {
                chain forward {
                    type filter hook forward priority -10;
                    ip daddr 198.51.100.12 drop
                    ip saddr 198.51.100.12 drop
                }
            }
            """
        )

    def unblock(self) -> None:
        self.router.run("nft", "delete", "table", "ip", "block")

    def connect(self) -> None:
        """Alice calls Bob, who accepts."""
        self.alice.visitor.call(self.bob.visitor.id)
        self.bob.page.get_by_role("button", name="Accept").click()
        self.alice.visitor.sees("Connected.")
        self.bob.visitor.sees("Connected.")


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    need_namespaces()
    need("chromium")
    with Lab() as lab, programs(tmp_path) as running, playing() as playwright:
        yield Story(lab, running, tmp_path, playwright)


class Album:
    """
    Looks at a page in both sizes and both themes: takes its picture, and checks what holds for every state.

    :param directory: where pictures are kept; None if nobody wants them.
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
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > size["width"]:
                self.problems.append(f"{where}: {width} px wide")
            if self.directory is not None:
                page.screenshot(path=str(self.directory / f"{name}-{size['width']}-{theme}.png"))
        visitor.show(DESKTOP, "light")
        page.wait_for_timeout(100)


@pytest.fixture
def album(request: pytest.FixtureRequest) -> Album:
    chosen = request.config.getoption("--screenshots")
    if chosen is not None:
        Path(chosen).mkdir(parents=True, exist_ok=True)
    return Album(None if chosen is None else Path(chosen))


def test_the_whole_story(story: Story, album: Album) -> None:
    """From a name to hanging up, and everything that may happen to a chat in between."""
    alice, bob = story.alice.visitor, story.bob.visitor
    bob_id = bob.id
    alice.sees("Can be called")
    bob.sees("Can be called")

    # A name
    alice.name("Alice")
    bob.name("Bob")
    expect(alice.page.locator(".me")).to_contain_text("Alice")
    expect(alice.page.locator(".notice")).to_have_count(0, timeout=10_000)
    album.look("1-welcome", alice)

    # A call, with the keyboard alone; the other side sees who it is
    alice.call(bob_id)
    card = bob.page.get_by_role("region", name="Incoming calls").locator(".call")
    expect(card).to_contain_text("Alice is calling")
    expect(card.locator(".id")).to_have_text(re.sub(r"(.{4})(?=.)", r"\1 ", alice.id))
    alice.page.go_back()
    alice.sees("Calling Bob" if alice.page.get_by_text("Calling Bob").count() else "Calling")
    expect(alice.page.locator(".scene")).to_be_visible()
    expect(bob.page.locator(".notice")).to_have_count(0, timeout=10_000)
    album.look("2-calling", alice)
    album.look("3-ringing", bob)

    # Accepted: the live picture, up to the path that is taken
    bob.page.keyboard.press("Alt+y")
    alice.sees("Connected. Direct, through the NATs")
    bob.sees("Connected. Direct, through the NATs")
    expect(alice.page.locator("h1.name")).to_have_text("Bob")
    expect(alice.page.locator("#way")).to_have_class("taken")
    expect(alice.page.locator(".scene .node.n-nat.used")).to_have_count(2)
    alice.page.locator(".picture summary").click()
    expect(alice.page.locator(".pairs tr.selected")).to_contain_text("taken")
    album.look("4-connected", alice)
    alice.page.locator(".picture summary").click()

    # Messages both ways, and how far they came
    alice.say("Hello Bob, can you read me?")
    alice.mark("Hello Bob", "read")
    bob.say("Loud and clear, Alice, and nobody else can.")
    bob.say("Have you seen the picture? That line is us.")
    bob.mark("That line is us", "read")
    alice.say("Straight through both NATs.\nThe rendezvous only introduced us.")
    alice.mark("only introduced us", "read")
    album.look("5-chat", alice)

    # The path changes, and nothing is lost
    story.block_direct_paths()
    alice.say("Now I pull the plug on the direct path.")
    alice.sees("The path changed. Through a relay")
    alice.mark("pull the plug", "read")
    expect(alice.page.locator(".scene .node.n-relay.used")).to_have_count(1)
    bob.say("I noticed nothing but the picture.")
    alice.sees("noticed nothing")
    alice.page.keyboard.press("Alt+p")
    alice.page.keyboard.press("Alt+p")  # to be seen on a phone as well
    album.look("6-path-changed", alice)
    story.unblock()

    # Reload: everything is there again
    alice.page.reload()
    alice.sees("noticed nothing")
    texts = alice.page.locator(".message .body").all_inner_texts()
    assert [text for text in texts if "pull the plug" in text] == ["Now I pull the plug on the direct path."]
    assert len(texts) == 6
    expect(alice.page.locator(".chat-head")).to_contain_text(re.compile("Relayed|Direct"))
    album.look("7-reloaded", alice)

    # The rendezvous restarts: the chat does not need it
    story.rendezvous.close()
    alice.sees("The rendezvous is not reached")
    alice.say("The rendezvous is gone, and we still talk.")
    alice.mark("we still talk", "read")
    album.look("8-no-rendezvous", alice)
    alice.page.evaluate("location.hash = '#/you'")
    alice.sees("Nobody can call you right now.")
    assert axe.violations(alice.page) == []
    alice.page.go_back()
    story.rendezvous = story.serve()
    alice.sees("Can be called", timeout=60_000)
    bob.sees("Can be called", timeout=60_000)

    # The other side goes away; what is written waits, also for its return
    story.bob.leave()
    alice.sees("Not connected")
    expect(bob.page.locator(".banner")).to_contain_text("Punch does not answer")
    alice.say("You are away. This waits on my disk.")
    alice.mark("waits on my disk", "waiting")
    expect(alice.page.locator(".person .last")).to_contain_text("You: You are away.")
    album.look("9-away", alice)
    story.bob.come_back()
    bob.sees("You are away. This waits on my disk.", timeout=90_000)
    alice.mark("waits on my disk", "delivered")
    expect(bob.page.locator(".badge")).to_have_text("1 unread")
    album.look("10-unread", bob)
    bob.page.locator(".person").click()
    alice.mark("waits on my disk", "read")
    bob.say("Back, and here it is.")
    alice.sees("Back, and here it is.")
    album.look("11-back", alice)

    # The end
    alice.page.get_by_role("button", name="Hang up").click()
    alice.sees("Not connected")
    bob.sees("Not connected")
    album.look("12-hung-up", alice)

    assert not album.problems, "\n".join(album.problems)
    assert alice.complaints == []
    # Bob's page tried to reach a peer that had ended.
    assert [each for each in bob.complaints if "ERR_CONNECTION_REFUSED" not in each] == []


def test_every_other_page(story: Story, album: Album) -> None:
    """Search, the network check, settings, dialogs and menus, in both sizes and themes, without a mouse."""
    story.connect()
    alice, bob = story.alice.visitor, story.bob.visitor
    page = alice.page
    for number in range(3):
        alice.say(f"Message {number} about the weather in Łódź")
        alice.mark(f"Message {number}", "read")

    page.evaluate("location.hash = '#/'")
    page.keyboard.press("Control+k")
    page.keyboard.type("weather")
    expect(page.locator(".hit")).to_have_count(3)
    album.look("20-search", alice)
    page.keyboard.press("Control+k")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".message.found-one")).to_have_count(1)
    page.keyboard.press("Control+k")
    page.keyboard.press("Escape")

    page.evaluate("location.hash = '#/network'")
    alice.sees("Checked at")
    alice.sees("Ways to the rendezvous")
    album.look("21-network", alice)

    page.evaluate("location.hash = '#/settings'")
    expect(page.locator(".list li")).to_have_count(1)
    album.look("22-settings", alice)
    page.get_by_role("button", name=re.compile("^Name ")).click()
    page.keyboard.type("Robert")
    album.look("23-name", alice)
    page.keyboard.press("Enter")
    expect(page.locator(".person .name")).to_have_text("Robert")
    expect(page.locator("dialog")).to_have_count(0)
    page.get_by_label("Keep messages").select_option(label="For 30 days")
    expect(page.locator("dialog")).to_contain_text("This can’t be undone")
    album.look("24-confirm", alice)
    page.keyboard.press("Escape")
    expect(page.get_by_label("Keep messages")).to_have_value("null")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export everything").click()
    lines = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert [line["text"] for line in lines] == [
        f"Message {each} about the weather in Łódź" for each in range(3)
    ]

    page.keyboard.press("Control+/")
    expect(page.locator("dialog kbd").first).to_be_visible()
    album.look("25-keyboard", alice)
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+ArrowDown")
    expect(page.locator("h1.name")).to_have_text("Robert")
    page.get_by_role("button", name="More").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem").first).to_be_focused()
    album.look("26-menu", alice)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="More")).to_be_focused()

    # By the name that was given, and erased, blocked and forgotten
    page.get_by_role("button", name="Hang up").click()
    alice.sees("Not connected")
    page.evaluate("location.hash = '#/you'")
    page.get_by_label("Call somebody").fill("nobody")
    page.keyboard.press("Enter")
    expect(page.locator("#call-peer-problem")).to_contain_text(
        "neither a name in the address book nor a peer ID"
    )
    page.get_by_label("Call somebody").fill("robert")
    page.keyboard.press("Enter")
    expect(page.locator("h1.name")).to_have_text("Robert")
    expect(page.locator(".note", has_text="Connected.")).to_have_count(2)
    page.get_by_role("button", name="Hang up").click()
    expect(page.locator(".chat-head")).to_contain_text("Not connected")
    alice.call("Robert")
    expect(page.locator(".note", has_text="Connected.")).to_have_count(3)
    page.get_by_role("button", name="More").click()
    page.get_by_role("menuitem", name="Erase these messages").click()
    page.get_by_role("button", name="Erase", exact=True).click()
    expect(page.locator(".message")).to_have_count(0)
    page.get_by_role("button", name="More").click()
    page.get_by_role("menuitem", name="Block").click()
    page.get_by_role("button", name="Block", exact=True).click()
    alice.sees("Blocked: nothing can be sent.")
    album.look("27-blocked", alice)
    bob.sees("Not connected")
    assert not album.problems, "\n".join(album.problems)
    assert alice.complaints == []
    assert bob.complaints == []


def test_what_a_stranger_says(story: Story) -> None:
    """Markup, controls and overrides from the other side are shown, not done; long texts stay in the box."""
    story.connect()
    alice, bob = story.alice.visitor, story.bob.visitor
    alice_id = alice.id
    page = alice.page
    page.locator(".person").click()

    def bob_says(text: str) -> None:
        story.bob.peer.command("send", peer=alice_id, text=text)
        story.bob.peer.wait("delivered")

    page.evaluate("window.harmed = false")
    markup = '<img src=x onerror="window.harmed=true"><script>window.harmed=true</script>&lt;b&gt;'
    bob_says(markup)
    expect(page.locator(".message .body").last).to_have_text(markup)
    bob_says("pay \u202eeb ot\u202c me \x1b[31mred\x07 \u2066x")
    last = page.locator(".message .body").last
    expect(last).to_have_text("pay \\u202eeb ot\\u202c me \\x1b[31mred\\x07 \\u2066x")
    assert last.locator(".escape").count() == 5
    bob_says("javascript:alert(1) https://evil.example/?q=1")
    assert page.locator(".message a").count() == 0
    bob_says("W" * 4000)
    bob_says("e" + "\u0301" * 5000)
    assert page.evaluate("document.documentElement.scrollWidth") <= DESKTOP["width"]
    assert page.evaluate("window.harmed") is False

    box = page.locator("#write")
    box.fill("x" * 65536)
    expect(page.locator("#hint")).to_contain_text("65,536 bytes; a message holds 16,384.")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    box.press("Enter")
    assert len(box.input_value()) == 65536
    page.get_by_role("button", name="Send it in 4 parts").click()
    expect(
        page.locator('.message.ours[data-state="delivered"], .message.ours[data-state="read"]')
    ).to_have_count(4)
    page.evaluate("navigator.clipboard.writeText('y'.repeat(10_000_000))")
    box.press("Control+v")
    expect(page.locator("#hint")).to_contain_text("10.0 MB of text, too much for a chat")
    assert box.input_value() == ""
    box.fill("   ")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    bob.page.locator(".person").click()
    expect(bob.page.locator(".message:not(.ours)")).to_have_count(4)

    # A name is anybody's choice, too.
    story.bob.peer.command("rename", name="<b>\u202eecilA" + "x" * 40)
    story.bob.peer.wait(("renamed", "result", "error"))
    assert page.evaluate("document.querySelectorAll('b').length") == 0

    # It does not make him one whom Alice has named herself, nor her.
    robin = str(Identity.generate(os.urandom).peer_id)
    story.alice.peer.command("name", peer=robin, name="Robin")
    story.alice.peer.command("name", peer=bob.id, name=None)
    for name in ("ROBIN", "You"):
        story.bob.peer.command("rename", name=name)
        expect(page.locator("h1.name")).to_have_text(f"{name} ({bob.id[:8]}…)")
    story.bob.peer.command("rename", name="Bob")
    expect(page.locator("h1.name")).to_have_text("Bob")
    assert alice.complaints == []


def test_tabs_and_strangers(story: Story) -> None:
    """A second tab shows the same; whoever has no key sees nothing; a new address lets another browser in."""
    story.connect()
    alice = story.alice.visitor
    first = alice.page
    second = alice.tab()
    second.goto(f"{origin(story.alice.url)}/#/chat/{story.bob.visitor.id}")
    alice.say("From one tab")
    expect(second.locator(".message .body").last).to_have_text("From one tab")
    second.locator("#write").fill("From the other")
    second.locator("#write").press("Enter")
    expect(first.locator(".message .body").last).to_have_text("From the other")
    second.goto(story.alice.url)
    expect(second.locator(".me")).to_contain_text("alice")

    stranger = story.alice.chromium.new_context().new_page()
    for url in (story.alice.url, origin(story.alice.url)):
        answer = stranger.goto(url)
        assert answer is not None
        assert answer.status == 403
        expect(stranger.locator("h1")).to_have_text("This browser has no key")
        assert axe.violations(stranger) == []

    second.goto(f"{origin(story.alice.url)}/#/settings")
    second.get_by_role("button", name="Make an address").click()
    expect(second.locator(".mono[role=status]")).to_contain_text("token=")
    stranger.goto(second.locator(".mono[role=status]").inner_text())
    expect(stranger.locator(".me")).to_contain_text("alice")
    assert "token" not in stranger.url
    assert "key" not in stranger.url

    # The cookie alone does not open the WebSocket.
    thief = story.alice.chromium.new_context()
    thief.add_cookies([dict(each) for each in first.context.cookies()])  # type: ignore[misc]
    page = thief.new_page()
    page.goto(origin(story.alice.url))
    expect(page.locator("h1")).to_have_text("This browser has no key")
    expect(page.locator("#app")).to_be_hidden()


def test_a_long_history(story: Story) -> None:
    """Scrolling back loads more and stays where it was; a hit of long ago is shown among its neighbours."""
    story.connect()
    page, alice_id = story.alice.page, story.alice.visitor.id
    for number in range(130):
        story.bob.peer.command("send", peer=alice_id, text=f"Message {number:03}")
    bodies = page.locator(".message .body")
    expect(page.locator(".badge")).to_have_text("130 unread", timeout=30_000)
    assert page.title().startswith("(130)")
    page.reload()
    page.locator("a.person").click()
    expect(bodies.last).to_have_text("Message 129")
    expect(bodies).to_have_count(50)
    expect(page.locator(".badge")).to_have_count(0)

    page.locator(".log").hover()
    first = bodies.first
    for _ in range(60):
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(50)
    expect(first).to_have_text("Message 000")
    expect(bodies).to_have_count(130)
    alike = bodies.all_inner_texts()
    assert alike == [f"Message {number:03}" for number in range(130)]
    in_view = page.get_by_text("Message 000")
    expect(in_view).to_be_in_viewport()
    story.bob.peer.command("send", peer=alice_id, text="While you read the past")
    expect(bodies.last).to_have_text("While you read the past")
    expect(in_view).to_be_in_viewport()
    expect(page.locator(".badge")).to_have_text("1 unread")
    assert axe.violations(page) == []
    page.get_by_role("button", name="1 new message below").click()
    expect(bodies.last).to_be_in_viewport()
    expect(page.locator(".badge")).to_have_count(0)

    page.reload()
    expect(bodies.last).to_have_text("While you read the past")
    page.keyboard.press("Control+k")
    page.keyboard.type("message 010")
    page.locator(".hit").click()
    expect(page.locator(".message.found-one")).to_have_text(re.compile("Message 010"))
    expect(page.locator(".message.found-one")).to_be_in_viewport()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Go to the newest messages").click()
    expect(bodies.last).to_be_in_viewport()
    expect(bodies.last).to_have_text("While you read the past")
    expect(page.locator(".badge")).to_have_count(0)
    assert story.alice.visitor.complaints == []


def test_a_connection_that_breaks(story: Story) -> None:
    """What was typed meanwhile is not lost, and the page comes back by itself."""
    story.connect()
    alice, page = story.alice.visitor, story.alice.page
    port = urlsplit(story.alice.url).port
    story.alice.host.nft(
        f"""
        table inet cut {{
            chain input {{
                type filter hook input priority 0;
                iifname "lo" tcp dport {port} reject with tcp reset
            }}
        }}
        """
    )
    box = page.locator("#write")
    box.fill("Into the void")
    box.press("Enter")
    expect(page.locator(".banner")).to_contain_text("Punch does not answer")
    expect(box).to_have_value("Into the void")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    assert axe.violations(page) == []
    story.alice.host.run("nft", "delete", "table", "inet", "cut")
    expect(page.locator(".banner")).to_have_count(0, timeout=20_000)
    box.press("Enter")
    alice.mark("Into the void", "read")
    story.bob.visitor.sees("Into the void")
    assert page.locator(".message").count() == 1

    # Only the answer is lost: the message was taken, and is not to be said twice.
    story.alice.host.nft(
        f"""
        table inet cut {{
            chain input {{
                type filter hook input priority 0;
                iifname "lo" tcp sport {port} reject with tcp reset
            }}
        }}
        """
    )
    box.fill("Once and no more")
    box.press("Enter")
    story.bob.visitor.sees("Once and no more")
    story.alice.host.run("nft", "delete", "table", "inet", "cut")
    alice.mark("Once and no more", "read")
    expect(box).to_have_value("")
    assert page.locator(".message").count() == 2


def test_what_the_page_loads(story: Story) -> None:
    """Under 200 KB, from its own origin alone; and it says what it does without JavaScript's help."""
    visitor = Visitor(story.alice.chromium, url := new_url(story))
    visitor.page.locator("#my-id").wait_for()
    visitor.page.wait_for_load_state("networkidle")
    here = urlsplit(url).netloc
    assert {urlsplit(request.url).netloc for request in visitor.requests} == {here}
    assert {urlsplit(each).netloc for each in visitor.sockets} == {here}
    total = sum(sum(size(request)) for request in visitor.requests)
    assert 50_000 < total < MAX_PAGE, total
    assert not [request.url for request in visitor.requests if request.failure]
    assert visitor.complaints == []


def size(request: Any) -> tuple[int, int]:
    """Bytes of an answer: head and body."""
    sizes = request.sizes()
    return sizes["responseHeadersSize"], sizes["responseBodySize"]


def origin(url: str) -> str:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def new_url(story: Story) -> str:
    """One more address of Alice's page."""
    story.alice.peer.command("web", request=1)
    url: str = story.alice.peer.wait("result")["url"]
    return url


def test_three_commands_lead_to_a_chat(tmp_path: Path) -> None:
    """`punch demo --web`: two addresses, a click, a yes, and two people talk."""
    need("chromium")
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
            chromium = chromium_in(playwright, [], tmp_path)
            alice, bob = (Visitor(chromium, url) for url in urls)
            alice.page.locator("a.person", has_text="Bob").click()
            alice.page.get_by_role("button", name="Call: Bob").click()
            bob.page.get_by_role("button", name="Accept").click()
            alice.sees("Connected. Direct")
            alice.say("Three commands, and here we are.")
            bob.sees("here we are")
            alice.mark("here we are", "read")
            assert alice.complaints + bob.complaints == []
    finally:
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == -signal.SIGINT
