// The WebSocket: JSON commands out, JSON events in; it comes back by itself.

const KEY = "punch-key";
/** The secret of this page, which its requests need. */
export const keyOf = () => localStorage.getItem(KEY) ?? "";

const FIRST_WAIT = 300;
const LONGEST_WAIT = 5000;
const MAX_ASKED = 64;
const FORBIDDEN = 403;
const FULL = 503;

/** Store the key that may be in this page's address, and remove it from the address. */
export function keepKey() {
  const match = /^#key=([\w-]+)$/.exec(location.hash);
  if (match) {
    localStorage.setItem(KEY, match[1]);
    history.replaceState(null, "", "/");
  }
}

/** Call `changed` when another tab has got a new key, which this tab can use as well. */
export function watchKey(changed) {
  addEventListener("storage", ({ key, newValue }) => key === KEY && newValue && changed());
}

export class CommandError extends Error {
  constructor(reason, text) {
    super(text);
    this.reason = reason;
  }
}

/**
 * `onEvent` gets every event that is no answer. `onState` gets "open", "lost" (it tries again), "full" (there are too
 * many pages; it tries again) or "locked": this browser is not, or no longer, let in.
 */
export class Connection {
  #socket = null;
  #asked = new Map();
  #number = 0;
  #wait = FIRST_WAIT;
  #timer = null;

  constructor(onEvent, onState) {
    this.onEvent = onEvent;
    this.onState = onState;
    // Connect at once when the machine wakes up or the tab comes to the front.
    addEventListener("online", () => this.hurry());
    addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.hurry());
  }

  get open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const socket = new WebSocket(`ws://${location.host}/ws?key=${encodeURIComponent(keyOf())}`);
    this.#socket = socket;
    let opened = false;
    socket.addEventListener("open", () => {
      opened = true;
      this.#wait = FIRST_WAIT;
      this.onState("open");
    });
    socket.addEventListener("message", (message) => this.#receive(JSON.parse(message.data)));
    socket.addEventListener("close", () => this.#lost(opened));
  }

  hurry() {
    if (this.#timer !== null) this.connect();
  }

  /** Send a command. Resolves with its answer, or rejects with a `CommandError`. */
  ask(command, fields = {}) {
    if (!this.open) return Promise.reject(new CommandError("lost", "Punch is not connected to this page right now."));
    if (this.#asked.size >= MAX_ASKED) return Promise.reject(new CommandError("busy", "Too much at once: try again."));
    const request = (this.#number += 1);
    this.#socket.send(JSON.stringify({ command, request, ...fields }));
    return new Promise((resolve, reject) => this.#asked.set(request, { resolve, reject }));
  }

  #receive(event) {
    const asked = this.#asked.get(event.request);
    if (asked && (event.event === "result" || event.event === "error")) {
      this.#asked.delete(event.request);
      if (event.event === "result") asked.resolve(event);
      else asked.reject(new CommandError(event.reason, event.text));
    } else {
      this.onEvent(event);
    }
  }

  async #lost(opened) {
    this.#socket = null;
    const asked = [...this.#asked.values()];
    this.#asked.clear();
    for (const { reject } of asked) reject(new CommandError("lost", "Punch went away before it answered."));
    this.onState("lost");
    const status = opened ? null : await this.#refused();
    if (status === FORBIDDEN) {
      this.onState("locked");
      return;
    }
    if (status === FULL) this.onState("full");
    this.#timer = setTimeout(() => this.connect(), this.#wait);
    this.#wait = Math.min(LONGEST_WAIT, this.#wait * 1.7);
  }

  /** The HTTP status with which the WebSocket is refused: browsers don't tell a page. */
  async #refused() {
    try {
      return (await fetch(`/ws?key=${encodeURIComponent(keyOf())}`)).status;
    } catch {
      return null; // nobody answers: Punch does not run
    }
  }
}
