"""What the page shows: dates, links, long words, a few colours, and that several tabs are one person's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from punch.ice.port_lease import MappingProtocol, PortMapping
from punch.natcheck.profile import Filtering
from punch.natcheck.report import FamilyReport, NetcheckReport, PathPolicy, RouterReport
from punch.node.causes import ControlProblem, ProblemCode
from punch.ui.json.events import netcheck_fields
from punch.wire.address import Address
from punch.wire.peers.nat_profile import Mapping as NatMapping
from punch.wire.peers.nat_profile import NatProfile, PortAssignment
from punch.wire.rendezvous_address import RendezvousAddress
from tests.web import axe
from tests.web.browsers import BOTH, DESKTOP, PHONE, ZOOMED, Visitor, layout_problems
from tests.web.web_pages import LinkedPages, PagePeer, linked, linked_pages

__all__ = ["linked", "linked_pages"]


def says(linked: LinkedPages, text: str) -> None:
    """Bob says something to Alice, and it has come."""
    linked.bob.ask("send", peer=linked.alice.id, text=text)
    linked.alice.peer.wait("message", where=lambda event: event["text"] == text)


def chat(linked: LinkedPages, visitor: Visitor) -> Page:
    """A person's page at the chat with Bob."""
    visitor.go(f"#/chat/{linked.bob.id}")
    expect(visitor.page.locator("h1.name")).to_have_text("bob")
    return visitor.page


@pytest.mark.parametrize("name", BOTH)
def test_days_pass(linked: LinkedPages, name: str) -> None:
    """Today is yesterday past midnight, has its year in another one, and is today in a clock set back."""
    says(linked, "Good morning")
    visitor = linked.visit(name, linked.alice)
    page = visitor.tab()
    page.clock.install()
    page.goto(f"{linked.alice.origin}/#/chat/{linked.bob.id}")
    day, when = page.locator(".day"), page.locator(".person .when")
    written = page.locator(".message time").get_attribute("datetime")
    assert written is not None
    written = written.replace("Z", "+00:00")
    year = written[:4]
    expect(day).to_have_text("Today")
    expect(when).to_have_text(re.compile(r"^\d\d:\d\d$"))
    page.clock.fast_forward("24:00:00")
    expect(day).to_have_text("Yesterday")
    expect(when).to_have_text("Yesterday")
    page.clock.fast_forward("48:00:00")
    expect(day).to_have_text(re.compile(r"^\w+day$"))
    page.clock.set_system_time(datetime.fromisoformat(written) + timedelta(days=400))
    expect(day).to_have_text(re.compile(rf"^\d+ \w+ {year}$"))
    expect(when).to_have_text(re.compile(rf"^\d+ \w+ {year}$"))
    page.clock.set_system_time(written)
    expect(day).to_have_text("Today")
    expect(when).to_have_text(re.compile(r"^\d\d:\d\d$"))
    assert visitor.complaints == []


def test_another_time_zone(linked: LinkedPages) -> None:
    """Times are those of the place where the machine is now."""
    says(linked, "What time is it there?")
    page = linked.browser("chromium").new_context(locale="en-GB").new_page()
    devtools = page.context.new_cdp_session(page)
    devtools.send("Emulation.setTimezoneOverride", {"timezoneId": "UTC"})
    page.goto(linked.alice.new_url())
    page.locator(".person").click()
    shown = page.locator(".message time")
    written = shown.get_attribute("datetime")
    assert written is not None
    hour = int(written[11:13])
    expect(shown).to_have_text(re.compile(f"^{hour:02}:"))
    devtools.send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Tokyo"})
    expect(shown).to_have_text(re.compile(f"^{(hour + 9) % 24:02}:"))


@pytest.mark.parametrize("name", BOTH)
def test_groups_and_order(linked: LinkedPages, name: str) -> None:
    """Several messages of one person have one time; what happened after them stands after them."""
    for number in range(3):
        says(linked, f"Message {number}")
    linked.alice.ask("send", peer=linked.bob.id, text="Mine")
    linked.alice.peer.wait("delivered")
    visitor = linked.visit(name, linked.alice)
    page = visitor.page
    # Before any of the messages is here
    visitor.go("#/settings")
    linked.alice.ask("hangup", peer=linked.bob.id)
    linked.alice.peer.wait("disconnected")
    linked.connect()
    chat(linked, visitor)
    expect(page.locator(".message .body")).to_have_count(4)
    expect(page.locator(".message time").filter(visible=True)).to_have_count(2)
    order = page.locator(".message .body, .note:not(.new)").all_inner_texts()
    assert order[:4] == ["Message 0", "Message 1", "Message 2", "Mine"]
    assert any(each.startswith("Connected.") for each in order[4:]), order

    # Connected, the picture is one line, which opens and closes.
    figure = page.locator("#picture")
    expect(figure).to_contain_text("Direct, on the same network")
    for size in (DESKTOP, PHONE):
        page.set_viewport_size({"width": size["width"], "height": size["height"]})
        box = figure.bounding_box()
        assert box is not None
        assert box["height"] < 48, size
        words = figure.locator(".words")
        assert words.evaluate("words => words.scrollWidth <= words.clientWidth"), size
        toggle = page.get_by_role("button", name="How you are connected", exact=True)
        toggle.click()
        expect(page.locator(".diagram")).to_be_visible()
        toggle.click()
        expect(page.locator(".diagram")).to_be_hidden()
        assert figure.is_visible()
    assert visitor.complaints == []


#: Texts, and the links in them: what is shown, and where it leads.
LINKS: list[tuple[str, list[tuple[str, str]]]] = [
    (
        "See https://example.com/a_(b)?c=d#e, or (http://example.org/).",
        [
            ("https://example.com/a_(b)?c=d#e", "https://example.com/a_(b)?c=d#e"),
            ("http://example.org/", "http://example.org/"),
        ],
    ),
    (
        '[this](https://example.com/x) <https://example.net> "https://example.org/y"!',
        [
            ("https://example.com/x", "https://example.com/x"),
            ("https://example.net", "https://example.net/"),
            ("https://example.org/y", "https://example.org/y"),
        ],
    ),
    ("https://аррle.com/login", [("https://xn--le-6kc8da.com/login", "https://xn--le-6kc8da.com/login")]),
    ("看https://例え.jp/道。", [("https://xn--r8jz45g.jp/道", "https://xn--r8jz45g.jp/%E9%81%93")]),
    (
        "ببین https://example.com/a، و https://example.com/b؟",
        [(f"https://example.com/{x}",) * 2 for x in "ab"],
    ),
    ("देखो https://example.com/x। ‹https://example.com/y›", [(f"https://example.com/{x}",) * 2 for x in "xy"]),
    (
        "https://fa.example/می\u200cخواهم",
        [
            (
                "https://fa.example/می\u200cخواهم",
                "https://fa.example/%D9%85%DB%8C%E2%80%8C%D8%AE%D9%88%D8%A7%D9%87%D9%85",
            )
        ],
    ),
    ("https://example.com/a\u200db", [("https://example.com/a", "https://example.com/a")]),
    ("HTTPS://EXAMPLE.COM/Path", [("https://example.com/Path", "https://example.com/Path")]),
    ("http://2130706433/x", [("http://127.0.0.1/x", "http://127.0.0.1/x")]),
    ("http://[2001:db8::1]:8080/", [("http://[2001:db8::1]:8080/", "http://[2001:db8::1]:8080/")]),
    ("https://bank.example@evil.example/ https://a:b@c.example/", []),
    ("javascript:alert(1) data:text/html,x file:///etc/passwd ftp://example.com vbscript:x", []),
    ("https:// http://. xhttps://example.com https:/example.com //example.com www.example.com", []),
    ("https://example.com/\u202egnp.exe", [("https://example.com/", "https://example.com/")]),
    ('https://example.com/"onclick="alert(1)', [("https://example.com/", "https://example.com/")]),
    ("https://example.com/<img/src=x/onerror=alert(1)>", [("https://example.com/", "https://example.com/")]),
]


@pytest.mark.parametrize("name", BOTH)
def test_links(linked: LinkedPages, name: str) -> None:
    """Only addresses of the web become links, they lead where they seem to, and tell nobody where from."""
    for text, _ in LINKS:
        says(linked, text)
    visitor = linked.visit(name, linked.alice)
    page = chat(linked, visitor)
    bodies = page.locator(".message .body")
    expect(bodies).to_have_count(len(LINKS))
    found: list[list[list[str]]] = bodies.evaluate_all(
        """bodies => bodies.map(body => [...body.querySelectorAll("a")].map(
            a => [a.textContent, a.href, a.rel, a.target, String(a.attributes.length)]))"""
    )
    for (text, expected), links in zip(LINKS, found, strict=True):
        assert [(each[0], each[1]) for each in links] == expected, text
        assert all(each[2:] == ["noopener noreferrer", "_blank", "4"] for each in links), text
    assert page.evaluate("document.querySelectorAll('.message img, .message script').length") == 0
    assert visitor.complaints == []


@pytest.mark.parametrize("name", BOTH)
def test_what_is_not_seen(linked: LinkedPages, name: str) -> None:
    """Hebrew is shown without marks and isolates, and an ID is found with what is unseen in it."""
    says(linked, "\u200fשלום, \u2067עולם\u2069 (42)!\u200f")
    visitor = linked.visit(name, linked.alice)
    page = chat(linked, visitor)
    body = page.locator(".message .body")
    expect(body).to_have_text("שלום, עולם (42)!")
    assert body.evaluate("body => /[\\u200e\\u200f\\u2066-\\u2069\\\\]/.test(body.textContent)") is False
    assert body.locator(".escape").count() == 0

    box, found = page.locator("#find"), page.locator("a.person")
    pasted = f"\ufeff{linked.bob.id[:28]}\u200b{linked.bob.id[28:]}\u2060\xad"
    box.evaluate(
        """(box, text) => {
            box.focus();
            const data = new DataTransfer();
            data.setData("text/plain", text);
            const event = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
            if (box.dispatchEvent(event)) document.execCommand("insertText", false, text);
        }""",
        pasted,
    )
    assert box.evaluate("box => box.value.includes('\u200b') || box.value.length === 56")
    expect(found).to_have_count(1)
    expect(page.locator("#side")).not_to_contain_text("typo")
    expect(page.locator("#side")).not_to_contain_text("An ID has")
    visitor.go("#/settings")
    box.press("Enter")
    expect(page).to_have_url(re.compile(f"#/chat/{linked.bob.id}$"))
    assert visitor.complaints == []


def overflowing(page: Page) -> list[str]:
    """Elements that scroll sideways though nobody expects it, or stand out of the window."""
    found: list[str] = page.evaluate(
        """() => {
            const what = (each) => `${each.tagName}.${each.className} "${each.textContent.slice(0, 30)}"`;
            const found = [];
            for (const each of document.querySelectorAll(
                "#app, #side, #main, .page, .log, .found, .chat, .card, dialog, .composer, .chat-head, .me," +
                ".pairs"
            )) {
                if (each.clientWidth && each.scrollWidth > each.clientWidth + 1) found.push(what(each));
            }
            const clipped = (each) => {
                for (let up = each; up && up.id !== "app"; up = up.parentElement) {
                    const { overflowX } = getComputedStyle(up);
                    if (overflowX !== "visible") return true;
                }
                return false;
            };
            for (const each of document.querySelectorAll("#app *, dialog *, #notices *")) {
                const { width, right, left } = each.getBoundingClientRect();
                const outside = width && (right > innerWidth + 1 || left < -1);
                if (outside && !clipped(each.parentElement)) found.push(what(each));
            }
            return found;
        }"""
    )
    return found


def colliding_labels(page: Page) -> list[str]:
    """Labels of the picture of a call that touch each other, or stand out of the window."""
    found: list[str] = page.evaluate(
        """() => {
            const labels = [...document.querySelectorAll(".diagram text")];
            const boxes = labels.map((each) => [each.textContent, each.getBoundingClientRect()]);
            const outside = ([, box]) => box.left < 0 || box.right > innerWidth;
            const found = boxes.filter(outside).map(([text]) => text);
            boxes.forEach(([text, box], index) => {
                for (const [other, its] of boxes.slice(index + 1)) {
                    const beside = box.right < its.left || its.right < box.left;
                    const above = box.bottom <= its.top + 6 || its.bottom <= box.top + 6;
                    if (!beside && !above) found.push(`${text} and ${other}`);
                }
            });
            return labels.length ? found : ["no labels"];
        }"""
    )
    return found


WIDE = "Ж" * 64
LONG = [
    "https://example.com/" + "x" * 1500,
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334" * 20,
    "a" * 56 * 10,
    "W" * 3000,
]


def netcheck_says(page: Page, answer: Callable[[], dict[str, Any]]) -> None:
    """From now on, a check of the network finds out what `answer` returns, and takes no time."""

    def between(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def from_page(text: str | bytes) -> None:
            command = json.loads(text)
            if command.get("command") == "netcheck":
                report = {**answer(), "event": "result", "command": "netcheck", "request": command["request"]}
                socket.send(json.dumps(report))
            else:
                server.send(text)

        socket.on_message(from_page)

    page.route_web_socket(re.compile("/ws"), between)


RENDEZVOUS = RendezvousAddress.parse("punch://rendezvous.example:7001")
STRICT = FamilyReport(
    udp=True,
    local_addresses=("192.168.1.2",),
    public_addresses=("203.0.113.7",),
    translated=True,
    mapping=frozenset({NatMapping.ADDRESS_AND_PORT_DEPENDENT}),
    filtering=frozenset({Filtering.ADDRESS_AND_PORT_DEPENDENT}),
    ports=PortAssignment.RANDOM,
    latency=0.012,
    profile=NatProfile(
        "203.0.113.7", frozenset({NatMapping.ADDRESS_AND_PORT_DEPENDENT}), PortAssignment.RANDOM
    ),
    router=RouterReport(),
)
MAPPED = RouterReport(
    PortMapping(Address("192.168.1.2", 40000), Address("203.0.113.7", 40000), MappingProtocol.UPNP), tcp=True
)
NETWORKS = [
    (
        NetcheckReport(str(RENDEZVOUS), STRICT),
        [
            "Direct links: with some people",
            "spraying if the other NAT has one port for all destinations or preserved ports",
            "a relay if it has sequential ports or random ports",
            "Routermaps no ports",
        ],
    ),
    (
        NetcheckReport(str(RENDEZVOUS), replace(STRICT, router=MAPPED)),
        [
            "Direct links: with everybody",
            "ICE, whatever the other NAT does",
            "maps UDP and TCP ports (UPnP): everybody should reach them",
            "and over TCP to those whose network lets only that through.",
        ],
    ),
    (
        NetcheckReport(
            str(RENDEZVOUS), replace(STRICT, policy=PathPolicy(direct=False)), policy=PathPolicy(direct=False)
        ),
        [
            "Relayed links, as you have set it",
            "All links take a relay (--relay only).",
            "a relay, whatever the",
        ],
    ),
    (
        NetcheckReport(str(RENDEZVOUS), FamilyReport(False, local_addresses=("192.168.1.2",), router=MAPPED)),
        [
            "Direct links: over TCP alone",
            "they get a direct path over TCP where the other network lets that through.",
            "maps UDP and TCP ports (UPnP)",
        ],
    ),
    (
        NetcheckReport(
            str(RENDEZVOUS),
            FamilyReport(None, local_addresses=("192.168.1.2",)),
            problem=ControlProblem(ProblemCode.REFUSED, RENDEZVOUS),
            captive_portal=True,
        ),
        [
            "Sign in to this network first",
            "A captive portal answers web requests: open any web page in a browser, and sign in to this "
            "network.",
            "unknown, nothing answers 192.168.1.2",
        ],
    ),
]
"""What a check of a network finds out, and what the page says of it."""


def test_networks(linked: LinkedPages) -> None:
    """By what direct links come about, what the router maps, and a captive portal; on a phone, too."""
    visitor = linked.visit("chromium", linked.alice)
    page = visitor.tab()
    reports = [report for report, _ in NETWORKS]
    netcheck_says(page, lambda: netcheck_fields(reports.pop(0)))
    page.goto(f"{linked.alice.origin}/#/network")
    shown = page.locator("main")
    problems: list[str] = []
    for _, sentences in NETWORKS:
        for sentence in sentences:
            expect(shown).to_contain_text(sentence)
        lines = page.locator(".verdict li, .verdict p").all_inner_texts()
        assert len(lines) == len(set(lines))
        for size in (DESKTOP, PHONE):
            problems += layout_problems(page, [size])
            problems += overflowing(page)
        if reports:
            page.get_by_role("button", name="Check again").click()
    assert problems == []
    assert visitor.complaints == []


@pytest.mark.parametrize("name", BOTH)
def test_long_words(linked: LinkedPages, name: str) -> None:
    """IDs, addresses, names of 64 wide letters and URLs stay in their places, on a phone and enlarged."""
    for text in LONG:
        says(linked, text)
    address = "[2001:0db8:85a3:1111:2222:8a2e:0370:7334]:65535"

    def answer() -> dict[str, Any]:
        family = [{"term": "address", "texts": [f"{address}, seen as {address}, {address} and {address}"]}]
        return {
            "problem": "x" * 300,
            "conclusions": ["y" * 300],
            "rendezvous": f"punch://{'sub.' * 30}example.com:7001/{'p' * 52}",
            "details": {
                "headline": "It is not known who can be reached directly",
                "good": False,
                "ipv4": family,
                "ipv6": [*family, {"term": "router", "texts": ["z" * 200, "a relay over TLS"]}],
                "transports": [{"term": "a relay over TLS", "works": True}],
            },
        }

    visitor = linked.visit(name, linked.alice)
    page = visitor.tab()
    netcheck_says(page, answer)
    linked.alice.ask("name", peer=linked.bob.id, name=WIDE)
    linked.alice.ask("rename", name=WIDE)
    problems: list[str] = []

    def look(what: str) -> None:
        for size in (DESKTOP, PHONE, ZOOMED):
            problems.extend(f"{what}: {each}" for each in layout_problems(page, [size]))
            problems.extend(f"{what}, {size['width']} px: {each}" for each in overflowing(page))

    try:
        page.goto(f"{linked.alice.origin}/#/network")
        expect(page.get_by_text("Checked at")).to_be_visible()
        look("network")
        for where in ("you", "settings", f"chat/{linked.bob.id}", ""):
            page.evaluate("where => (location.hash = `#/${where}`)", where)
            page.wait_for_timeout(100)
            look(where)
        page.evaluate("where => (location.hash = `#/chat/${where}`)", linked.bob.id)
        expect(page.locator(".message")).to_have_count(len(LONG))
        page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
        state = page.locator(".chat-head .state-line > span:last-child")
        assert state.evaluate(
            """state => {
                state.textContent = "Not reached: tried again, and 12 messages wait until then";
                return state.scrollWidth <= state.clientWidth;
            }"""
        )
        page.get_by_role("button", name="How you are connected", exact=True).click()
        page.locator("#picture summary").click()
        for size in (DESKTOP, PHONE):
            page.set_viewport_size({"width": size["width"], "height": size["height"]})
            page.wait_for_timeout(100)
            problems.extend(f"picture, {size['width']} px: {each}" for each in colliding_labels(page))
        look("picture")
        page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
        page.get_by_role("button", name="How you are connected", exact=True).click()
        page.get_by_role("button", name="More", exact=True).click()
        look("menu")
        page.get_by_role("menuitem", name="Show the ID", exact=True).click()
        look("dialog")
        page.keyboard.press("Escape")
        page.evaluate("location.hash = '#/'")
        page.locator("#find").fill("x" * 300)
        look("search")
        page.locator("#find").fill("8a2e")
        expect(page.locator(".hit")).to_have_count(1)
        look("hits")
    finally:
        linked.alice.ask("name", peer=linked.bob.id, name="bob")
        linked.alice.ask("rename", name="alice")
    assert problems == []


@pytest.mark.parametrize("name", BOTH)
def test_few_colours(linked: LinkedPages, name: str) -> None:
    """In forced colours, what is chosen, who says what and how somebody is can be told apart."""
    says(linked, "Theirs")
    linked.alice.ask("send", peer=linked.bob.id, text="Ours")
    visitor = linked.visit(name, linked.alice, forced_colours=True)
    page = chat(linked, visitor)
    expect(page.locator(".message")).to_have_count(2)
    looks = """elements => elements.map(each => {
        const style = getComputedStyle(each);
        const names = ["backgroundColor", "backgroundImage", "color", "borderRightWidth", "borderStyle"];
        return names.map(name => style[name]).join(" ");
    })"""

    def look(selector: str) -> Any:
        return page.locator(selector).evaluate_all(looks)

    theirs, ours = look(".message .body")
    assert theirs != ours
    assert "solid" in theirs
    (current,) = look(".person")
    visitor.go("#/settings")
    (other,) = look(".person")
    assert current != other
    pressed = look('.segments button[aria-pressed="true"]')
    free = set(look('.segments button[aria-pressed="false"]'))
    assert not free & set(pressed)
    page.evaluate(
        """for (const kind of ["on", "wait", "off"]) {
            const dot = document.createElement("span");
            dot.className = `dot ${kind} tried`;
            document.querySelector(".me").append(dot);
        }"""
    )
    dots = look(".tried")
    assert len(set(dots)) == 3, dots
    page_colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for dot in dots:
        assert not dot.startswith(page_colour) or "solid" in dot
    # All text has enough contrast, what is found too; as far as the system's own colours have it.
    page.locator("#find").fill("theirs")
    expect(page.locator(".hit mark")).to_have_text("Theirs")
    if name == "chromium":
        assert axe.violations(page) == []
    # A code is read by a camera: dark on light, whatever the colours.
    visitor.go("#/you")
    assert page.locator(".qr").evaluate("qr => getComputedStyle(qr).backgroundColor") == "rgb(255, 255, 255)"
    assert visitor.complaints == []


@pytest.mark.parametrize("name", BOTH)
def test_searching(linked: LinkedPages, name: str) -> None:
    """One letter that means a word finds it; what is pasted is called what it is."""
    for text in ("山に登る", "ひらがな", "한국어", "an ordinary x"):
        says(linked, text)
    visitor = linked.visit(name, linked.alice)
    page = visitor.page
    find = page.locator("#find")
    for letter in ("山", "登", "ひ", "국"):
        find.fill(letter)
        expect(page.locator(".hit")).to_have_count(1)
        expect(page.locator(".hit mark")).to_have_text(letter)
    find.fill("x")
    expect(page.locator(".hit")).to_have_count(0)
    find.fill("ordinary")
    expect(page.locator(".hit")).to_have_count(1)
    problem = page.locator(".found .problem")
    for pasted, said in (
        ("https://example.com/a/very/long/address/that/nobody/takes/for/an/id", "a web address"),
        (
            "punch://rendezvous.example:7001/rifj3epgvfkankcnrgydwwxych7f43mxvd5q2jpovu3nz7grs54xurqc",
            "rendezvous",
        ),
        (linked.bob.url, "page of Punch"),
        ("somebody@example.com", "e-mail"),
        (linked.bob.id[:-1], "this has 55"),
        (linked.bob.id + "a", "this has 57"),
    ):
        find.fill(pasted)
        expect(problem).to_contain_text(said)
        if "this has" not in said:
            expect(problem).not_to_contain_text("this has")
    find.fill("a long sentence of somebody who looks for something that was said")
    expect(page.get_by_text("Nothing found")).to_be_visible()
    expect(problem).to_have_count(0)
    visitor.go("#/you")
    page.get_by_label("Call somebody", exact=True).fill("https://example.com/")
    page.get_by_label("Call somebody", exact=True).press("Enter")
    expect(page.locator("#call-peer-problem")).to_contain_text("a web address")
    assert visitor.complaints == []


ENGLAND = "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbeng") + "\U000e007f"


@pytest.mark.parametrize("name", BOTH)
def test_cut_texts(linked: LinkedPages, name: str) -> None:
    """Lists show beginnings and parts of messages: nothing is cut in two that is drawn as one."""
    visitor = linked.visit(name, linked.alice)
    page = chat(linked, visitor)
    last, hit = page.locator(".person .last"), page.locator(".hit .quoted")
    for number, one in enumerate((ENGLAND, "👩\u200d👩\u200d👧", "👍🏽", "e\u0301")):
        half = len(one) // 2
        word = f"needle{number}"
        # One of them lies across each place where a text of these lengths could be cut.
        says(linked, f"{'a' * (119 - half)}{one}{word}{'b' * (260 - half)}{one}{'c' * 900}")
        expect(last).to_have_text(re.compile(f"^a{{100,119}}({one})?…$"))
        page.locator("#find").fill(word)
        expect(hit).to_have_count(1)
        shown = hit.inner_text()
        assert word in shown
        assert re.fullmatch(f"…a*{one}{word}b*({one})?…", shown), ascii(shown)
        page.locator("#find").fill("")
    # Words are marked as they are written, though small letters may be more in number.
    says(linked, "İİİİ then Straße, needle9")
    page.locator("#find").fill("needle9")
    expect(hit.locator("mark")).to_have_text("needle9")
    expect(page.locator(".found .escape")).to_have_count(0)
    assert visitor.complaints == []


@pytest.mark.parametrize("name", BOTH)
def test_too_many_tabs(linked: LinkedPages, name: str) -> None:
    """One more page than there may be says so, and which to close, and opens when there is room."""
    visitor = linked.visit(name, linked.alice)
    first = chat(linked, visitor)
    first.evaluate(
        """async () => {
            const url = `ws://${location.host}/ws?key=${localStorage.getItem("punch-key")}`;
            window.held = Array.from({ length: 31 }, () => new WebSocket(url));
            await Promise.all(held.map(each => new Promise(open => each.addEventListener("open", open))));
        }"""
    )
    one_more = visitor.tab()
    one_more.goto(linked.alice.origin)
    expect(one_more.locator("h1").filter(visible=True)).to_have_text("There are too many pages")
    expect(one_more.locator("main.card")).to_contain_text("bob · Punch")
    assert layout_problems(one_more) == []
    one_more.set_viewport_size({"width": 1180, "height": 800})
    first.evaluate("held[0].close()")
    expect(one_more.locator(".me")).to_be_visible()
    expect(one_more.locator("main.card")).to_have_count(0)
    first.evaluate("held.forEach(each => each.close())")


@pytest.mark.parametrize("name", BOTH)
def test_tabs_speak_with_one_voice(linked: LinkedPages, name: str) -> None:
    """What one tab shows, no other announces; what none shows is announced once."""
    visitor = linked.visit(name, linked.alice)
    tabs = [visitor.page, visitor.tab()]
    tabs[1].goto(f"{linked.alice.origin}/#/settings")
    expect(tabs[1].get_by_role("heading", name="Settings", exact=True)).to_be_visible()
    visitor.page.bring_to_front()
    chat(linked, visitor)

    def announced() -> list[str]:
        return [tab.locator("#announce").inner_text() for tab in tabs]

    says(linked, "Seen at once")
    for tab in tabs:
        expect(tab.locator(".person .last")).to_have_text("Seen at once")
    expect(tabs[1].locator(".badge")).to_have_count(0)
    assert announced() == ["", ""]
    visitor.go("#/settings")
    says(linked, "Seen by nobody")
    for tab in tabs:
        expect(tab.locator(".badge")).to_have_text("1 unread")
    assert sorted(announced()) == ["", "New message from bob"]
    assert visitor.complaints == []


@pytest.mark.parametrize("name", BOTH)
def test_what_a_path_has_cost(linked: LinkedPages, name: str) -> None:
    """The details of the picture say what was sent for a direct path, as `status` does."""
    # Not Alice: who has called Bob before sends nothing to addresses that have not answered.
    carol = PagePeer(linked.running, f"carol-{name}", linked.address)
    carol.ask("call", peer=linked.bob.id)
    carol.peer.wait("connected")
    page = chat(linked, linked.visit(name, carol))
    page.get_by_role("button", name="How you are connected").click()
    page.locator("#picture summary").click()
    (link,) = carol.ask("status")["links"]
    sent = link["techniques"]["ice"]
    assert sent["packets"] > 0
    words = f"connectivity checks: {sent['packets']} packets, {sent['bytes']:,} bytes."
    expect(page.locator("#picture figcaption p")).to_have_text(f"Sent for a direct path by {words}")
