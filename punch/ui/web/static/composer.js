// The composer: sends what is typed, or keeps it and says why it can't be sent.

import { joined, without } from "./drafts.js";
import { h, iconButton, replace } from "./dom.js";
import { onKeys } from "./keys.js";
import { chosen } from "./uploads.js";
import { bytesOf, count, inParts, plain } from "./text.js";

const HUGE = 300_000;

export class Composer {
  /** `onWriting` is called when a message is about to be sent; it is sent when the promise that it returns resolves. */
  constructor(app, peer, onWriting) {
    this.app = app;
    this.store = app.store;
    this.peer = peer;
    this.onWriting = onWriting;
    this.box = h("textarea", {
      rows: 1,
      id: "write",
      "aria-describedby": "hint",
      oninput: () => (this.keep(), this.typed()),
      onpaste: (event) => this.pasted(event),
    });
    onKeys(this.box, (event) => this.key(event));
    this.underWay = [];
    this.restore();
    this.store.drafts.watch(this, peer, () => this.adopt());
    this.sendButton = iconButton("send", "Send", () => this.send(), { class: "icon-button send" });
    this.hint = h("div", { class: "hint", id: "hint", role: "status" });
    this.chooser = h("input", { type: "file", multiple: true, hidden: true, "aria-label": "Files to send", onchange: () => this.chosen() });
    this.attach = iconButton("attach", "Send files", () => this.chooser.click());
    this.tools = h("div", { class: "tools" }, this.attach, this.chooser);
    const form = h("form", { onsubmit: (event) => (event.preventDefault(), this.send()) }, this.tools, this.box, this.sendButton);
    this.element = h("div", { class: "composer" }, this.hint, form);
  }

  chosen() {
    const files = chosen(this.chooser.files);
    this.chooser.value = "";
    if (files.length) this.app.uploads.start(this.peer, files);
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

  // The draft

  /** Put messages that may not have been stored back into the text field. */
  restore() {
    const { text, unsure } = this.store.drafts.get(this.peer);
    this.unsure = [...unsure];
    this.box.value = text;
  }

  /** The draft has changed elsewhere. */
  adopt() {
    if (this.underWay.length) return;
    this.restore();
    this.typed();
  }

  keep() {
    this.store.drafts.keep(this.peer, joined(this.underWay, this.box.value), [...this.unsure, ...this.underWay], this);
  }

  close() {
    this.closed = true;
  }

  typed() {
    const { box } = this;
    const text = box.value;
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
    this.attach.disabled = !online || this.person.blocked;
    this.sendButton.disabled = !online || bytes > longest || !text.trim() || this.person.blocked;
  }

  /** Why a message still waits to be sent. */
  waiting() {
    const { away } = this.person;
    const name = this.store.nameOf(this.peer);
    if (!this.app.online || !away || away.reason === "not-registered") return `${name} is away. What you write is sent as soon as you are both online.`;
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
    if (event.key === "Enter" && !event.shiftKey) {
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
    const messages = (parts ?? [text]).map((each, index, all) => ({ id: crypto.randomUUID(), text: each, glue: index < all.length - 1 ? "" : "\n" }));
    this.underWay.push(...messages);
    this.keep();
    try {
      await ready;
      for (const message of messages) {
        await this.store.ask("send", { peer: this.peer, text: message.text, id: message.id });
        this.underWay = this.underWay.filter((each) => each !== message);
        this.taken(message.id);
      }
    } catch (error) {
      this.notTaken(messages, error);
    }
  }

  taken(id) {
    if (!this.closed) {
      this.keep();
      return;
    }
    const { drafts } = this.store;
    const { text, unsure } = without(drafts.get(this.peer), (each) => each === id);
    drafts.keep(this.peer, text, unsure, this);
  }

  /** Put messages that were not stored back into the text field, before what was typed since. */
  notTaken(messages, error) {
    const lost = error.reason === "lost";
    const back = this.underWay.filter((each) => lost || messages.includes(each));
    this.underWay = this.underWay.filter((each) => !back.includes(each));
    this.problem = error.message;
    if (this.closed) return; // It is kept as a draft.
    this.box.value = joined(back, this.box.value);
    if (lost) this.unsure.push(...back);
    this.keep();
    this.typed();
  }

  /** The history is loaded again: remove from the draft the messages that were stored after all. */
  makeSure() {
    if (!this.unsure.length) return;
    this.problem = null;
    const said = new Set(this.log.messages.map((message) => message.client_id));
    this.box.value = without({ text: this.box.value, unsure: this.unsure }, (id) => said.has(id)).text;
    this.unsure = [];
    this.keep();
    this.typed();
  }
}
