// Files that are sent and received: the cards of offers, and the list of transfers.

import { h, icon, iconButton, replace } from "./dom.js";
import { bytesText, count, plain, timeText, visible } from "./text.js";
import { arrange, avatar, copy, tell } from "./widgets.js";

const SHOWN = 8;

/** The name of what is sent, sanitized. */
export function titleOf({ items, is_text: isText }) {
  if (isText) return "a text";
  const first = plain(items[0].name, 60);
  return items.length === 1 ? first : `${first} and ${count(items.length - 1, "more", "more")}`;
}

/** The text that somebody has sent in place of files. */
const textDialog = (content) => h("div", { class: "section" }, h("p", { class: "sent-text", dir: "auto", tabindex: "0" }, visible(content)), h("div", {}, h("button", { type: "button", class: "button", onclick: () => copy(content, "The text was") }, icon("copy"), "Copy the text")));

const sizeText = (size) => (size === null ? "unknown size" : bytesText(size));

function itemText(item) {
  if (item.kind === "file") return sizeText(item.size);
  return `folder, ${count(item.files, "file")}, ${sizeText(item.size)}`;
}

/** What somebody offers: each item with its size, and with what is odd about its name. */
function itemList(items) {
  return h(
    "ul",
    { class: "offered", tabindex: items.length > 3 ? "0" : null, "aria-label": "What is offered" },
    items.map((item) =>
      h(
        "li",
        {},
        icon(item.kind === "file" ? "file" : "folder"),
        h("span", {}, h("span", { class: "name", dir: "auto" }, visible(item.name)), h("span", { class: "soft small" }, ` ${itemText(item)}`), item.oddities.map((oddity) => h("span", { class: "odd small" }, oddity))),
      ),
    ),
  );
}

/** The card of an offer that waits for an answer. */
export function offerCard(app, transfer) {
  const { store } = app;
  const { peer, items, size, is_text: isText } = transfer;
  const name = store.nameOf(peer);
  const answer = async (command) => {
    await app.try(command, { transfer: transfer.transfer });
    if (command === "accept-files") app.go(`/chat/${peer}`);
  };
  const what = isText ? " wants to send you a text" : items.length === 1 ? " wants to send you" : ` wants to send you ${count(items.length, "item")}, ${sizeText(size)}`;
  const card = h(
    "section",
    { class: "call offer", "aria-label": `Files from ${name}` },
    h("div", { class: "who" }, avatar(peer, name), h("div", { class: "two-lines" }, h("h2", {}, h("span", { class: "name", dir: "auto" }, name), what))),
    !isText && itemList(items),
    !isText && h("p", { class: "soft small" }, "Goes to ", h("span", { class: "mono" }, plain(store.downloads ?? "", 200)), ". Nothing there is overwritten."),
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "button main", "aria-keyshortcuts": "Alt+Y", onclick: () => answer("accept-files") }, "Accept"),
      h("button", { type: "button", class: "button", "aria-keyshortcuts": "Alt+N", onclick: () => answer("refuse-files") }, "Refuse"),
    ),
  );
  card.answer = (command) => answer(command === "accept" ? "accept-files" : "refuse-files");
  return card;
}

/** Events after which a link may have no path, or one again. */
const PATHS = new Set(["path-lost", "path", "connected", "disconnected"]);

/** How far a transfer is, in one line; `dark`: the link has no path now. */
export function stateText(transfer, rate, dark = false) {
  const { stage, outgoing, position, size, text } = transfer;
  if (stage === "offered" && transfer.is_text) return outgoing ? "Waits until they accept" : "Waits for your answer";
  if (stage === "offered") return outgoing ? `Waits until they accept · ${sizeText(size)}` : `Waits for your answer · ${sizeText(size)}`;
  if (stage === "done" && transfer.is_text) return outgoing ? "Sent" : "Received";
  if (stage === "done") return `${outgoing ? "Sent" : "Received"} · ${sizeText(size ?? position)}`;
  if (stage !== "running") return plain(text ?? "It has ended.");
  const facts = [size === null ? bytesText(position) : `${percent(position, size)} % of ${bytesText(size)}`];
  if (dark) facts.push("no path right now, it continues when there is one");
  else if (rate > 0) facts.push(`${bytesText(rate)}/s`);
  if (!dark && rate > 0 && size !== null && size > position) facts.push(`${timeText((size - position) / rate)} left`);
  return facts.join(" · ");
}

const percent = (position, size) => (size ? Math.floor((100 * position) / size) : 100);

/** One line of the list; it is updated in place, so that focus and screen readers stay. */
class Row {
  constructor(app, title, label) {
    this.app = app;
    this.bar = h("progress", { "aria-label": label });
    this.state = h("span", { class: "state-line small" });
    this.buttons = h("div", { class: "row" });
    this.mark = h("span", { class: "way", "aria-hidden": "true" });
    this.element = h("li", { class: "transfer" }, this.mark, h("div", { class: "two-lines" }, h("span", { class: "name", dir: "auto" }, title), this.state, this.bar), this.buttons);
  }

  show(state, position, size, buttons, key) {
    if (this.state.textContent !== state) this.state.textContent = state;
    this.bar.hidden = size === undefined;
    if (size) {
      this.bar.max = size;
      this.bar.value = Math.min(position, size);
    } else {
      this.bar.removeAttribute("value");
    }
    if (this.key !== key) {
      const had = this.buttons.contains(document.activeElement);
      this.key = key;
      replace(this.buttons, buttons());
      if (had) this.buttons.querySelector("button")?.focus();
    }
  }
}

/** The transfers with a peer, or all (null), and what this page sends to Punch for them. */
export class TransferList {
  constructor(app, peer = null) {
    this.app = app;
    this.store = app.store;
    this.peer = peer;
    this.rows = new Map();
    this.list = h("ul", { class: "transfers", "aria-label": "Files" });
    this.element = h("div", { class: "transfers-place", hidden: true }, this.list);
    this.render();
  }

  changed(event) {
    if (event.event === "snapshot" || event.event === "upload" || event.event.startsWith("transfer-") || PATHS.has(event.event)) this.render();
  }

  render() {
    const { store, app } = this;
    const transfers = [...store.transfers.values()].filter((each) => (this.peer === null || each.peer === this.peer) && (each.outgoing || each.stage !== "offered"));
    const uploads = this.peer === null ? [] : app.uploads.to(this.peer);
    const rows = [...uploads.map((each) => this.upload(each)), ...transfers.reverse().map((each) => this.transfer(each))];
    for (const key of this.rows.keys()) if (!uploads.includes(key) && !store.transfers.has(key)) this.rows.delete(key);
    this.element.hidden = !rows.length;
    arrange(this.list, rows.map((row) => row.element));
  }

  row(key, title, label) {
    let row = this.rows.get(key);
    if (!row) this.rows.set(key, (row = new Row(this.app, title, label)));
    return row;
  }

  upload(upload) {
    const title = plain(upload.name, 60);
    const row = this.row(upload, title, `Reading ${title}`);
    const state = `Reading · ${percent(upload.sent, upload.size)} % of ${bytesText(upload.size)}`;
    row.show(state, upload.sent, upload.size, () => h("button", { type: "button", class: "button", onclick: () => this.app.uploads.stop(upload) }, "Stop"), "upload");
    return row;
  }

  transfer(transfer) {
    const { store, app } = this;
    const title = titleOf(transfer);
    const row = this.row(transfer.transfer, title, `How much of ${title} is there`);
    const { stage, outgoing } = transfer;
    const whom = this.peer === null ? `${outgoing ? "To" : "From"} ${store.nameOf(transfer.peer)} · ` : "";
    const running = stage === "running" || stage === "waiting";
    row.element.dataset.stage = stage;
    if (!row.mark.firstChild) row.mark.append(icon(outgoing ? "upload" : "download"));
    row.show(`${whom}${stateText(transfer, store.rate(transfer.transfer), store.person(transfer.peer).link?.dark)}`, transfer.position, running && transfer.size ? transfer.size : undefined, () => this.buttons(transfer, app), stage);
    return row;
  }

  buttons(transfer, app) {
    const title = titleOf(transfer);
    const fields = { transfer: transfer.transfer };
    const over = transfer.stage === "done" || transfer.stage === "failed";
    const isText = transfer.is_text && transfer.content !== null && !transfer.outgoing;
    return [
      isText && h("button", { type: "button", class: "button", onclick: () => tell(`A text from ${this.store.nameOf(transfer.peer)}`, textDialog(transfer.content)) }, "Read it"),
      transfer.stage === "done" &&
        !transfer.outgoing &&
        !isText &&
        (this.store.opensFolders
          ? h("button", { type: "button", class: "button", "aria-label": `Open folder of ${title}`, onclick: () => app.try("open-folder", fields) }, icon("folder"), "Open folder")
          : h("button", { type: "button", class: "button", "aria-label": `Where it is: ${title}`, onclick: () => app.showPaths(transfer) }, icon("folder"), "Where it is")),
      over
        ? iconButton("close", `Take ${title} off the list`, () => app.try("dismiss-files", fields))
        : h("button", { type: "button", class: "button", "aria-label": `Stop ${title}`, onclick: () => app.try("stop-files", fields) }, "Stop"),
    ];
  }
}

/** The paths of what was received, to copy. */
export const pathList = ({ paths, left_out: leftOut, odd_names: oddNames }) =>
  h(
    "div",
    { class: "section" },
    paths.slice(0, SHOWN).map((path) => h("p", { class: "row" }, h("span", { class: "mono path" }, visible(path)), iconButton("copy", "Copy the path", () => copy(path, "The path was")))),
    paths.length > SHOWN && h("p", { class: "soft" }, `and ${count(paths.length - SHOWN, "more", "more")} in the same folder`),
    leftOut.length > 0 && h("p", { class: "soft" }, `This disk takes no symbolic links: ${count(leftOut.length, "link is", "links are")} left out.`),
    oddNames.map((text) => h("p", { class: "soft", dir: "auto" }, visible(text))),
  );
