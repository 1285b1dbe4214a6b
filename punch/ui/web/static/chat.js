// One chat: its head, the live picture, the messages, and the box to write in.

import { CommandError } from "./connection.js";
import { h, icon, iconButton, replace, unseen } from "./dom.js";
import { Picture } from "./picture.js";
import { stateOf } from "./store.js";
import { bytesOf, count, dayOf, grouped, inParts, plain, timeOf, visible } from "./text.js";
import { announce, arrange, avatar, confirm, copy, menuButton, notice, prompt, tell } from "./widgets.js";

const NEAR = 90;
const TOGETHER = 240;
const HUGE = 300_000;
const LONG = 2500;

const STATES = {
  waiting: ["clock", "Waiting: goes when both are there"],
  sent: ["check", "Sent"],
  delivered: ["checks", "Delivered"],
  read: ["checks", "Read"],
};

/** What a message's body is made of. Other kinds of content, a file say, will have their own line here. */
const BODIES = {
  text: (message) => h("div", { class: `body${message.text.length > LONG ? " long" : ""}`, dir: "auto" }, visible(message.text)),
};

const drafts = new Map();

/** What was said when the connection broke: perhaps it was taken, and only the answer did not come. */
const unsure = new Map();

export class ChatView {
  constructor(app, peer, at) {
    this.app = app;
    this.store = app.store;
    this.peer = peer;
    this.at = at;
    this.elements = new Map();
    this.stick = at === null;
    this.newFrom = null;
    this.build();
    this.stop = this.store.watch((event) => this.changed(event));
    this.show();
    this.load();
  }

  get person() {
    return this.store.person(this.peer);
  }

  get log() {
    return this.store.log(this.peer);
  }

  build() {
    this.roomy = matchMedia("(min-width: 760px) and (min-height: 640px)");
    this.roomy.onchange = () => this.showPicture();
    this.title = h("h1", { class: "name", dir: "auto" });
    this.state = h("div", { class: "state-line" });
    this.face = h("span");
    this.main = h("button", { type: "button", class: "button", onclick: () => this.primary() });
    this.toggle = iconButton("path", "How you are connected", () => this.togglePicture(), { "aria-controls": "picture" });
    this.picture = new Picture();
    this.list = h("div", { class: "log", role: "log", tabindex: "0", "aria-live": "polite", onscroll: () => this.scrolled() });
    this.box = h("textarea", {
      rows: 1,
      id: "write",
      "aria-describedby": "hint",
      oninput: () => this.typed(),
      onkeydown: (event) => this.key(event),
      onpaste: (event) => this.pasted(event),
    });
    this.box.value = drafts.get(this.peer) ?? "";
    this.sendButton = iconButton("send", "Send", () => this.send(), { class: "icon-button send" });
    this.hint = h("div", { class: "hint", id: "hint", role: "status" });
    // Beside the box there is room for other things to send.
    this.tools = h("div", { class: "tools", hidden: true });
    const form = h("form", { onsubmit: (event) => (event.preventDefault(), this.send()) }, this.tools, this.box, this.sendButton);
    this.element = h(
      "section",
      { class: "chat", "aria-label": "Chat" },
      h(
        "header",
        { class: "chat-head" },
        iconButton("back", "Back to the list", () => this.app.go("/"), { class: "icon-button back" }),
        this.face,
        h("div", { class: "two-lines" }, this.title, this.state),
        this.main,
        this.toggle,
        menuButton("More", () => this.entries()),
      ),
      this.picture.element,
      this.list,
      h("div", { class: "composer" }, this.hint, form),
    );
    this.showPicture();
    new ResizeObserver(() => this.stick && this.toEnd()).observe(this.list);

  }

  focus() {
    if (matchMedia("(pointer: fine)").matches) this.box.focus();
    else this.app.main.focus();
  }

  close() {
    this.stop();
    this.roomy.onchange = null;
    drafts.set(this.peer, this.box.value);
  }

  // The picture

  get wantsPicture() {
    const chosen = localStorage.getItem("punch-picture");
    if (this.override !== undefined) return this.override;
    if (this.person.stage || this.person.link?.dark) return true;
    if (chosen) return chosen === "open" && Boolean(this.person.link);
    return Boolean(this.person.link) && (this.roomy.matches || (this.log.loaded && !this.log.messages.length));
  }

  togglePicture() {
    const open = this.picture.element.hidden;
    this.override = open;
    localStorage.setItem("punch-picture", open ? "open" : "closed");
    this.showPicture();
  }

  showPicture() {
    const open = this.wantsPicture;
    this.picture.element.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
    if (open) {
      const registered = this.store.registration?.event === "registered";
      this.picture.show(this.person, this.store.me, this.store.nameOf(this.peer), registered);
    }
  }

  // The head

  showHead() {
    const person = this.person;
    const name = this.store.nameOf(this.peer);
    const state = stateOf(person);
    const busy = Boolean(person.link || (person.stage && person.stage !== "ringing"));
    const key = JSON.stringify([name, state, busy, person.blocked]);
    if (key === this.shownHead) return;
    this.shownHead = key;
    this.title.textContent = name;
    replace(this.face, avatar(this.peer, name));
    replace(this.state, h("span", { class: `dot ${state.kind}` }), h("span", {}, state.text));
    this.list.setAttribute("aria-label", `Messages with ${name}`);
    this.box.placeholder = `Write to ${name}`;
    this.box.setAttribute("aria-label", `Write to ${name}`);
    const label = busy ? (person.link ? "Hang up" : "Give up") : "Call";
    replace(this.main, icon(busy ? "hangup" : "call"), h("span", {}, label));
    this.main.setAttribute("aria-label", `${label === "Call" ? "Call" : label}: ${name}`);
    this.main.classList.toggle("danger", busy);
    this.main.classList.toggle("main", !busy);
    this.main.disabled = person.blocked && !busy;
  }

  async primary() {
    const { link, stage } = this.person;
    this.override = undefined;
    if (link || (stage && stage !== "ringing")) await this.app.try("hangup", { peer: this.peer });
    else await this.app.call(this.peer);
  }

  entries() {
    const person = this.person;
    const name = this.store.nameOf(this.peer);
    return [
      { label: person.petname ? "Change the name" : "Give a name", run: () => this.app.rename(this.peer) },
      { label: "Show the ID", run: () => this.showId() },
      { label: "Export this chat", run: () => this.app.export(this.peer) },
      person.blocked
        ? { label: "Unblock", run: () => this.app.try("unblock", { peer: this.peer }) }
        : { label: "Block", run: () => this.block(name) },
      { label: "Erase these messages", danger: true, run: () => this.erase(name) },
      { label: "Forget this peer", danger: true, run: () => this.forget(name) },
    ];
  }

  async showId() {
    await tell(
      this.store.nameOf(this.peer),
      h(
        "div",
        { class: "section" },
        this.person.name && h("p", { class: "soft" }, "Calls itself ", h("span", { class: "name", dir: "auto" }, visible(plain(this.person.name, 200))), "."),
        h("p", { class: "mono" }, grouped(this.peer)),
        h("div", {}, h("button", { type: "button", class: "button", onclick: () => copy(this.peer, "The ID was") }, icon("copy"), "Copy the ID")),
      ),
    );
  }

  async block(name) {
    if (await confirm(`Block ${name}?`, "Their calls are refused without telling you, and the link to them ends. You can undo this.", "Block")) {
      await this.app.try("block", { peer: this.peer });
    }
  }

  async erase(name) {
    if (await confirm("Erase these messages?", `All messages with ${name} are erased from this machine, those that wait to be sent too. The other side keeps its own. This can’t be undone.`, "Erase", { danger: true })) {
      await this.app.try("erase", { peer: this.peer });
    }
  }

  async forget(name) {
    if (await confirm(`Forget ${name}?`, "They leave the address book: their name here is gone, and if they call, you are asked as with a stranger. Messages are kept.", "Forget")) {
      await this.app.try("forget", { peer: this.peer });
    }
  }

  // Messages

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
    this.makeSure();
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
    if (event.event === "snapshot") {
      this.show();
      this.load();
      return;
    }
    if (event.peer !== undefined && event.peer !== this.peer && event.peer !== null) return;
    if (event.event === "loaded") {
      this.loaded();
    } else if (event.event === "more") {
      this.more(event.direction);
    } else {
      this.show();
      if (this.log.loaded && event.event !== "pairs") this.render();
      this.seen();
    }
  }

  show() {
    this.showHead();
    this.showPicture();
    this.typed();
  }

  more(direction) {
    const before = this.list.scrollHeight - this.list.scrollTop;
    this.list.setAttribute("aria-live", "off");
    this.render();
    if (direction === "earlier") this.list.scrollTop = this.list.scrollHeight - before;
    requestAnimationFrame(() => this.list.setAttribute("aria-live", "polite"));
  }

  get nearEnd() {
    return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < NEAR;
  }

  toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
  }

  scrolled() {
    this.stick = this.nearEnd && !this.log.later;
    if (this.list.scrollTop < 400) this.store.more(this.peer, "earlier");
    if (this.nearEnd && this.log.later) this.store.more(this.peer, "later");
    this.seen();
  }

  /** The other side is told that a person has seen its messages: this page is in front, at the end. */
  async seen() {
    const upTo = this.shownUpTo;
    if (!upTo || !this.person.unread || !this.stick || !this.log.loaded || this.reading) return;
    if (document.visibilityState !== "visible" || !document.hasFocus()) return;
    this.reading = true;
    try {
      // What comes between this look and Punch's answer was not seen by it.
      await this.store.ask("read", { peer: this.peer, up_to: upTo });
    } catch {
      return; // The next chance comes with the next event.
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
    const notes = [...log.notes];
    const shift = (number) => {
      while (notes.length && notes[0].after < number) {
        const note = notes.shift();
        nodes.push(this.keyed(note, () => h("div", { class: "note" }, `${note.text} · ${timeOf(note.time)}`)));
        before = null;
      }
    };
    for (const message of log.messages) {
      shift(message.number);
      const today = dayOf(message.time);
      if (today !== day) {
        nodes.push(this.keyed(`day ${today}`, () => h("div", { class: "day" }, today)));
        day = today;
        before = null;
      }
      if (message.number === this.newFrom) {
        nodes.push(this.keyed("new", () => h("div", { class: "note new" }, "New")));
        before = null;
      }
      const follows = before !== null && before.outgoing === message.outgoing && message.time - before.time < TOGETHER;
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
    arrange(this.list, [spacer, ...nodes]);
    this.shownUpTo = log.last ?? 0;
    this.joinMeta();
    if (this.stick) {
      this.store.trim(this.peer);
      this.toEnd();
    }
  }

  async newest() {
    this.stick = true;
    if (this.log.later) await this.store.load(this.peer);
    else this.render();
    this.list.focus();
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
      element.meta = h("div", { class: "meta" }, h("time", { datetime: new Date(message.time * 1000).toISOString() }, timeOf(message.time)), (element.mark = h("span")));
      element.append(element.meta);
      this.elements.set(message.number, element);
    }
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

  /** Time and mark stand below the last of several messages, unless an earlier one is in another state. */
  joinMeta() {
    const messages = [...this.list.querySelectorAll(".message")];
    messages.forEach((element, index) => {
      const next = messages[index + 1];
      const joined = next?.classList.contains("follows") && next.message.state === element.message.state && timeOf(next.message.time) === timeOf(element.message.time);
      element.classList.toggle("joined", Boolean(joined));
    });
  }

  // Writing

  typed() {
    const { box } = this;
    const text = box.value;
    drafts.set(this.peer, text);
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
    const longest = this.store.me.longest;
    const bytes = text.length > longest / 4 ? bytesOf(text) : text.length;
    const online = this.app.online;
    let bad = false;
    if (this.person.blocked) {
      replace(this.hint, "Blocked: nothing can be sent.", h("button", { type: "button", class: "link-button", onclick: () => this.app.try("unblock", { peer: this.peer }) }, "Unblock"));
    } else if (bytes > longest) {
      const parts = inParts(text, longest);
      replace(
        this.hint,
        `${bytes.toLocaleString("en")} bytes; a message holds ${longest.toLocaleString("en")}.`,
        h("button", { type: "button", class: "link-button", onclick: () => this.send(parts) }, `Send it in ${count(parts.length, "part")}`),
      );
      bad = true;
    } else if (this.problem) {
      replace(this.hint, this.problem);
      bad = true;
    } else if (!this.person.link && !this.person.stage && this.person.waiting) {
      replace(this.hint, this.waiting());
    } else {
      replace(this.hint);
    }
    this.hint.classList.toggle("bad", bad);
    this.sendButton.disabled = !online || bytes > longest || !text.trim() || this.person.blocked;
  }

  /** Why what was written still waits. */
  waiting() {
    const { away } = this.person;
    const name = this.store.nameOf(this.peer);
    if (!this.app.online || !away || away.reason === "not-registered") return `${name} is away. This goes by itself as soon as you are both there.`;
    return plain(away.text);
  }

  pasted(event) {
    const text = event.clipboardData?.getData("text/plain") ?? "";
    if (text.length > HUGE) {
      event.preventDefault();
      this.problem = `That was ${(text.length / 1e6).toFixed(1)} MB of text, too much for a chat: it was not pasted.`;
      this.typed();
    }
  }

  key(event) {
    this.problem = null;
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!this.sendButton.disabled) this.send();
    }
  }

  async send(parts = null) {
    const { box } = this;
    const text = box.value;
    if (!parts && this.sendButton.disabled) return;
    box.value = "";
    this.problem = null;
    this.stick = true;
    this.newFrom = 0;
    this.typed();
    box.focus();
    if (this.log.later) await this.newest();
    const waiting = parts ?? [text];
    let id = null;
    try {
      while (waiting.length) {
        id = crypto.randomUUID();
        await this.store.ask("send", { peer: this.peer, text: waiting[0], id });
        waiting.shift();
      }
    } catch (error) {
      // What was not taken is not lost: it is in the box again, before what was typed since.
      box.value = waiting.join("") + (box.value ? `\n${box.value}` : "");
      if (error.reason === "lost") unsure.set(this.peer, { id, text: waiting[0] });
      this.problem = error.message;
      this.typed();
    }
  }

  /** The history is here again: what was taken all the same is not to be said twice. */
  makeSure() {
    const said = unsure.get(this.peer);
    if (!said) return;
    unsure.delete(this.peer);
    this.problem = null;
    if (this.log.messages.some((message) => message.client_id === said.id) && this.box.value.startsWith(said.text)) {
      this.box.value = this.box.value.slice(said.text.length).replace(/^\n/, "");
    }
    this.typed();
  }
}

export { announce, notice, prompt };
