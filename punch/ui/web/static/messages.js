// The messages of one chat: which are loaded, which are in view, and which the user has seen.

import { CommandError } from "./connection.js";
import { h, icon, replace, unseen } from "./dom.js";
import { linked } from "./links.js";
import { count } from "./text.js";
import { dateOf, dayOf, timeOf, today } from "./times.js";
import { arrange } from "./widgets.js";

const NEAR = 90;

/** Messages of one person within so many seconds of each other stand together, with one time for all. */
const TOGETHER = 240;

const LONG = 2500;

const STATES = {
  waiting: ["clock", "Waiting: it is sent when you are both online"],
  sent: ["check", "Sent"],
  delivered: ["checks", "Delivered"],
  read: ["checks", "Read"],
};

/** What the body of a message consists of, by the kind of its content. */
const BODIES = {
  text: (message) => h("div", { class: `body${message.text.length > LONG ? " long" : ""}`, dir: "auto" }, linked(message.text)),
};

export class Messages {
  /** `at`: the number of the message to show, null for the end. `onLoaded` is called when the history is loaded. */
  constructor(app, peer, at, onLoaded) {
    this.store = app.store;
    this.peer = peer;
    this.at = at;
    this.onLoaded = onLoaded;
    this.elements = new Map();
    this.stick = at === null;
    this.newFrom = null;
    this.end = {};
    this.element = h("div", { class: "log", role: "log", tabindex: "0", "aria-live": "polite", onscroll: () => this.scrolled() });
    new ResizeObserver(() => this.settle()).observe(this.element);
  }

  get person() {
    return this.store.person(this.peer);
  }

  get log() {
    return this.store.log(this.peer);
  }

  named(name) {
    this.element.setAttribute("aria-label", `Messages with ${name}`);
  }

  async load() {
    if (this.log.loaded && this.at === null && !this.log.later) {
      this.loaded();
      return;
    }
    try {
      await this.store.load(this.peer, this.at);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
    }
  }

  loaded() {
    this.onLoaded();
    if (this.newFrom === null) {
      const first = this.log.messages.find((message) => !message.outgoing && message.state === "unread");
      this.newFrom = first?.number ?? 0;
    }
    this.render();
    if (this.at !== null) {
      const element = this.elements.get(this.at);
      element?.scrollIntoView({ block: "center" });
      element?.classList.add("found-one");
      this.at = null;
      this.stick = !this.log.later && this.nearEnd;
    } else if (this.stick) {
      this.toEnd();
    }
    this.seen();
  }

  changed(event) {
    if (event.event === "loaded") {
      this.loaded();
    } else if (event.event === "more") {
      this.more(event.direction);
    } else {
      if (this.log.loaded && event.event !== "pairs") this.render();
      this.seen();
    }
  }

  more(direction) {
    const before = this.element.scrollHeight - this.element.scrollTop;
    this.element.setAttribute("aria-live", "off");
    this.render();
    if (direction === "earlier") this.element.scrollTop = this.element.scrollHeight - before;
    requestAnimationFrame(() => this.element.setAttribute("aria-live", "polite"));
  }

  get nearEnd() {
    return this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < NEAR;
  }

  /** Something around the log has another size: scroll to the end if the end was in view. */
  settle() {
    if (this.stick) this.toEnd();
  }

  toEnd() {
    const { element } = this;
    element.scrollTop = element.scrollHeight;
    this.end = { box: element.clientHeight, content: element.scrollHeight };
  }

  scrolled() {
    const { box, content } = this.end;
    if (this.stick && (box !== this.element.clientHeight || content !== this.element.scrollHeight)) {
      // The layout has caused it and not the user: the log has another size since it was last at its end.
      this.toEnd();
      return;
    }
    this.stick = this.nearEnd && !this.log.later;
    if (this.element.scrollTop < 400) this.store.more(this.peer, "earlier");
    if (this.nearEnd && this.log.later) this.store.more(this.peer, "later");
    this.seen();
  }

  /** Tell the other side that its messages were read, if this page is in front and shows the end. */
  async seen() {
    const upTo = this.shownUpTo;
    if (!upTo || !this.person.unread || !this.stick || !this.log.loaded || this.reading) return;
    if (document.visibilityState !== "visible" || !document.hasFocus()) return;
    this.reading = true;
    try {
      // Messages that arrive before Punch answers were not seen.
      await this.store.ask("read", { peer: this.peer, up_to: upTo });
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      return; // It is tried again at the next event.
    } finally {
      this.reading = false;
    }
    if (this.shownUpTo > upTo) this.seen();
  }

  render() {
    const log = this.log;
    const nodes = [];
    if (!log.earlier) nodes.push(this.keyed("start", () => this.beginning()));
    let day = null;
    let before = null;
    // Notes beside messages that are not loaded are not shown.
    const notes = log.notes.filter(({ after }) => (!log.earlier || after >= (log.first ?? 0)) && (!log.later || after < log.last));
    const begin = (time, key) => {
      const date = dateOf(time);
      if (date === day) return;
      const element = this.keyed(key, () => h("div", { class: "day" }));
      this.write(element, () => dayOf(time));
      nodes.push(element);
      day = date;
      before = null;
    };
    const shift = (number) => {
      while (notes.length && notes[0].after < number) {
        const note = notes.shift();
        begin(note.time, note.day);
        const element = this.keyed(note, () => h("div", { class: "note" }));
        this.write(element, () => `${note.text}\u00a0·\u00a0${timeOf(note.time)}`);
        nodes.push(element);
        before = null;
      }
    };
    for (const message of log.messages) {
      shift(message.number);
      // Where a clock was set back, a day comes twice: each has a key of its own.
      begin(message.time, `day of ${message.number}`);
      if (message.number === this.newFrom) {
        nodes.push(this.keyed("new", () => h("div", { class: "note new" }, "New")));
        before = null;
      }
      const follows = before !== null && before.outgoing === message.outgoing && Math.abs(message.time - before.time) < TOGETHER;
      nodes.push(this.message(message, follows));
      before = message;
    }
    shift(Infinity);
    const { unread } = this.person;
    if (log.later || (unread && !this.stick)) {
      const button = this.keyed("later", () => h("button", { type: "button", class: "button later", onclick: () => this.newest() }));
      button.textContent = unread ? `${count(unread, "new message")} below` : "Go to the newest messages";
      nodes.push(button);
    }
    const spacer = this.keyed("spacer", () => h("div", { class: "first" }));
    arrange(this.element, [spacer, ...nodes]);
    this.shownUpTo = log.last ?? 0;
    this.joinMeta();
    if (this.stick) {
      this.store.trim(this.peer);
      this.toEnd();
    }
  }

  /** A message is about to be sent: scroll to the end. */
  async writing() {
    this.stick = true;
    this.newFrom = 0;
    if (this.log.later) await this.newest();
  }

  async newest() {
    this.stick = true;
    if (this.log.later) await this.store.load(this.peer);
    else this.render();
    this.element.focus();
    this.seen();
  }

  beginning() {
    return h(
      "div",
      { class: "empty" },
      h("h2", {}, this.log.messages.length ? "The beginning" : "Say hello"),
      h("p", {}, "Messages go from you to them, encrypted end to end. They are kept on your two machines and nowhere else."),
    );
  }

  /** Texts that depend on the day: they are made once, and again on another day. */
  write(element, words) {
    const now = today();
    if (element.day === now) return;
    element.day = now;
    element.textContent = words();
  }

  keyed(key, make) {
    let element = this.elements.get(key);
    if (!element) this.elements.set(key, (element = make()));
    return element;
  }

  message(message, follows) {
    let element = this.elements.get(message.number);
    if (!element) {
      const ours = message.outgoing;
      const author = unseen(`${ours ? "You" : this.store.nameOf(this.peer)}: `);
      const body = (BODIES[message.kind] ?? BODIES.text)(message);
      element = h("div", { class: `message${ours ? " ours" : ""}` }, author, body);
      if (body.classList.contains("long")) {
        element.append(
          h("button", { type: "button", class: "more-text", onclick: (event) => (body.classList.remove("long"), event.target.remove()) }, "Show all"),
        );
      }
      element.meta = h("div", { class: "meta" }, (element.time = h("time", { datetime: new Date(message.time * 1000).toISOString() })), (element.mark = h("span")));
      element.append(element.meta);
      this.elements.set(message.number, element);
    }
    this.write(element.time, () => timeOf(message.time));
    element.classList.toggle("follows", follows);
    if (message.outgoing && element.shown !== message.state) {
      element.shown = message.state;
      const [name, label] = STATES[message.state] ?? STATES.waiting;
      element.mark.className = message.state;
      element.mark.title = label;
      element.dataset.state = message.state;
      replace(element.mark, icon(name), unseen(label));
    }
    element.message = message;
    return element;
  }

  /** Time and state stand below the last message of a group; an earlier one with another state has its own. */
  joinMeta() {
    const messages = [...this.element.querySelectorAll(".message")];
    messages.forEach((element, index) => {
      const next = messages[index + 1];
      const grouped = Boolean(next?.classList.contains("follows"));
      element.classList.toggle("grouped", grouped);
      element.classList.toggle("joined", grouped && next.message.state === element.message.state);
    });
  }
}
