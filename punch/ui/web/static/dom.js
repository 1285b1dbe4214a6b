// Elements without markup: everything is made by name, and text is text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "hidden") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** An HTML element: `h("button", {type: "button", onclick: go}, "Go")`. */
export const h = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);

/** An SVG element. */
export const s = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

/** Put other children into an element. */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

const ICONS = {
  back: ["M15 5l-7 7 7 7"],
  call: ["M6.6 3.8l2.6-.6 1.8 4.3-2 1.7a13 13 0 0 0 5.8 5.8l1.7-2 4.3 1.8-.6 2.6c-.2 1-1.1 1.7-2.1 1.6C11 18.400 5.600 13 5 5.900c-.1-1 .6-1.900 1.600-2.100z"],
  hangup: ["M3.200 14.600c-.7-.9-.6-2.100.2-2.900 4.800-4.400 12.400-4.400 17.200 0 .8.8.9 2 .2 2.900l-1.600 1.800-4-1.600v-2.700a11 11 0 0 0-6.400 0v2.700l-4 1.600z"],
  check: ["M5 12.500l4.500 4.500L19 7.500"],
  checks: ["M2 12.500l4.500 4.500L15 8", "M11 16l1.500 1.500L22 8"],
  clock: ["M12 7v5l3 2", "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18"],
  close: ["M6 6l12 12", "M18 6L6 18"],
  copy: ["M9 9h10v11H9z", "M5 15V4h10"],
  more: ["M5 12h.01", "M12 12h.01", "M19 12h.01"],
  network: ["M12 4a8 8 0 1 0 0 16a8 8 0 1 0 0-16", "M4 12h16", "M12 4c5 4.500 5 11.500 0 16", "M12 4c-5 4.500-5 11.500 0 16"],
  path: ["M5 15a2.500 2.500 0 1 0 .01 0", "M19 4a2.500 2.500 0 1 0 .01 0", "M7.500 17.500H14a3.500 3.500 0 0 0 0-7h-4a3.500 3.500 0 0 1 0-4h6.500"],
  search: ["M10.500 4a6.500 6.500 0 1 0 0 13a6.500 6.500 0 1 0 0-13", "M15.500 15.500L20 20"],
  send: ["M4 12l16-8-5 16-3.500-6.500z", "M11.500 13.500L20 4"],
  settings: ["M4 7h9", "M17 7h3", "M15 5v4", "M4 17h3", "M11 17h9", "M9 15v4"],
  sun: ["M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8", "M12 2.500v2", "M12 19.500v2", "M2.500 12h2", "M19.500 12h2", "M5.300 5.300l1.400 1.400", "M17.300 17.300l1.400 1.400", "M18.700 5.300l-1.400 1.400", "M6.700 17.300l-1.400 1.400"],
  moon: ["M19.500 14.500A8 8 0 0 1 9.500 4.500a8 8 0 1 0 10 10z"],
  auto: ["M12 4a8 8 0 1 0 0 16a8 8 0 1 0 0-16", "M12 4v16", "M12 8h6.500", "M12 12h8", "M12 16h6.500"],
  keyboard: ["M3 7h18v11H3z", "M7 11h.01", "M11 11h.01", "M15 11h.01", "M8 14.500h8"],
};

/** One of our line icons; what it means is told beside it. */
export const icon = (name) =>
  s(
    "svg",
    { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" },
    ICONS[name].map((d) => s("path", { d })),
  );

/** A button with an icon only; its name is for those who don't see it, and shows when pointed at. */
export const iconButton = (name, label, onclick, more = {}) =>
  h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...more }, icon(name));

/** Text for screen readers only. */
export const unseen = (text) => h("span", { class: "unseen" }, text);
