// Codes, by which two people get into each other's address book: one that waits here, and the field for one of theirs.

import { h, icon, replace } from "./dom.js";
import { composes, onKeys } from "./keys.js";
import { count, plain, visible } from "./text.js";
import { copy, qrCode } from "./widgets.js";

const TICK = 5000;

/** Letters after which there is one word only. */
const ENOUGH = 3;

let words = null;

/** The words of codes, in order; asked for once. */
async function loadWords() {
  if (words) return;
  try {
    const answer = await fetch("words.txt");
    if (answer.ok) words = (await answer.text()).split(/\s+/).filter((word) => /^[a-z]+$/.test(word));
  } catch {
    // Without Punch there is nothing to complete; the next time that the field is entered, it is tried again.
  }
}

/** The rest of the word that a code ends in, if there is only one such word; else "". */
export function restOfWord(typed, all) {
  const [begun] = /[a-z]*$/i.exec(typed);
  if (begun.length < ENOUGH) return "";
  const fitting = all.filter((word) => word.startsWith(begun.toLowerCase()));
  return fitting.length === 1 ? fitting[0].slice(begun.length) : "";
}

/** Complete the word before the cursor: the rest is selected, so that it is overwritten by typing on. */
function complete(field, event) {
  if (!words || composes(event) || event.inputType !== "insertText") return;
  const { value } = field;
  if (field.selectionEnd !== value.length) return;
  const rest = restOfWord(value, words);
  if (!rest) return;
  field.value = value + rest;
  field.setSelectionRange(value.length, value.length + rest.length);
}

/** A key that ends a word takes the completed one, and is typed after it. */
function accept(field, event) {
  const completed = field.selectionStart < field.selectionEnd && field.selectionEnd === field.value.length;
  if (completed && ["-", " ", "Tab"].includes(event.key) && !event.ctrlKey && !event.altKey && !event.metaKey) {
    field.setSelectionRange(field.value.length, field.value.length);
    if (event.key === "Tab" && !event.shiftKey && field.value.split(/[^\p{L}\p{N}]+/u).length < 4) {
      event.preventDefault();
      field.value += "-";
    }
  }
}

/** The card with both. */
export class CodesCard {
  constructor(app) {
    this.app = app;
    this.store = app.store;
    this.name = h("input", { class: "field", id: "code-name", placeholder: "What they call themselves", autocomplete: "off", spellcheck: "false", maxlength: 64 });
    this.field = h("input", {
      class: "field mono",
      id: "code-typed",
      placeholder: "48213-mayonnaise-coyote-tulip",
      autocomplete: "off",
      autocapitalize: "none",
      spellcheck: "false",
      maxlength: 200,
      "aria-describedby": "code-hint code-problem",
      "aria-autocomplete": "inline",
      onfocus: loadWords,
      oninput: (event) => complete(this.field, event),
    });
    onKeys(this.field, (event) => accept(this.field, event));
    this.problem = h("p", { class: "problem", role: "alert", id: "code-problem" });
    this.joinButton = h("button", { class: "button" }, "Use it");
    this.ours = h("div", { class: "own-code" });
    this.outcome = h("div", { role: "status" });
    this.element = h(
      "div",
      { class: "card codes" },
      h("h2", {}, "Get to know somebody by a code"),
      h("p", { class: "soft small" }, "One of you makes a code, and the other one types it in. Then each of you is in the other’s address book, and can call."),
      h("div", {}, h("label", { class: "label", for: "code-name" }, "Your name for them"), this.name),
      h(
        "div",
        { class: "two-codes" },
        this.ours,
        h(
          "form",
          { onsubmit: (event) => (event.preventDefault(), this.join()) },
          h("label", { class: "label", for: "code-typed" }, "A code of theirs"),
          h("div", { class: "row" }, this.field, this.joinButton),
          h("p", { class: "soft small", id: "code-hint" }, "A number and three words. After three letters, a word is completed."),
          this.problem,
        ),
      ),
      this.outcome,
    );
    this.show();
    this.timer = setInterval(() => this.showTime(), TICK);
  }

  close() {
    clearInterval(this.timer);
  }

  changed(event) {
    if (["snapshot", "code", "code-used", "code-void"].includes(event.event)) this.show();
  }

  show() {
    const { code, met, codeTrouble } = this.store;
    const focused = this.ours.contains(document.activeElement);
    this.time = null;
    if (code) {
      this.time = h("p", { class: "soft small" });
      replace(
        this.ours,
        h("p", { class: "label" }, "Your code"),
        h("p", { class: "code mono", id: "my-code" }, code.code.split("-").map((part, index) => [index ? "-\u200b" : "", part])),
        h("div", { class: "code-qr" }, qrCode(code.qr, "The code as a QR code")),
        this.time,
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", class: "button main", onclick: () => copy(code.code, "The code was") }, icon("copy"), "Copy the code"),
          h("button", { type: "button", class: "button", onclick: () => this.app.try("uninvite") }, "Withdraw"),
        ),
      );
      this.showTime();
    } else {
      replace(
        this.ours,
        h("p", { class: "label" }, "Your code"),
        h("div", {}, h("button", { type: "button", class: "button", onclick: (event) => this.invite(event.currentTarget) }, codeTrouble ? "Make another code" : "Make a code")),
        codeTrouble && h("p", { class: "problem", role: "alert" }, plain(codeTrouble)),
      );
    }
    if (focused) this.ours.querySelector("button")?.focus();
    replace(this.outcome, met && this.metText(met));
  }

  /** Both know each other now. */
  metText(met) {
    const name = this.store.nameOf(met.peer);
    return h(
      "p",
      { class: "met" },
      h("b", {}, "You and ", h("span", { class: "name", dir: "auto" }, visible(name)), " know each other now. "),
      met.problem && `${plain(met.problem)} `,
      met.blocked ? "You have blocked them; unblock them in the settings." : h("a", { href: `#/chat/${met.peer}` }, `Write to ${name}, or call`),
    );
  }

  showTime() {
    if (!this.time || !this.store.code) return;
    const minutes = Math.ceil((this.store.code.until - Date.now() / 1000) / 60);
    this.time.textContent = `Tell it to one person. It works once, within ${count(Math.max(1, minutes), "minute")}. This page waits.`;
  }

  async invite(button) {
    button.disabled = true;
    await this.app.try("invite", { name: this.name.value.trim() || null });
    button.disabled = false;
  }

  async join() {
    this.problem.textContent = "";
    this.joinButton.disabled = true;
    replace(this.outcome, h("p", { class: "soft" }, "Asking the other side…"));
    this.store.met = null;
    try {
      this.store.knows(await this.store.ask("join", { code: this.field.value, name: this.name.value.trim() || null }));
      this.field.value = "";
      this.name.value = "";
    } catch (error) {
      this.problem.textContent = error.message;
      this.field.focus();
    }
    this.joinButton.disabled = false;
    this.show();
  }
}
