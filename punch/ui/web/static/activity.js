// What the node does now: files, links, and the services that others can open.

import { h, replace } from "./dom.js";
import { Page } from "./pages.js";
import { stateOf } from "./store.js";
import { count, plain, visible } from "./text.js";
import { TransferList } from "./transfers.js";
import { CommandError } from "./connection.js";

const WAIT = 300;

/** Milliseconds after which it is asked again: other programs open streams and serve without an event. */
const AGAIN = 3000;

/** Events after which links or services may be others. */
const CHANGES = new Set(["snapshot", "connected", "disconnected", "path", "path-lost", "contact", "forgotten"]);

const SERVICES = { "chat/2": "The chat", "files/1": "Files: you are asked about each offer, except those of peers with this grant" };

export class ActivityPage extends Page {
  constructor(app) {
    super(app);
    this.transfers = new TransferList(app);
    this.rest = h("div", { class: "sections" });
    this.none = h("p", { class: "soft" }, "Nothing is sent or received here. Drop files onto a chat to send them. The commands punch send and punch receive show their transfers themselves.");
    replace(this.inner, this.head("Files and services"), h("div", { class: "section" }, h("h2", {}, "Files"), this.none, this.transfers.element), this.rest);
    this.showNone();
    this.ask();
    this.again = setInterval(() => this.askAgain(), AGAIN);
  }

  /** Not while somebody is at a link of the list, since its element is replaced. */
  askAgain() {
    if (!document.hidden && !this.rest.contains(document.activeElement)) this.ask();
  }

  close() {
    super.close();
    clearTimeout(this.timer);
    clearInterval(this.again);
  }

  changed(event) {
    this.transfers.changed(event);
    this.showNone();
    if (CHANGES.has(event.event)) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.ask(), WAIT);
    }
  }

  showNone() {
    this.none.hidden = !this.transfers.element.hidden;
  }

  async ask() {
    try {
      this.show(await this.store.ask("status"));
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
    }
  }

  show({ links, services = [] }) {
    replace(
      this.rest,
      h(
        "div",
        { class: "section" },
        h("h2", {}, "Links"),
        links.length ? h("ul", { class: "list" }, links.map((link) => this.link(link))) : h("p", { class: "soft" }, "Nobody is connected."),
      ),
      h(
        "div",
        { class: "section" },
        h("h2", {}, "Services"),
        h("p", { class: "soft small" }, "What others can open on a link, and who. Other programs of yours add services to the same node: punch receive, punch expose, punch pipe."),
        services.length > 0 && h("ul", { class: "list" }, services.map((each) => this.service(each))),
      ),
    );
  }

  service({ service, allow }) {
    return h("li", {}, h("span", { class: "two-lines" }, h("b", { class: "mono" }, plain(service, 80)), h("span", { class: "state-line" }, h("span", {}, SERVICES[service] ?? this.allowed(allow)))));
  }

  link(link) {
    const { store } = this;
    const name = store.nameOf(link.peer);
    const state = stateOf({ ...store.person(link.peer), link });
    const offers = link.post_quantum_offers ? " and offers" : "";
    const keys = link.post_quantum ? `post-quantum keys${offers}` : "keys of X25519";
    return h(
      "li",
      {},
      h("span", { class: `dot ${state.kind}` }),
      h("span", { class: "two-lines" }, h("a", { class: "name", dir: "auto", href: `#/chat/${link.peer}` }, visible(name)), h("span", { class: "state-line" }, h("span", {}, [state.text, link.streams === undefined ? null : count(link.streams, "stream"), keys].filter(Boolean).join(" · ")))),
    );
  }

  allowed(allow) {
    if (allow === "anyone") return "Everybody with a link";
    if (allow === "granted" || allow === null) return "Those to whom you have granted it";
    return `Only ${allow.map((peer) => this.store.nameOf(peer)).join(", ")}`;
  }
}
