// One chat: its header, the picture of the call, the messages, and the composer.

import { Composer } from "./composer.js";
import { h, icon, iconButton, replace } from "./dom.js";
import { Messages } from "./messages.js";
import { Picture } from "./picture.js";
import { stateOf } from "./store.js";
import { grouped, plain, visible } from "./text.js";
import { TransferList } from "./transfers.js";
import { dropped } from "./uploads.js";
import { avatar, confirm, copy, menuButton, notice, tell } from "./widgets.js";

export class ChatView {
  constructor(app, peer, at) {
    this.app = app;
    this.store = app.store;
    this.peer = peer;
    this.messages = new Messages(app, peer, at, () => this.composer.makeSure());
    this.composer = new Composer(app, peer, () => this.messages.writing());
    this.transfers = new TransferList(app, peer);
    this.build();
    this.stop = this.store.watch((event) => this.changed(event));
    this.show();
    this.messages.load();
  }

  get person() {
    return this.store.person(this.peer);
  }

  get box() {
    return this.composer.box;
  }

  build() {
    this.title = h("h1", { class: "name", dir: "auto" });
    this.state = h("div", { class: "state-line" });
    this.face = h("span");
    this.main = h("button", { type: "button", class: "button", onclick: () => this.primary() });
    this.toggle = iconButton("path", "How you are connected", () => this.togglePicture(), { "aria-controls": "picture" });
    this.picture = new Picture(() => this.askCost());
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
      this.messages.element,
      this.transfers.element,
      this.composer.element,
      (this.drop = h("div", { class: "drop", hidden: true }, icon("upload"), (this.dropText = h("p")))),
    );
    this.takeDrops();
    this.showPicture();
  }

  /** Files that are dropped onto the chat are sent. */
  takeDrops() {
    const { element, drop } = this;
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    // Entering a child comes before leaving its parent.
    let depth = 0;
    element.addEventListener("dragenter", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      depth += 1;
      drop.hidden = false;
    });
    element.addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
    });
    element.addEventListener("dragleave", (event) => {
      if (hasFiles(event) && (depth -= 1) <= 0) drop.hidden = true;
    });
    element.addEventListener("drop", async (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      depth = 0;
      drop.hidden = true;
      if (this.composer.attach.disabled) return;
      try {
        await this.app.uploads.start(this.peer, await dropped(event.dataTransfer));
      } catch (error) {
        if (!(error instanceof DOMException)) throw error;
        notice("The browser could not read what was dropped.");
      }
    });
  }

  focus() {
    if (matchMedia("(pointer: fine)").matches) this.box.focus();
    else this.app.main.focus();
  }

  close() {
    this.stop();
    this.composer.close();
  }

  typed() {
    this.composer.typed();
  }

  seen() {
    this.messages.seen();
  }

  changed(event) {
    if (event.event === "upload" || event.event.startsWith("transfer-")) {
      if (event.peer === this.peer) this.transfers.changed(event);
      return;
    }
    if (event.event === "snapshot") {
      this.transfers.changed(event);
      this.show();
      this.messages.load();
      return;
    }
    if (event.peer !== undefined && event.peer !== this.peer && event.peer !== null) return;
    if (event.event !== "loaded" && event.event !== "more") this.show();
    this.transfers.changed(event);
    this.messages.changed(event);
  }

  show() {
    this.showHead();
    this.showPicture();
    this.typed();
  }

  // The picture

  /** The whole picture while a path is looked for; one line once there is a path, unless the user opens it. */
  get wantsPicture() {
    const { link, stage } = this.person;
    if (this.override !== undefined) return this.override;
    if (stage || link?.dark) return true;
    return Boolean(link) && localStorage.getItem("punch-picture") === "open";
  }

  togglePicture() {
    const open = !this.wantsPicture;
    this.override = open;
    localStorage.setItem("punch-picture", open ? "open" : "closed");
    this.showPicture();
    this.messages.settle();
  }

  async askCost() {
    const { links } = await this.store.ask("status");
    return links.find((link) => link.peer === this.peer)?.techniques ?? {};
  }

  showPicture() {
    const open = this.wantsPicture;
    const shown = open || Boolean(this.person.link);
    this.picture.element.hidden = !shown;
    this.picture.fold(!open);
    this.toggle.setAttribute("aria-expanded", String(open));
    if (shown) {
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
    this.messages.named(name);
    this.dropText.textContent = `Drop files to send them to ${name}`;
    this.composer.named(name);
    const label = busy ? (person.link ? "Hang up" : "Give up") : "Call";
    replace(this.main, icon(busy ? "hangup" : "call"), h("span", {}, label));
    this.main.setAttribute("aria-label", `${label}: ${name}`);
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
      { label: "Forget this peer", danger: true, run: () => this.app.forget(this.peer) },
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
}
