// The page as a whole: what is shown when, calls that come in, and the keyboard.

import { ActivityPage } from "./activity.js";
import { ChatView } from "./chat.js";
import { CommandError, Connection, keepKey, watchKey } from "./connection.js";
import { h, icon, replace } from "./dom.js";
import { isAltArrow, isAltLetter, isControl, onKeys } from "./keys.js";
import { NetworkPage, SettingsPage, YouPage } from "./pages.js";
import { Side } from "./sidebar.js";
import { Store } from "./store.js";
import { Tabs } from "./tabs.js";
import { grouped, plain } from "./text.js";
import { timeOf, watchDays } from "./times.js";
import { offerCard, pathList, titleOf } from "./transfers.js";
import { Uploads } from "./uploads.js";
import { announce, arrange, avatar, confirm, notice, prompt, tell } from "./widgets.js";

const PAGES = { you: YouPage, activity: ActivityPage, network: NetworkPage, settings: SettingsPage };

class App {
  constructor() {
    this.root = document.getElementById("app");
    this.side = document.getElementById("side");
    this.main = document.getElementById("main");
    this.banner = document.getElementById("banner");
    this.calls = document.getElementById("calls");
    this.cards = new Map();
    // When the first card went away by itself and another one took its place.
    this.replacedAt = -Infinity;
    this.online = false;
    this.route = { page: "", peer: null, at: null };
    this.connection = new Connection(
      (event) => this.heard(event),
      (state) => this.state(state),
    );
    this.store = new Store(this.connection);
    this.uploads = new Uploads(this.store);
    this.store.watch((event) => event.event === "recounted" && this.title());
    this.tabs = new Tabs();
    watchDays(() => this.store.me && this.store.tell({ event: "day" }));
    addEventListener("hashchange", () => this.follow());
    onKeys(window, (event) => this.key(event));
    addEventListener("focus", () => this.view?.seen?.());
    addEventListener("visibilitychange", () => this.view?.seen?.());
    this.connection.connect();
  }

  // The connection to Punch

  state(state) {
    this.online = state === "open" && this.store.me !== null;
    // While it tries again, the reason that is shown stays.
    if (state !== "lost" || document.body.dataset.connection !== "full") document.body.dataset.connection = state;
    if (state === "locked") {
      this.locked();
      return;
    }
    if (state === "full") {
      this.full();
    } else if (state === "lost" && !this.card_) {
      const text = this.store.me
        ? "Punch does not answer. This page comes back by itself when it does; if you have started Punch anew, open the address that it has printed."
        : "Punch does not run. Start it again, and open the address that it prints.";
      if (!this.banner.firstChild) replace(this.banner, h("p", { class: "banner" }, text));
      if (!this.store.me) this.root.hidden = false;
    }
    this.side_?.later();
    this.view?.typed?.();
  }

  /** Show a notice instead of the page; without words, the page again. */
  instead(...words) {
    this.card_?.remove();
    this.card_ = words.length ? h("main", { class: "card locked" }, words) : null;
    this.root.hidden = Boolean(this.card_);
    document.body.classList.toggle("center", Boolean(this.card_));
    if (this.card_) document.body.append(this.card_);
  }

  locked() {
    watchKey(() => location.reload());
    this.instead(
      h("h1", {}, "This browser has no key"),
      h("p", {}, "Punch was started anew, or this is another browser. Each address that Punch prints opens the page in one browser, until Punch ends."),
      h("p", {}, "Open the address that Punch printed last: in this browser, and this page goes on as well. What you had begun to write is kept."),
      h("p", {}, "For a new address, type ", h("kbd", {}, "/web"), " in Punch’s terminal, or end Punch and start it again."),
    );
  }

  full() {
    const others = this.tabs.idle;
    const hint = (tab) => (tab.visible ? "open now" : `not looked at since ${timeOf(tab.seen / 1000)}`);
    this.instead(
      h("h1", {}, "There are too many pages"),
      h("p", {}, "Punch serves 32 pages at a time, and as many are open. Close one, and this page opens by itself."),
      others.length
        ? [h("p", {}, "Close these first; they were not looked at for longest:"), h("ul", { class: "idle" }, others.slice(0, 8).map((tab) => h("li", {}, h("b", {}, plain(tab.title, 80)), ` · ${hint(tab)}`)))]
        : h("p", {}, "The others are in other windows or browsers of yours on this machine: close those that you do not look at."),
    );
  }

  heard(event) {
    const first = event.event === "snapshot" && !this.store.me;
    if (event.event === "snapshot" && !first && event.id !== this.store.me.id) {
      location.reload(); // Another peer runs at this port now.
      return;
    }
    this.store.apply(event);
    if (event.event === "snapshot") {
      this.online = true;
      replace(this.banner);
      this.instead();
      if (first) {
        this.side_ = new Side(this);
        this.follow();
      } else {
        this.view?.typed?.();
      }
    }
    this.trouble();
    this.showCalls();
    this.title();
    this.tellOf(event);
  }

  trouble() {
    const trouble = this.store.historyTrouble;
    if (trouble) replace(this.banner, h("p", { class: "banner" }, trouble));
    else if (this.online) replace(this.banner);
  }

  title() {
    const { unread, questions, offers } = this.store;
    const here = this.route.page === "chat" ? `${this.store.nameOf(this.route.peer)} · ` : "";
    document.title = `${questions.length ? "Call! " : offers.length ? "Files! " : ""}${unread ? `(${unread}) ` : ""}${here}Punch`;
  }

  // Notifications

  tellOf(event) {
    const name = event.peer ? this.store.nameOf(event.peer) : "";
    const here = this.route.page === "chat" && this.route.peer === event.peer;
    // This tab shows the answers to its own commands. All tabs get other events, and one of them shows those.
    if (event.event === "error") {
      notice(plain(event.text));
      return;
    }
    if (event.event.startsWith("transfer-")) {
      if (this.tabs.speaks) this.tellOfTransfer(event, name, here);
      return;
    }
    if (event.event === "code-used" || event.event === "code-void") {
      if (this.route.page !== "you" && event.reason !== "withdrawn" && this.tabs.speaks) notice(event.text ? plain(event.text) : `You and ${name} know each other now`);
      return;
    }
    if (!["call", "message", "failed", "connected"].includes(event.event) || !this.tabs.speaks) return;
    const unseen = !here && !this.tabs.showElsewhere(event.peer);
    if (event.event === "call" && !event.decided) {
      announce(`${name} is calling. Alt Y accepts, Alt N refuses.`);
      this.notify(`${name} is calling`, "Open the page to accept or refuse.");
    } else if (event.event === "message") {
      if (unseen) announce(`New message from ${name}`);
      this.notify(name, plain(event.text, 120));
    } else if (event.event === "failed" && unseen) {
      notice(plain(event.text));
    } else if (event.event === "connected" && unseen) {
      notice(`Connected to ${name}`);
    }
  }

  tellOfTransfer(transfer, name, here) {
    if (transfer.event === "transfer-offered" && !transfer.outgoing) {
      announce(`${name} wants to send you ${titleOf(transfer)}. Alt Y accepts, Alt N refuses.`);
      this.notify(`${name} wants to send you files`, titleOf(transfer));
    } else if (transfer.event === "transfer-done") {
      const sentence = transfer.outgoing ? `${titleOf(transfer)} was sent to ${name}` : `${titleOf(transfer)} was received from ${name}`;
      if (here) announce(sentence);
      else notice(sentence);
      this.notify(name, sentence);
    } else if (transfer.event === "transfer-failed" && !["refused", "cancelled"].includes(transfer.reason)) {
      notice(plain(transfer.text));
    }
  }

  /** Where received files are, where the folder can't be opened from here. */
  showPaths(transfer) {
    return tell(titleOf(transfer), pathList(transfer));
  }

  notify(title, body) {
    if (!("Notification" in window) || this.tabs.anyVisible) return;
    if (Notification.permission !== "granted" || localStorage.getItem("punch-notify") !== "yes") return;
    const shown = new Notification(title, { body, icon: "icon.svg", tag: title });
    shown.addEventListener("click", () => window.focus());
  }

  // Commands

  /** Send a command, and show an error if it fails. Returns its answer, or null. */
  async try(command, fields = {}) {
    try {
      return await this.store.ask(command, fields);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      notice(error.message);
      return null;
    }
  }

  async call(peer, { strict = false } = {}) {
    if (/^[a-z2-7]{56}$/.test(peer)) {
      if (peer !== this.store.me.id) this.go(`/chat/${peer}`);
      if (!strict) {
        await this.try("call", { peer });
        return;
      }
    }
    await this.store.ask("call", { peer });
  }

  async rename(peer) {
    const person = this.store.person(peer);
    await prompt(`A name for ${this.store.nameOf(peer)}`, {
      text: "Only you see it. It can be used wherever an ID can.",
      label: "Name",
      value: person.petname ?? person.name,
      send: async (text) => {
        await this.store.ask("name", { peer, name: text.trim() || null });
      },
    });
  }

  async forget(peer) {
    if (await confirm(`Forget ${this.store.nameOf(peer)}?`, "They leave the address book: their name here is gone, and if they call, you are asked as with a stranger. Messages are kept.", "Forget")) {
      await this.try("forget", { peer });
    }
  }

  async export(peer) {
    const lines = [];
    let after = 0;
    while (after !== null) {
      const answer = await this.try("export", peer ? { peer, after } : { after });
      if (!answer) return;
      for (const message of answer.messages) lines.push(`${JSON.stringify(message)}\n`);
      after = answer.next;
    }
    const url = URL.createObjectURL(new Blob(lines, { type: "application/x-ndjson" }));
    const day = new Date().toISOString().slice(0, 10);
    h("a", { href: url, download: `punch-${peer ? peer.slice(0, 8) : "all"}-${day}.jsonl` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    notice(lines.length ? `Exported ${lines.length.toLocaleString("en")} messages` : "There are no messages to export");
  }

  // Calls

  showCalls() {
    // Calls have the ID of a peer as their key, offers of files the number of a transfer.
    const { questions, offers } = this.store;
    const wanted = new Set([...questions, ...offers.map((offer) => offer.transfer)]);
    const [first] = this.cards.values();
    for (const [key, card] of this.cards) {
      if (!wanted.has(key)) {
        const had = card.contains(document.activeElement);
        this.cards.delete(key);
        if (had) this.main.focus();
      }
    }
    for (const peer of questions) if (!this.cards.has(peer)) this.cards.set(peer, this.card(peer));
    for (const offer of offers) if (!this.cards.has(offer.transfer)) this.cards.set(offer.transfer, offerCard(this, offer));
    arrange(this.calls, [...this.cards.values()]);
    const [now] = this.cards.values();
    if (first && now && now !== first && !first.answered) this.replacedAt = performance.now();
  }

  card(peer) {
    const person = this.store.person(peer);
    const name = this.store.nameOf(peer);
    const who = person.petname
      ? "You know them by this name."
      : person.known
        ? "You have talked before."
        : "Nobody you know. Anyone can choose any name: compare the ID.";
    const answer = async (command) => {
      if (await this.try(command, { peer })) {
        this.store.questions = this.store.questions.filter((each) => each !== peer);
        this.showCalls();
        this.title();
        if (command === "accept") this.go(`/chat/${peer}`);
      }
    };
    const card = h(
      "section",
      { class: "call", "aria-label": `Call from ${name}` },
      h("div", { class: "who" }, avatar(peer, name, "wait"), h("div", { class: "two-lines" }, h("h2", {}, h("span", { class: "name", dir: "auto" }, name), " is calling"), h("p", { class: "soft small" }, who))),
      h("p", { class: "id", "aria-label": "ID of the caller" }, grouped(peer)),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", class: "button main", "aria-keyshortcuts": "Alt+Y", onclick: () => answer("accept") }, icon("call"), "Accept"),
        h("button", { type: "button", class: "button", "aria-keyshortcuts": "Alt+N", onclick: () => answer("reject") }, "Refuse"),
      ),
    );
    card.answer = answer;
    return card;
  }

  // Navigation

  go(path) {
    if (location.hash === `#${path}`) this.follow();
    else location.hash = path;
  }

  follow() {
    if (!this.store.me) return;
    const [, page = "", peer = null, at = null] = location.hash.split("/");
    const target = page === "chat" && /^[a-z2-7]{56}$/.test(peer ?? "") ? { page, peer, at: at ? Number(at) : null } : { page: page in PAGES ? page : "", peer: null, at: null };
    if (!target.page && this.store.chats().length === 0) target.page = "you";
    const home = !target.page;
    const shown = home ? "you" : target.page;
    const before = this.route;
    this.route = target;
    this.tabs.show(target.peer);
    document.body.dataset.pane = home ? "side" : "main";
    this.view?.close();
    this.view = shown === "chat" ? new ChatView(this, target.peer, target.at) : new PAGES[shown](this);
    replace(this.main, this.view.element);
    if (shown === "chat") this.view.typed();
    // On the first page, the focus stays where reading begins.
    if (before.page !== "" || !home) this.view.focus();
    this.side_.render();
    this.title();
  }

  // The keyboard

  answerFirst(answer) {
    // A key that was meant for the card before, which ended just now, must not answer this one.
    if (performance.now() < this.replacedAt + 1000) return;
    const [card] = this.cards.values();
    card.answered = true;
    card.answer(answer);
  }

  key(event) {
    if (document.querySelector("dialog[open]") || !this.store.me) return;
    const done = () => event.preventDefault();
    if (isControl(event, "k", "KeyK")) {
      done();
      if (this.narrow) this.go("/");
      this.side_.find.focus();
      this.side_.find.select();
    } else if (isControl(event, "/")) {
      done();
      this.shortcuts();
    } else if (this.cards.size && isAltLetter(event, "y")) {
      done();
      this.answerFirst("accept");
    } else if (this.cards.size && isAltLetter(event, "n")) {
      done();
      this.answerFirst("reject");
    } else if (isAltArrow(event, "ArrowDown")) {
      done();
      this.step(1);
    } else if (isAltArrow(event, "ArrowUp")) {
      done();
      this.step(-1);
    } else if (this.view?.togglePicture && isAltLetter(event, "p")) {
      done();
      this.view.togglePicture();
    } else if (event.key === "Escape") {
      if (this.route.page === "chat" && document.activeElement?.id !== "write") this.view.box.focus();
      else if (this.route.page && (this.route.page !== "chat" || this.narrow)) this.go("/");
    }
  }

  /** Whether there is room for only one of chat and list, and the chat is shown. */
  get narrow() {
    return getComputedStyle(this.side).display === "none";
  }

  step(by) {
    const chats = this.store.chats();
    if (!chats.length) return;
    const at = chats.findIndex((person) => person.peer === this.route.peer);
    const next = at < 0 ? 0 : (at + by + chats.length) % chats.length;
    this.go(`/chat/${chats[next].peer}`);
  }

  shortcuts() {
    const keys = [
      ["Ctrl K", "Find or call somebody, search messages"],
      ["Alt ↓  Alt ↑", "Next chat, previous chat"],
      ["Alt Y  Alt N", "Accept a call or files, refuse them"],
      ["Alt P", "Show or hide how you are connected"],
      ["Enter", "Send; with Shift, a new line"],
      ["Escape", "Close, go back"],
      ["Ctrl /", "This list"],
    ];
    tell(
      "Keyboard",
      h("dl", { class: "keys" }, keys.map(([key, what]) => [h("dt", {}, key.split("  ").map((each, index) => [index ? " " : "", h("kbd", {}, each)])), h("dd", {}, what)])),
    );
  }
}

keepKey();
new App();
