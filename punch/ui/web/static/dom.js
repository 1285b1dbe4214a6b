// Makes elements by name, without markup: text is always a text node.

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

/** Replace the children of an element. */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

const PHONE = "M6.500 3.500l2.700-.5 2 4.300-2.100 1.900a13 13 0 0 0 5.700 5.700l1.900-2.100 4.300 2-.5 2.700c-.2 1.100-1.200 1.900-2.300 1.800C10.800 18.800 5.200 13.200 4.700 5.800c-.1-1.100.7-2.100 1.800-2.300z";

const ICONS = {
  back: ["M15 5l-7 7 7 7"],
  call: [PHONE],
  hangup: [PHONE],
  activity: ["M8 19V6", "M4.500 9.500L8 6l3.500 3.500", "M16 5v13", "M12.500 14.500L16 18l3.500-3.500"],
  attach: ["M19 11.500l-7.300 7.300a4.600 4.600 0 0 1-6.500-6.500l7.600-7.600a3 3 0 0 1 4.300 4.300l-7.300 7.300a1.500 1.500 0 0 1-2.100-2.100l6.700-6.700"],
  download: ["M12 4v12", "M6.500 11L12 16.500 17.500 11", "M5 20h14"],
  file: ["M6.500 3.500h7l4.500 4.500v12.500h-11.500z", "M13.500 3.500V8H18"],
  folder: ["M3.500 6h6l2 2.500h9v10.500h-17z"],
  upload: ["M12 16.500V4.500", "M6.500 10L12 4.500 17.500 10", "M5 20h14"],
  check: ["M5 12.500l4.500 4.500L19 7.500"],
  checks: ["M2 12.500l4.500 4.500L15 8", "M11 16l1.500 1.500L22 8"],
  clock: ["M12 7.500V12l3 2", "M12 3.500a8.500 8.500 0 1 0 .01 0"],
  close: ["M6.500 6.500l11 11", "M17.500 6.500l-11 11"],
  copy: ["M9 9h10.500v10.500H9z", "M5 15V4.500h10.500"],
  more: ["M5.500 12h.01", "M12 12h.01", "M18.500 12h.01"],
  network: ["M12 3.500a8.500 8.500 0 1 0 .01 0", "M3.500 12h17", "M12 3.500c5 4.800 5 12.200 0 17", "M12 3.500c-5 4.800-5 12.200 0 17"],
  path: ["M5 16a2.300 2.300 0 1 0 .01 0", "M19 3.500a2.300 2.300 0 1 0 .01 0", "M7.500 18.300H14a3.700 3.700 0 0 0 0-7.400h-4a2.600 2.600 0 0 1 0-5.200h6.500"],
  search: ["M10.500 4a6.500 6.500 0 1 0 .01 0", "M15.300 15.300L20 20"],
  send: ["M12 19V5.500", "M6 11l6-6 6 6"],
  settings: ["M4 7h8", "M17 7h3", "M14.500 4.500a2.500 2.500 0 1 0 .01 0", "M4 17h3", "M12 17h8", "M9.500 14.500a2.500 2.500 0 1 0 .01 0"],
  sun: ["M12 8a4 4 0 1 0 .01 0", "M12 2.500v2", "M12 19.500v2", "M2.500 12h2", "M19.500 12h2", "M5.300 5.300l1.400 1.400", "M17.300 17.300l1.400 1.400", "M18.700 5.300l-1.400 1.400", "M6.700 17.300l-1.400 1.400"],
  moon: ["M19.500 14.500A8 8 0 0 1 9.500 4.500a8 8 0 1 0 10 10z"],
  auto: ["M12 3.500a8.500 8.500 0 1 0 .01 0", "M12 3.500v17", "M12 8h7", "M12 12h8.500", "M12 16h7"],
  keyboard: ["M3 6.500h18v11.500H3z", "M7 10.500h.01", "M11 10.500h.01", "M15 10.500h.01", "M8 14.500h8"],
};

/** One of the line icons, hidden from screen readers: its meaning stands beside it. */
export const icon = (name) =>
  s(
    "svg",
    { viewBox: "0 0 24 24", class: `icon i-${name}`, "aria-hidden": "true", focusable: "false" },
    ICONS[name].map((d) => s("path", { d })),
  );

/** A button with an icon only; its name is for screen readers, and is shown when it is pointed at. */
export const iconButton = (name, label, onclick, more = {}) =>
  h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...more }, icon(name));

/** Text for screen readers only. */
export const unseen = (text) => h("span", { class: "unseen" }, text);
