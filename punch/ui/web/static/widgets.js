// Parts that several views use: avatars, notices, dialogs, menus.

import { h, iconButton, replace, s } from "./dom.js";
import { composes, onKeys } from "./keys.js";
import { visible } from "./text.js";

/** Put elements into this order, moving only those that are elsewhere, so that focus and screen readers stay. */
export function arrange(parent, elements) {
  let at = parent.firstChild;
  for (const element of elements) {
    if (element === at) at = at.nextSibling;
    else parent.insertBefore(element, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

const hueOf = (peer) => [...peer.slice(0, 10)].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);

export function avatar(peer, name, dot = null) {
  const letter = [...name.replace(/[^\p{L}\p{N}]/gu, "")][0] ?? "?";
  const element = h("span", { class: "avatar", "aria-hidden": "true" }, letter.toUpperCase());
  element.style.setProperty("--hue", hueOf(peer));
  if (dot) element.append(h("span", { class: `dot ${dot}` }));
  return element;
}

export const nameElement = (text, tag = "span") => h(tag, { class: "name", dir: "auto" }, visible(text));

export function qrCode({ size, path }, label) {
  return s(
    "svg",
    { class: "qr", viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": label, "shape-rendering": "crispEdges" },
    s("path", { d: path }),
  );
}

/** Show a sentence that disappears by itself. */
export function notice(text) {
  const element = h("div", { class: "notice" }, visible(text));
  const place = document.getElementById("notices");
  place.append(element);
  while (place.children.length > 3) place.firstChild.remove();
  setTimeout(() => element.remove(), 3000 + 50 * text.length);
}

/** Have screen readers say a text at once. */
export function announce(text) {
  document.getElementById("announce").textContent = text;
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    notice(`${what} copied`);
  } catch {
    notice("The browser did not let this page copy: select the text instead.");
  }
}

function openDialog(title, build) {
  return new Promise((resolve) => {
    const heading = h("h2", { id: "dialog-title" }, title);
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" });
    const close = (value) => {
      answer = value;
      dialog.close();
    };
    let answer = null;
    dialog.append(build(heading, close));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    keepWhileComposing(dialog);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Keep the dialog open on Escape while that belongs to an input method. */
function keepWhileComposing(dialog) {
  let composing = false;
  dialog.addEventListener("compositionstart", () => (composing = true));
  dialog.addEventListener("compositionend", () => (composing = false));
  dialog.addEventListener("cancel", (event) => composing && event.preventDefault());
  dialog.addEventListener("keydown", (event) => event.key === "Escape" && composes(event) && event.preventDefault());
}

/** Ask the user; resolves with whether they agree. */
export async function confirm(title, text, action, { danger = false } = {}) {
  return (
    (await openDialog(title, (heading, close) =>
      h(
        "form",
        { method: "dialog", onsubmit: (event) => (event.preventDefault(), close(true)) },
        h("div", {}, heading, h("p", { class: "soft" }, text)),
        h(
          "div",
          { class: "buttons" },
          h("button", { type: "button", class: "button", onclick: () => close(null), autofocus: true }, "Cancel"),
          h("button", { type: "submit", class: `button main${danger ? " danger" : ""}` }, action),
        ),
      ),
    )) === true
  );
}

/** Ask for a line of text; resolves with it, or null. If `send` rejects it, the error is shown and the text stays. */
export function prompt(title, { text = "", label, value = "", action = "Save", send, extra = null, maxlength = 64 }) {
  return openDialog(title, (heading, close) => {
    const problem = h("p", { class: "problem", role: "alert" });
    const field = h("input", { class: "field", id: "dialog-field", value, maxlength, autocomplete: "off", spellcheck: "false" });
    const submit = async (event) => {
      event.preventDefault();
      problem.textContent = "";
      try {
        close((await send(field.value)) ?? field.value);
      } catch (error) {
        problem.textContent = error.message;
        field.focus();
      }
    };
    queueMicrotask(() => field.select());
    return h(
      "form",
      { onsubmit: submit },
      h("div", {}, heading, text && h("p", { class: "soft" }, text)),
      h("div", {}, h("label", { class: "label", for: "dialog-field" }, label), field, problem),
      h(
        "div",
        { class: "buttons" },
        extra && h("button", { type: "button", class: "button", onclick: async () => (await extra.run(), close(null)) }, extra.label),
        h("button", { type: "button", class: "button", onclick: () => close(null) }, "Cancel"),
        h("button", { type: "submit", class: "button main" }, action),
      ),
    );
  });
}

/** Show a text in a dialog. */
export const tell = (title, content) =>
  openDialog(title, (heading, close) =>
    h("form", { onsubmit: (event) => (event.preventDefault(), close(null)) }, h("div", {}, heading, content), h("div", { class: "buttons" }, h("button", { class: "button main", autofocus: true }, "Close"))),
  );

/** A button that opens a list of actions: `entries()` gives `{label, run, danger}`. */
export function menuButton(label, entries) {
  const menu = h("div", { class: "menu", role: "menu", "aria-label": label, hidden: true });
  const button = iconButton("more", label, () => (menu.hidden ? open() : close()), {
    "aria-haspopup": "menu",
    "aria-expanded": "false",
  });
  const place = h("div", { class: "menu-place" }, button, menu);
  const items = () => [...menu.querySelectorAll("button")];
  function open() {
    replace(
      menu,
      entries().map(({ label: text, run, danger }) =>
        h("button", { type: "button", role: "menuitem", tabindex: "-1", class: danger ? "danger" : null, onclick: () => (close(), run()) }, text),
      ),
    );
    menu.hidden = false;
    button.setAttribute("aria-expanded", "true");
    items()[0].focus();
    document.addEventListener("pointerdown", outside);
  }
  function close() {
    menu.hidden = true;
    button.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", outside);
    if (menu.contains(document.activeElement) || document.activeElement === document.body) button.focus();
  }
  const outside = (event) => place.contains(event.target) || close();
  onKeys(place, (event) => {
    if (menu.hidden) return;
    const all = items();
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
    } else if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      close();
      button.focus();
    } else if (event.key === "Tab") {
      close();
    }
  });
  return place;
}
