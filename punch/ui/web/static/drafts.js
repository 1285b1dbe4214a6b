// Drafts: what was typed in each chat and not sent yet, in the browser's storage, for one identity.

const PREFIX = "punch-draft:";

/**
 * A draft has its `text`; the messages in its beginning that were sent but may not have been stored, `unsure`, each
 * with its `id`, its `text` and the `glue` after it; and the `time` when it was last changed.
 */
const EMPTY = { text: "", unsure: [], time: 0 };

/** Messages that were not stored, and what was typed after them, as one text. */
export function joined(messages, text) {
  const all = messages.map((each) => each.text + each.glue).join("");
  return text ? all + text : all.replace(/\n$/, "");
}

/** A draft without those messages in its beginning that were stored, for which `taken(id)` is true. */
export function without({ text, unsure }, taken) {
  let rest = text;
  const left = [...unsure];
  while (left.length && taken(left[0].id) && rest.startsWith(left[0].text)) {
    const { text: said, glue } = left.shift();
    rest = rest === said ? "" : rest.slice((said + glue).length);
  }
  return { text: rest, unsure: left };
}

export class Drafts {
  #me = null;
  #keeps = false;
  #here = new Map();
  #watcher = null;

  constructor() {
    // Another tab of this browser has the same drafts.
    addEventListener("storage", ({ key, newValue }) => {
      const peer = key?.startsWith(this.#prefix) ? key.slice(this.#prefix.length) : null;
      if (peer === null || !this.#keeps) return;
      this.#here.set(peer, parsed(newValue));
      if (this.#watcher?.peer === peer) this.#watcher.changed();
    });
  }

  get #prefix() {
    return `${PREFIX}${this.#me}:`;
  }

  /** `keeps`: whether the history is kept on disk. `erased`: when the history with each peer was erased last. */
  open(me, keeps, erased) {
    if (this.#me !== me) this.#here.clear();
    this.#me = me;
    this.#keeps = keeps;
    for (const key of this.#stored()) {
      const peer = key.slice(this.#prefix.length);
      if (!keeps || parsed(localStorage.getItem(key)).time < Math.max(erased[peer] ?? 0, erased[""] ?? 0)) this.erase(peer);
    }
  }

  get(peer) {
    return this.#here.get(peer) ?? (this.#keeps ? parsed(localStorage.getItem(this.#prefix + peer)) : EMPTY);
  }

  /** `from`: the composer that makes the change, whose callback is not called. */
  keep(peer, text, unsure, from) {
    if (!text) {
      this.erase(peer);
    } else {
      const draft = { text, unsure, time: Date.now() / 1000 };
      this.#here.set(peer, draft);
      if (this.#keeps) this.#store(this.#prefix + peer, draft);
    }
    if (this.#watcher?.peer === peer && this.#watcher.owner !== from) this.#watcher.changed();
  }

  #store(key, draft) {
    try {
      localStorage.setItem(key, JSON.stringify(draft));
    } catch {
      localStorage.removeItem(key); // The storage is full: the draft is kept only as long as this page is open.
    }
  }

  erase(peer) {
    this.#here.delete(peer);
    localStorage.removeItem(this.#prefix + peer);
  }

  /** The history with a peer, or with all (null), is erased: erase the drafts as well. */
  eraseAll(peer) {
    const peers = peer === null ? [...this.#here.keys(), ...this.#stored().map((key) => key.slice(this.#prefix.length))] : [peer];
    for (const each of peers) {
      this.erase(each);
      if (this.#watcher?.peer === each) this.#watcher.changed();
    }
  }

  /** `changed` is called when the draft for a peer was changed by somebody else than its owner. */
  watch(owner, peer, changed) {
    this.#watcher = { owner, peer, changed };
  }

  #stored() {
    return Object.keys(localStorage).filter((key) => key.startsWith(this.#prefix));
  }
}

function parsed(stored) {
  try {
    const { text, unsure, time } = JSON.parse(stored ?? "null") ?? EMPTY;
    const known = Array.isArray(unsure) && unsure.every((each) => typeof each.text === "string" && typeof each.glue === "string");
    return typeof text === "string" && known ? { text, unsure, time: Number(time) || 0 } : EMPTY;
  } catch {
    return EMPTY; // It was not written by this version.
  }
}
