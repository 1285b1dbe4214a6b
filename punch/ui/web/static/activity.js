// What the node does now: files, links, and the services that others can open.

import { h, icon, replace } from "./dom.js";
import { Page } from "./pages.js";
import { stateOf } from "./store.js";
import { count, plain, visible } from "./text.js";
import { TransferList, stateText } from "./transfers.js";
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
    this.none = h("p", { class: "soft" }, "Nothing is sent or received here. Drop files onto a chat to send them. What punch send and punch receive do is shown here, too.");
    this.programs = h("ul", { class: "transfers", "aria-label": "Files of other programs", hidden: true });
    replace(this.inner, this.head("Files and services"), h("div", { class: "section" }, h("h2", {}, "Files"), this.none, this.transfers.element, this.programs), this.rest);
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
    this.none.hidden = !this.transfers.element.hidden || !this.programs.hidden;
  }

  async ask() {
    try {
      this.show(await this.store.ask("status"));
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
    }
  }

  show({ links, services = [], program_transfers: reports = [] }) {
    this.programs.hidden = reports.length === 0;
    replace(this.programs, reports.map((each) => this.report(each)));
    this.showNone();
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

  /** A transfer of another program, which stops it. */
  report({ program, peer, outgoing, stage, name, items, size, position }) {
    const title = items === 1 ? plain(name, 60) : `${plain(name, 60)} and ${count(items - 1, "more", "more")}`;
    const whom = `${outgoing ? "To" : "From"} ${this.store.nameOf(peer)}`;
    const text = "There is no link now; it is tried again.";
    const state = stateText({ stage, outgoing, position, size, text }, 0, this.store.person(peer).link?.dark);
    const bar = size ? h("progress", { "aria-label": `How much of ${title} is there`, max: size, value: Math.min(position, size) }) : null;
    return h("li", { class: "transfer" }, h("span", { class: "way", "aria-hidden": "true" }, icon(outgoing ? "upload" : "download")), h("div", { class: "two-lines" }, h("span", { class: "name", dir: "auto" }, title), h("span", { class: "state-line small" }, `${whom} · ${state} · ${plain(program, 40)}`), bar));
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
