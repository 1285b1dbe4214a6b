// The box to write in: what is typed is sent, or stays here with a sentence about why it can't be.

import { h, iconButton, replace } from "./dom.js";
import { bytesOf, count, inParts, plain } from "./text.js";

const HUGE = 300_000;

const drafts = new Map();

/** What was said when the connection broke: perhaps it was taken, and only the answer did not come. */
const unsure = new Map();

export class Composer {
  /** `onWriting`: something is about to be sent; fires when that may begin. */
  constructor(app, peer, onWriting) {
    this.app = app;
    this.store = app.store;
    this.peer = peer;
    this.onWriting = onWriting;
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
    this.element = h("div", { class: "composer" }, this.hint, form);
  }

  get person() {
    return this.store.person(this.peer);
  }

  get log() {
    return this.store.log(this.peer);
  }

  named(name) {
    this.box.placeholder = `Write to ${name}`;
    this.box.setAttribute("aria-label", `Write to ${name}`);
  }

  close() {
    drafts.set(this.peer, this.box.value);
  }

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
    const ready = this.onWriting();
    this.typed();
    box.focus();
    const waiting = parts ?? [text];
    let id = null;
    try {
      await ready;
      while (waiting.length) {
        id = crypto.randomUUID();
        await this.store.ask("send", { peer: this.peer, text: waiting[0], id });
        waiting.shift();
      }
    } catch (error) {
      // What was not taken is not lost: it is in the box again, before what was typed since.
      box.value = waiting.join("") + (box.value ? `\n${box.value}` : "");
      if (id && error.reason === "lost") unsure.set(this.peer, { id, text: waiting[0] });
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
