// The other pages: you and your ID, the network check, the settings.

import { CodesCard } from "./codes.js";
import { h, icon, iconButton, replace } from "./dom.js";
import { setTheme, themeNow, THEMES } from "./sidebar.js";
import { asId, count, grouped, milliseconds, notAnId, plain, visible } from "./text.js";
import { timeOf } from "./times.js";
import { avatar, confirm, copy, nameElement, notice, qrCode } from "./widgets.js";

export class Page {
  constructor(app) {
    this.app = app;
    this.store = app.store;
    this.inner = h("div", { class: "inner" });
    this.element = h("section", { class: "page" }, this.inner);
    this.stop = this.store.watch((event) => this.changed(event));
  }

  close() {
    this.stop();
  }

  changed() {}

  focus() {
    this.app.main.focus();
  }

  head(title) {
    return h("div", { class: "page-head" }, iconButton("back", "Back to the list", () => this.app.go("/"), { class: "icon-button back" }), h("h1", {}, title));
  }
}

/** A form of one line, with an error message below. */
function lineForm({ id, label, value = "", placeholder = "", action, hint = "", run, attributes = {} }) {
  const problem = h("p", { class: "problem", role: "alert", id: `${id}-problem` });
  const field = h("input", { class: "field", id, value, placeholder, autocomplete: "off", spellcheck: "false", "aria-describedby": `${id}-problem`, ...attributes });
  const submit = async (event) => {
    event.preventDefault();
    problem.textContent = "";
    try {
      await run(field.value, field);
    } catch (error) {
      problem.textContent = error.message;
      field.focus();
    }
  };
  return h(
    "form",
    { onsubmit: submit },
    h("label", { class: "label", for: id }, label),
    h("div", { class: "row" }, field, h("button", { class: "button" }, action)),
    hint && h("p", { class: "soft small" }, hint),
    problem,
  );
}

/** The page with your name, your ID, and the first call. */
export class YouPage extends Page {
  constructor(app) {
    super(app);
    this.codes = new CodesCard(app);
    this.build();
  }

  close() {
    super.close();
    this.codes.close();
  }

  changed(event) {
    if (event.event === "renamed" && document.activeElement?.id !== "my-name") this.build();
    if (event.event === "snapshot") this.build();
    this.codes.changed(event);
    if (event.event === "registered" || event.event === "unregistered") this.showTrouble();
  }

  /** Why nobody can call. */
  showTrouble() {
    const { event, text } = this.store.registration;
    replace(this.trouble, event === "unregistered" && text && h("p", { class: "trouble" }, h("b", {}, "Nobody can call you right now. "), plain(text)));
  }

  build() {
    const { me } = this.store;
    this.trouble = h("div", { role: "status" });
    this.showTrouble();
    const fresh = this.store.chats().length === 0;
    const name = lineForm({
      id: "my-name",
      label: "Your name, as others see it",
      value: me.name,
      action: "Save",
      attributes: { maxlength: 64 },
      run: async (text) => {
        await this.store.ask("rename", { name: text.trim() });
        notice("Others see your new name from now on");
      },
    });
    const call = lineForm({
      id: "call-peer",
      label: "Call somebody",
      placeholder: "Their ID, or a name you gave",
      action: "Call",
      attributes: { list: "known-names" },
      run: async (text) => {
        const other = asId(text) ? null : notAnId(text);
        if (other) throw new Error(other);
        const peer = asId(text) ?? this.store.named(text)?.peer ?? text.trim();
        await this.app.call(peer, { strict: true });
      },
    });
    call.append(h("datalist", { id: "known-names" }, this.store.chats().map((person) => h("option", { value: person.petname || person.name }))));
    replace(
      this.inner,
      this.head(fresh ? "Welcome to Punch" : "You"),
      fresh && h("p", { class: "lead" }, "Talk directly, from this machine to theirs, with nobody in between. Choose a name; then one of you calls the other."),
      this.trouble,
      h("div", { class: "card" }, name),
      this.codes.element,
      h(
        "div",
        { class: "card identity" },
        h(
          "div",
          {},
          h("h2", {}, "Your ID"),
          h("p", { class: "soft small" }, "Give it to the people you want to talk to. It is no secret, and nobody else can have it."),
          h("span", { class: "id", id: "my-id" }, grouped(me.id)),
          h("button", { type: "button", class: "button main", onclick: () => copy(me.id, "Your ID was") }, icon("copy"), "Copy the ID"),
        ),
        qrCode(me.qr, "Your ID as a QR code"),
      ),
      h("div", { class: "card" }, call),
    );
  }
}

const capitalized = (text) => text[0].toUpperCase() + text.slice(1);

let lastReport = null;

/** The report of a network check as text. */
export class NetworkPage extends Page {
  constructor(app) {
    super(app);
    this.build();
    if (!lastReport) this.run();
  }

  async run() {
    this.running = true;
    this.problem = null;
    this.build();
    try {
      lastReport = { ...(await this.store.ask("netcheck")), at: Date.now() };
    } catch (error) {
      this.problem = error.message;
    }
    this.running = false;
    this.build();
  }

  build() {
    replace(
      this.inner,
      this.head("Your network"),
      h("p", { class: "lead" }, "What lies between you and the internet decides who can be reached directly, and when a relay is needed."),
      h(
        "div",
        { class: "row", role: "status" },
        h("button", { type: "button", class: "button", disabled: this.running, onclick: () => this.run() }, lastReport ? "Check again" : "Check"),
        this.running && [h("span", { class: "busy", "aria-hidden": "true" }), h("span", { class: "soft" }, "Checking. This takes a few seconds.")],
        !this.running && lastReport && h("span", { class: "soft small" }, `Checked at ${timeOf(lastReport.at / 1000)}`),
      ),
      this.problem && h("p", { class: "problem", role: "alert" }, this.problem),
      lastReport && this.report(lastReport),
    );
  }

  report(report) {
    const { details } = report;
    const conclusions = report.conclusions ?? [];
    const problem = conclusions.includes(report.problem) ? null : report.problem;
    return [
      h(
        "div",
        { class: `card verdict${details.good ? "" : " bad"}` },
        icon(details.good ? "check" : "network"),
        h("div", {}, h("h2", {}, details.headline), h("ul", {}, conclusions.map((text) => h("li", {}, plain(text)))), problem && h("p", {}, plain(problem))),
      ),
      h("div", { class: "two-cards" }, this.family("IPv4", details.ipv4), this.family("IPv6", details.ipv6)),
      h(
        "div",
        { class: "card" },
        h("h2", {}, "Ways to the rendezvous"),
        h("p", { class: "soft small mono" }, plain(report.rendezvous ?? "")),
        h(
          "dl",
          { class: "facts" },
          details.transports.map(({ term, works }) => [h("dt", {}, term), h("dd", { class: works ? "good" : "bad" }, works ? "Works" : "Does not work")]),
          report.control_latency !== null && report.control_latency !== undefined && [h("dt", {}, "There and back"), h("dd", {}, milliseconds(report.control_latency))],
        ),
      ),
    ];
  }

  family(name, facts) {
    return h(
      "div",
      { class: "card" },
      h("h2", {}, name),
      h(
        "dl",
        { class: "facts" },
        facts.map(({ term, texts }) => [h("dt", {}, capitalized(term)), h("dd", {}, texts.map((text) => h("div", {}, plain(text))))]),
      ),
    );
  }
}

const KEEP = [
  [null, "For ever"],
  [365, "For a year"],
  [90, "For 90 days"],
  [30, "For 30 days"],
  [7, "For a week"],
  [1, "For a day"],
];

/** Settings and the address book. */
export class SettingsPage extends Page {
  constructor(app) {
    super(app);
    this.build();
  }

  changed(event) {
    if (["contact", "forgotten", "snapshot", "renamed", "erased"].includes(event.event)) this.build();
  }

  build() {
    const { store, app } = this;
    const days = store.retention;
    const choices = KEEP.some(([each]) => each === days) ? KEEP : [...KEEP, [days, `For ${count(days, "day")}`]];
    const known = [...store.people.values()]
      .filter((person) => person.known || person.petname || person.blocked)
      .sort((one, other) => store.nameOf(one.peer).localeCompare(store.nameOf(other.peer)));
    const focused = document.activeElement?.dataset?.key;
    replace(
      this.inner,
      this.head("Settings"),
      h(
        "div",
        { class: "section" },
        h("h2", { id: "look" }, "Appearance"),
        h(
          "div",
          {},
          h(
            "div",
            { class: "segments", role: "group", "aria-labelledby": "look" },
            Object.entries(THEMES).map(([theme, [name, label]]) =>
              h("button", { type: "button", "data-key": `theme-${theme}`, "aria-pressed": String(themeNow() === theme), onclick: () => (setTheme(theme), this.build()) }, icon(name), label),
            ),
          ),
        ),
      ),
      "Notification" in window &&
        h(
          "div",
          { class: "section" },
          h("h2", {}, "Notifications"),
          h("p", { class: "soft small" }, "When this page is in the background, your system can tell you of messages and calls."),
          h("div", {}, this.notifications()),
        ),
      h(
        "div",
        { class: "section" },
        h("h2", {}, "Address book"),
        known.length
          ? h("ul", { class: "list" }, known.map((person) => this.entry(person)))
          : h("p", { class: "soft" }, "People whom you call or accept are kept here. There is nobody yet."),
      ),
      h(
        "div",
        { class: "section" },
        h("h2", {}, "History"),
        h(
          "div",
          { class: "row" },
          h("label", { for: "keep" }, "Keep messages"),
          h(
            "select",
            { class: "field", id: "keep", onchange: (event) => this.retain(event.target) },
            choices.map(([each, label]) => h("option", { value: String(each), selected: each === days }, label)),
          ),
        ),
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", class: "button", onclick: () => app.export(null) }, "Export everything"),
          h("button", { type: "button", class: "button danger", onclick: () => this.erase() }, "Erase everything"),
        ),
      ),
      h(
        "div",
        { class: "section" },
        h("h2", {}, "Another browser"),
        h("p", { class: "soft small" }, "An address that lets one more browser on this machine in, once."),
        h("div", { class: "row" }, h("button", { type: "button", class: "button", onclick: () => this.another() }, "Make an address"), (this.address = h("span", { class: "mono small", role: "status" }))),
      ),
      h(
        "div",
        { class: "section" },
        h("h2", {}, "Punch"),
        h("p", { class: "soft small" }, `Version ${plain(store.me.version)}. Ending it hangs up, and this page stops working until it is started again.`),
        h("div", {}, h("button", { type: "button", class: "button danger", onclick: () => this.quit() }, "End Punch")),
      ),
    );
    if (focused) this.inner.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  notifications() {
    const { permission } = Notification;
    if (permission === "denied") return h("p", { class: "soft" }, "The browser does not allow them for this page.");
    const on = permission === "granted" && localStorage.getItem("punch-notify") === "yes";
    return h(
      "button",
      {
        type: "button",
        class: "button",
        "data-key": "notify",
        "aria-pressed": String(on),
        onclick: async () => {
          const allowed = on || (await Notification.requestPermission()) === "granted";
          localStorage.setItem("punch-notify", allowed && !on ? "yes" : "no");
          this.build();
        },
      },
      on ? "Turn off" : "Turn on",
    );
  }

  entry(person) {
    const { store, app } = this;
    const name = store.nameOf(person.peer);
    const claims = person.petname && person.name && person.petname !== person.name ? h("span", { class: "small soft" }, "Calls itself ", nameElement(plain(person.name, 40))) : null;
    const services = person.services.length ? h("span", { class: "soft small" }, ` · may open ${plain(person.services.join(", "), 80)}`) : null;
    return h(
      "li",
      {},
      avatar(person.peer, name),
      h("span", { class: "two-lines" }, h("a", { class: "name", dir: "auto", href: `#/chat/${person.peer}` }, visible(name)), person.blocked && h("span", { class: "soft small" }, " · blocked"), services, h("span", { class: "state-line" }, claims ?? h("span", { class: "mono small" }, `${person.peer.slice(0, 16)}…`))),
      h("button", { type: "button", class: "button", "data-key": `name-${person.peer}`, "aria-label": `Name ${name}`, onclick: () => app.rename(person.peer) }, "Name"),
      h("button", { type: "button", class: "button", "data-key": `block-${person.peer}`, "aria-label": `${person.blocked ? "Unblock" : "Block"} ${name}`, onclick: () => app.try(person.blocked ? "unblock" : "block", { peer: person.peer }) }, person.blocked ? "Unblock" : "Block"),
      iconButton("close", `Forget ${name}`, () => app.forget(person.peer)),
    );
  }

  async retain(select) {
    const days = select.value === "null" ? null : Number(select.value);
    const shorter = days !== null && (this.store.retention === null || days < this.store.retention);
    if (shorter && !(await confirm("Keep messages for a shorter time?", `Messages older than ${count(days, "day")} are erased now, and from now on. This can’t be undone.`, "Erase older messages", { danger: true }))) {
      this.build();
      return;
    }
    if (await this.app.try("retention", { days })) this.store.retention = days;
    this.build();
  }

  async erase() {
    if (await confirm("Erase everything?", "All messages with everybody are erased from this machine, those that wait to be sent too. The other sides keep their own. This can’t be undone.", "Erase everything", { danger: true })) {
      if (await this.app.try("erase", { all: true })) notice("All messages are erased");
    }
  }

  async another() {
    const answer = await this.app.try("web");
    if (answer) {
      this.address.textContent = answer.url;
      await copy(answer.url, "The address was");
    }
  }

  async quit() {
    if (await confirm("End Punch?", "Links are closed, and nobody can call until you start it again. What waits stays on this disk.", "End Punch", { danger: true })) {
      await this.app.try("quit");
    }
  }
}
