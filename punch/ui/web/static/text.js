// Text of others, made harmless: it goes into text nodes only, and what would act unseen is spelled out.

const REORDERING = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069";
// eslint-disable-next-line no-control-regex
const ACTING = new RegExp(
  `([\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f${REORDERING}\\u2028\\u2029\\ud800-\\udfff\\ue000-\\uf8ff\\u{e0000}-\\u{e007f}])`,
  "u",
);
const ACTING_ALL = new RegExp(ACTING.source, "gu");

export const MAX_NAME = 40;

function escape(character) {
  const code = character.codePointAt(0);
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
}

/** Text nodes, with a marked escape for each character that acts instead of being seen. */
export function visible(text) {
  const fragment = document.createDocumentFragment();
  text
    .replace(/\r\n/g, "\n")
    .split(ACTING)
    .forEach((part, index) => {
      if (index % 2) {
        const mark = document.createElement("span");
        mark.className = "escape";
        mark.textContent = escape(part);
        mark.title = "A character that would act instead of being seen";
        fragment.append(mark);
      } else if (part) {
        fragment.append(part);
      }
    });
  return fragment;
}

/** The same as one string, for titles and announcements. */
export function plain(text, limit = Infinity) {
  const shown = text.replace(ACTING_ALL, escape).replace(/\s+/g, " ").trim();
  if (shown.length <= limit) return shown;
  return `${[...shown.slice(0, 2 * limit)].slice(0, limit - 1).join("")}…`;
}

export const shortId = (id) => `${id.slice(0, 8)}…`;

/** An ID as a person compares it: in groups of four. */
export const grouped = (id) => id.match(/.{1,4}/g).join(" ");

/** What was typed, if it may be an ID: without what people put in between. */
export function asId(typed) {
  const compact = typed.replace(/[\s\p{Pd}]/gu, "").toLowerCase();
  return /^[a-z2-7]{56}$/.test(compact) ? compact : null;
}

export const bytesOf = (text) => new TextEncoder().encode(text).length;

export const count = (number, thing, things = `${thing}s`) =>
  `${number.toLocaleString("en")} ${number === 1 ? thing : things}`;

export function milliseconds(seconds) {
  const value = seconds * 1000;
  return value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

const PATHS = {
  host: "Direct, on the same network",
  srflx: "Direct, through the NATs",
  prflx: "Direct, through the NATs",
  relay: "Through a relay",
};

export const pathInWords = (path) => PATHS[path] ?? plain(path, 20);

export const shortPath = (path) => ({ host: "Same network", relay: "Relayed" })[path] ?? "Direct";

/** Parts of a text that fit into one message each, cut at lines or spaces where there are some. */
export function inParts(text, limit) {
  const parts = [];
  let rest = text;
  while (bytesOf(rest) > limit) {
    let end = Math.min(rest.length, limit);
    while (bytesOf(rest.slice(0, end)) > limit) end = Math.floor(end * 0.9);
    const line = rest.lastIndexOf("\n", end);
    const space = rest.lastIndexOf(" ", end);
    if (line > end / 2) end = line + 1;
    else if (space > end / 2) end = space + 1;
    else if (/[\ud800-\udbff]/.test(rest[end - 1])) end -= 1;
    parts.push(rest.slice(0, end));
    rest = rest.slice(end);
  }
  if (rest.trim()) parts.push(rest);
  return parts;
}

// Times

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "long" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const shortDate = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

export const timeOf = (seconds) => clock.format(seconds * 1000);

const midnight = (seconds) => new Date(seconds * 1000).setHours(0, 0, 0, 0);

function daysAgo(seconds) {
  return Math.round((midnight(Date.now() / 1000) - midnight(seconds)) / 86400000);
}

export function dayOf(seconds) {
  const days = daysAgo(seconds);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  return days > 1 && days < 7 ? weekday.format(seconds * 1000) : date.format(seconds * 1000);
}

export function whenOf(seconds) {
  const days = daysAgo(seconds);
  if (days === 0) return timeOf(seconds);
  return days === 1 ? "Yesterday" : shortDate.format(seconds * 1000);
}
