// Web addresses in a text, as links that lead where they seem to.

import { h } from "./dom.js";
import { visible, withoutIsolates } from "./text.js";

// These end an address: invisible control characters, quotation brackets, and the punctuation of scripts without spaces.
// Joiners, which are parts of words in Persian and Indian scripts, belong to it where they stand between such letters.
const ADDRESS =
  /(?<![\p{Script=Latin}\p{N}_])https?:\/\/(?:[^\s\p{C}\p{Z}<>"«»“”„「」『』【】〈〉《》（）。、，；：！？]|(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f\p{C}\p{Z}]))+/giu;

// These are not the end of an address, in no script: what ends sentences and their parts, and quotation marks.
const AFTER = /[.,;:!?'…*_~|`\p{Terminal_Punctuation}\p{Pi}\p{Pf}\p{Pe}]/u;

const CLOSING = { ")": "(", "]": "[", "}": "{" };

/** An address without punctuation at its end, and without brackets that it does not open: they belong to the sentence. */
function trimmed(address) {
  const left = {};
  for (const character of address) left[character] = (left[character] ?? 0) + 1;
  let end = address.length;
  for (;;) {
    const last = String.fromCodePoint(address.codePointAt(/[\udc00-\udfff]/.test(address[end - 1]) ? end - 2 : end - 1));
    const opening = CLOSING[last];
    if (opening) {
      if ((left[opening] ?? 0) >= left[last]) break;
    } else if (!AFTER.test(last)) {
      break;
    }
    left[last] -= 1;
    end -= last.length;
  }
  return address.slice(0, end);
}

/** A link to an address; null if it is none, or if it leads elsewhere than it seems to (`user@host`). */
function link(address) {
  const url = URL.parse ? URL.parse(address) : parsed(address);
  if (!url || !/^https?:$/.test(url.protocol) || !url.hostname || url.username || url.password) return null;
  const [, rest] = /^[^/]*\/\/[^/?#\\]*(.*)$/su.exec(address);
  // The host as the browser asks for it: letters that look like others are spelled out (xn--…).
  return h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer", dir: "ltr" }, visible(`${url.protocol}//${url.host}${rest}`));
}

function parsed(address) {
  try {
    return new URL(address);
  } catch {
    return null;
  }
}

/** A text with its addresses as links; the rest is shown as `visible` does. */
export function linked(said) {
  // Before it is cut into pieces: isolates come in pairs.
  const text = withoutIsolates(said);
  const fragment = document.createDocumentFragment();
  let at = 0;
  for (const match of text.matchAll(ADDRESS)) {
    const address = trimmed(match[0]);
    const element = link(address);
    if (!element) continue;
    fragment.append(visible(text.slice(at, match.index)), element);
    at = match.index + address.length;
  }
  fragment.append(visible(text.slice(at)));
  return fragment;
}
