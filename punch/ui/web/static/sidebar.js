// The sidebar: your name, a field to find or call somebody, and the list of chats.

import { CommandError } from "./connection.js";
import { h, icon, iconButton, replace, unseen } from "./dom.js";
import { onKeys } from "./keys.js";
import { stateOf } from "./store.js";
import { asId, cutBefore, isEnough, notAnId, plain, shortId, shortened, visible, withoutIsolates } from "./text.js";
import { whenOf } from "./times.js";
import { announce, arrange, avatar, nameElement } from "./widgets.js";

const TYPING = 200;

/** Each theme with its icon, and what it is called. */
export const THEMES = { auto: ["auto", "System"], light: ["sun", "Light"], dark: ["moon", "Dark"] };

export const themeNow = () => document.documentElement.dataset.theme ?? "auto";

export function setTheme(theme) {
  if (theme === "auto") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("punch-theme");
  } else {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("punch-theme", theme);
  }
  dispatchEvent(new Event("themechange"));
}

/** A text with these words marked, or its beginning if it does not have them as they are written. */
export function marked(said, words) {
  // Before it is cut into pieces: isolates come in pairs.
  const text = withoutIsolates(said);
  const found = new RegExp(words.trim().replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "iu").exec(text);
  if (!found?.[0]) return visible(shortened(text, 300));
  const at = cutBefore(text, found.index);
  const end = found.index + found[0].length;
  const start = cutBefore(text, Math.max(0, at - 40));
  const fragment = document.createDocumentFragment();
  fragment.append(
    visible((start ? "…" : "") + text.slice(start, at)),
    h("mark", {}, visible(text.slice(at, end))),
    visible(shortened(text.slice(end), 260)),
  );
  return fragment;
}

export class Side {
  constructor(app) {
    this.app = app;
    this.store = app.store;
    this.hits = [];
    this.rows = new Map();
    this.me = h("a", { class: "me", href: "#/you" });
    this.find = h("input", {
      class: "field",
      id: "find",
      type: "search",
      placeholder: "Find or call somebody",
      "aria-label": "Find a chat or a message, or call by ID or name",
      "aria-keyshortcuts": "Control+K",
      autocomplete: "off",
      spellcheck: "false",
      oninput: () => this.typed(),
    });
    onKeys(this.find, (event) => this.key(event));
    this.found = h("div", { class: "found" });
    onKeys(this.found, (event) => this.moved(event));
    this.list = h("ul", { "aria-label": "Chats" });
    this.theme = iconButton("auto", "", () => this.nextTheme());
    this.links = Object.entries({ activity: "Files and services", network: "Network check", settings: "Settings" }).map(([page, label]) =>
      h("a", { href: `#/${page}`, "aria-label": label, title: label }, icon(page)),
    );
    replace(
      app.side,
      h("h1", { class: "unseen" }, "Chats"),
      this.me,
      h("div", { class: "find", role: "search" }, icon("search"), this.find),
      this.found,
      h("div", { class: "foot" }, this.links, iconButton("keyboard", "Keyboard shortcuts", () => app.shortcuts()), this.theme),
    );
    this.theme.classList.add("push");
    addEventListener("themechange", () => this.showTheme());
    this.showTheme();
    this.store.watch((event) => event.event === "pairs" || this.later());
  }

  showTheme() {
    const [name, label] = THEMES[themeNow()];
    this.theme.setAttribute("aria-label", `Theme: ${label.toLowerCase()}`);
    this.theme.title = `Theme: ${label.toLowerCase()}`;
    replace(this.theme, icon(name));
  }

  nextTheme() {
    setTheme({ auto: "light", light: "dark", dark: "auto" }[themeNow()]);
    announce(this.theme.title);
  }

  later() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = null;
      this.render();
    });
  }

  typed() {
    clearTimeout(this.timer);
    const text = this.find.value.trim();
    if (!isEnough(text) || asId(text)) {
      this.hits = [];
    } else {
      this.timer = setTimeout(() => this.search(text), TYPING);
    }
    this.render();
  }

  async search(text) {
    try {
      const { messages } = await this.store.ask("search", { text, limit: 30 });
      if (this.find.value.trim() !== text) return;
      this.hits = messages;
      this.render();
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      this.hits = [];
    }
  }

  clear() {
    this.find.value = "";
    this.typed();
  }

  key(event) {
    if (event.key === "Escape" && this.find.value) {
      event.stopPropagation();
      event.preventDefault();
      this.clear();
    } else if (event.key === "Enter") {
      event.preventDefault();
      this.found.querySelector("button, a")?.click();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      this.found.querySelector("button, a")?.focus();
    }
  }

  moved(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const all = [...this.found.querySelectorAll("button, a")];
    const next = all.indexOf(document.activeElement) + step;
    event.preventDefault();
    (next < 0 ? this.find : all[Math.min(next, all.length - 1)]).focus();
  }

  render() {
    const { store, app } = this;
    if (!store.me) return;
    this.renderMe();
    const text = this.find.value.trim();
    const wanted = text.toLowerCase();
    const id = asId(text);
    const named = text && !id ? store.named(text) : null;
    const chats = store.chats().filter((person) => this.matches(person, wanted, id));
    const parts = [];
    if (id && id !== store.me.id && !store.people.get(id)?.link) {
      parts.push(this.callAction(id, `Call ${store.people.has(id) ? store.nameOf(id) : shortId(id)}`));
    } else if (named && !named.link && !named.stage && !named.blocked) {
      parts.push(this.callAction(named.peer, `Call ${store.nameOf(named.peer)}`));
    } else if (!id && notAnId(text)) {
      parts.push(h("p", { class: "problem" }, notAnId(text)));
    } else if (id === store.me.id) {
      parts.push(h("p", { class: "problem" }, "This is your own ID. Call the one that the other side sees."));
    }
    if (chats.length) {
      if (text && this.hits.length) parts.push(h("h2", {}, "People"));
      arrange(this.list, chats.map((person) => this.row(person)));
      parts.push(this.list);
    }
    if (this.hits.length) {
      parts.push(h("h2", {}, "Messages"), h("ul", {}, this.hits.map((message) => h("li", {}, this.hit(message, text)))));
    }
    if (!parts.length) {
      parts.push(
        text
          ? h("div", { class: "empty" }, h("h2", {}, "Nothing found"), h("p", {}, "To call somebody, paste their whole ID here."))
          : h("div", { class: "empty" }, h("h2", {}, "No chats yet"), h("p", {}, "Paste an ID above to call somebody, or give yours to them.")),
      );
    }
    const active = document.activeElement;
    const focused = this.found.contains(active) ? (active.dataset.key ?? null) : null;
    arrange(this.found, parts);
    if (focused) this.found.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    for (const link of this.links) this.current(link, `#/${app.route.page}` === link.getAttribute("href"));
  }

  matches(person, wanted, id) {
    if (id) return person.peer === id;
    if (!wanted) return true;
    return [person.petname ?? "", person.name, person.peer].some((text) => text.toLowerCase().includes(wanted));
  }

  current(element, is) {
    if (is) element.setAttribute("aria-current", "page");
    else element.removeAttribute("aria-current");
  }

  renderMe() {
    const { store, app } = this;
    const here = store.registration?.event === "registered";
    const state = !app.online ? ["off", "Punch does not answer"] : here ? ["on", "Can be called"] : ["wait", "Can’t reach the rendezvous"];
    const key = JSON.stringify([store.me.name, state, app.route.page]);
    if (key === this.shownMe) return;
    this.shownMe = key;
    replace(
      this.me,
      avatar(store.me.id, store.me.name),
      h("span", { class: "two-lines" }, nameElement(plain(store.me.name, 40)), h("span", { class: "state-line" }, h("span", { class: `dot ${state[0]}` }), h("span", {}, state[1]))),
      unseen("Show your ID"),
    );
    this.current(this.me, app.route.page === "you");
  }

  callAction(id, label) {
    return h(
      "button",
      { type: "button", class: "action", "data-key": "call", onclick: () => (this.clear(), this.app.call(id)) },
      icon("call"),
      h("span", {}, label),
    );
  }

  /** The element stays, so that a click is not lost when its words change between press and release. */
  row(person) {
    const { store, app } = this;
    let row = this.rows.get(person.peer);
    if (!row) {
      const link = h("a", { href: `#/chat/${person.peer}`, "data-key": person.peer, onclick: () => this.find.value && this.clear() });
      row = { item: h("li", {}, link), link, shown: "" };
      this.rows.set(person.peer, row);
    }
    const { item, link } = row;
    const name = store.nameOf(person.peer);
    const state = stateOf(person);
    const last = person.last;
    const preview = last ? plain((last.outgoing ? "You: " : "") + shortened(last.text, 1000), 120) : state.text;
    const line = person.stage || person.link?.dark ? state.text : preview;
    const when = last ? whenOf(last.time) : "";
    const shown = JSON.stringify([name, state.kind, when, line, person.unread]);
    if (row.shown !== shown) {
      row.shown = shown;
      link.className = `person${person.unread ? " unread" : ""}`;
      replace(
        link,
        avatar(person.peer, name, state.kind === "off" ? null : state.kind),
        h("span", { class: "name", dir: "auto" }, name),
        h("span", { class: "when" }, when),
        h("span", { class: "last", dir: "auto" }, line),
        person.unread ? h("span", { class: "badge" }, person.unread > 999 ? "999+" : String(person.unread), h("span", { class: "unseen" }, " unread")) : null,
      );
    }
    this.current(link, app.route.page === "chat" && app.route.peer === person.peer);
    return item;
  }

  hit(message, words) {
    return h(
      "a",
      { class: "hit", href: `#/chat/${message.peer}/${message.number}`, "data-key": `m${message.number}` },
      h("span", { class: "top" }, h("span", { class: "name", dir: "auto" }, message.outgoing ? `You to ${this.store.nameOf(message.peer)}` : this.store.nameOf(message.peer)), h("span", {}, whenOf(message.time))),
      h("span", { class: "quoted", dir: "auto" }, marked(message.text, words)),
    );
  }
}
