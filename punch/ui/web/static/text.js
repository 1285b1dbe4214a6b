// Sanitizes text of other peers: it goes into text nodes only, and invisible control characters are written as escapes.

import { DROPPED, END_ISOLATE, ESCAPED, FLAG, ISOLATES } from "./shown.js";

const ACTING = new RegExp(`${FLAG}|[${DROPPED}]|([${ESCAPED}])`, "gu");

export const MAX_NAME = 40;

function escape(character) {
  const code = character.codePointAt(0);
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
}

const ISOLATE = new RegExp(`[${ISOLATES}\n]`, "gu");

/** A text without the isolates that begin and end in one line. */
export function withoutIsolates(text) {
  let open = [];
  const paired = new Set();
  for (const { 0: character, index } of text.matchAll(ISOLATE)) {
    if (character === "\n") open = [];
    else if (character !== END_ISOLATE) open.push(index);
    else if (open.length) paired.add(open.pop()).add(index);
  }
  return text.replace(ISOLATE, (character, index) => (paired.has(index) ? "" : character));
}

/** A text in pieces: strings, and `{ acting }` for each control character that is shown as an escape. */
function pieces(text) {
  const found = [];
  let end = 0;
  const whole = withoutIsolates(text.replace(/\r\n/g, "\n"));
  for (const match of whole.matchAll(ACTING)) {
    const flag = match[0].length > 2 ? match[0] : "";
    found.push(whole.slice(end, match.index) + flag);
    if (match[1] !== undefined) found.push({ acting: match[1] });
    end = match.index + match[0].length;
  }
  found.push(whole.slice(end));
  return found;
}

/** Text nodes, with a marked escape for each control character. */
export function visible(text) {
  const fragment = document.createDocumentFragment();
  let plain = "";
  for (const piece of pieces(text)) {
    if (typeof piece === "string") {
      plain += piece;
      continue;
    }
    if (plain) fragment.append(plain);
    plain = "";
    const mark = document.createElement("span");
    mark.className = "escape";
    mark.textContent = escape(piece.acting);
    mark.title = "A character that would act on the text instead of being shown";
    fragment.append(mark);
  }
  if (plain) fragment.append(plain);
  return fragment;
}

const DRAWN = new Intl.Segmenter();

/** The largest place up to `index` where a text can be cut, so that nothing is cut that is drawn as one. */
export function cutBefore(text, index) {
  if (index >= text.length) return text.length;
  const { index: begin } = DRAWN.segment(text).containing(index);
  return index - begin < 32 ? begin : index;
}

/** A text, or its beginning with an ellipsis. */
export const shortened = (text, limit) => (text.length <= limit ? text : `${text.slice(0, cutBefore(text, limit - 1))}…`);

/** The same as one string, for titles and announcements. */
export function plain(text, limit = Infinity) {
  const whole = pieces(text).map((piece) => (typeof piece === "string" ? piece : escape(piece.acting)));
  return shortened(whole.join("").replace(/\s+/g, " ").trim(), limit);
}

export const shortId = (id) => `${id.slice(0, 8)}…`;

/** An ID in groups of four, for people to compare. */
export const grouped = (id) => id.match(/.{1,4}/g).join(" ");

/** What was typed without separators, if it may be an ID. */
export function asId(typed) {
  const compact = typed.replace(/[\s\p{Pd}\p{Cf}]/gu, "").toLowerCase();
  return /^[a-z2-7]{56}$/.test(compact) ? compact : null;
}

/** Characters of which one is a word or a syllable, and pictographs. */
const MEANS_A_WORD = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Bopomofo}\p{Script=Yi}\p{Extended_Pictographic}]/u;

/** Whether a text is long enough to search for: two letters, or one character that is a word by itself. */
export const isEnough = (typed) => [...typed].length > 1 || MEANS_A_WORD.test(typed);

/** A sentence that says why a text is no ID, if it looks like one; else null. */
export function notAnId(typed) {
  const text = typed.replace(/\p{Cf}/gu, "").trim();
  if (/^punch:\/\//i.test(text)) return "This is the address of a rendezvous, for Punch’s option --rendezvous. To call somebody, paste their ID.";
  if (/^https?:\/\/(127\.0\.0\.1|localhost)(:\d+)?\/\?token=/i.test(text)) return "This is the address of somebody’s own page of Punch: it opens in a browser on their machine. To call them, paste their ID.";
  if (/^[a-z][a-z\d+.-]*:\/\/|^www\./i.test(text)) return "This is a web address, not an ID. An ID has 56 letters and digits, with no dots or slashes.";
  if (/^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(text)) return "This is an e-mail address. Punch calls by ID: ask for theirs.";
  const parts = text.split(/[\s\p{Pd}]+/u);
  const compact = parts.join("");
  // One piece, or groups of the same size: not the words of a sentence.
  const isOnePiece = parts.slice(0, -1).every((part) => part.length === parts[0].length);
  if (!isOnePiece || !/^[a-z0-9]{41,80}$/i.test(compact)) return null;
  return `An ID has 56 letters and digits; this has ${compact.length}.`;
}

export const bytesOf = (text) => new TextEncoder().encode(text).length;

export const count = (number, thing, things = `${thing}s`) =>
  `${number.toLocaleString("en")} ${number === 1 ? thing : things}`;

export function milliseconds(seconds) {
  const value = seconds * 1000;
  return value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

const UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB"];

/** A number of bytes, in powers of ten. */
export function bytesText(bytes) {
  if (Math.round(bytes) === 1) return "1 byte";
  let unit = 0;
  let number = bytes;
  while (number >= 999.5 && unit < UNITS.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${number.toFixed(unit && number < 9.95 ? 1 : 0)} ${UNITS[unit]}`;
}

/** A time that is left: "5 s", "3 min 20 s", "2 h 5 min". */
export function timeText(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

const PATHS = {
  host: "Direct, on the same network",
  srflx: "Direct, through the NATs",
  prflx: "Direct, through the NATs",
  relay: "Through a relay",
};

export const pathInWords = (path, protocol) =>
  (PATHS[path] ?? plain(path, 20)).replace(/^Direct/, protocol === "tcp" ? "Direct over TCP" : "Direct");

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
