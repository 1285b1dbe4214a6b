// The tabs of this browser that show the page: they belong to one user, so one of them notifies for all.

const CHANNEL = "punch-tabs";

/** How often a tab says that it is open, and after how long it is taken for closed (timers of hidden tabs are slow). */
const SAY = 20_000;
const GONE = 150_000;

/** The tabs tell each other which chat they show and whether they are in view, by messages in this browser. */
export class Tabs {
  #id = crypto.randomUUID();
  #others = new Map();
  #channel = new BroadcastChannel(CHANNEL);
  #shows = null;
  #seen = Date.now();

  constructor() {
    this.#channel.addEventListener("message", ({ data }) => this.#hear(data));
    for (const event of ["focus", "blur"]) addEventListener(event, () => this.#say());
    addEventListener("visibilitychange", () => this.#say());
    addEventListener("pagehide", () => this.#channel.postMessage({ id: this.#id, gone: true }));
    addEventListener("pageshow", () => this.#say(true));
    setInterval(() => this.#say(), SAY);
    this.#say(true);
  }

  /** This tab shows the chat with a peer now, or none (null). */
  show(peer) {
    if (this.#shows === peer) return;
    this.#shows = peer;
    this.#say();
  }

  #own() {
    const visible = document.visibilityState === "visible";
    if (visible) this.#seen = Date.now();
    return { id: this.#id, shows: this.#shows, visible, focused: visible && document.hasFocus(), title: document.title, seen: this.#seen };
  }

  #say(ask = false) {
    this.#channel.postMessage({ ...this.#own(), ask });
  }

  #hear(tab) {
    if (tab.gone) {
      this.#others.delete(tab.id);
    } else {
      this.#others.set(tab.id, { ...tab, heard: Date.now() });
      if (tab.ask) this.#say();
    }
  }

  #all() {
    const now = Date.now();
    for (const [id, { heard }] of this.#others) if (Math.abs(now - heard) > GONE) this.#others.delete(id);
    return [this.#own(), ...this.#others.values()];
  }

  /** Whether this chat is in view in another tab. */
  showElsewhere(peer) {
    return this.#all().some((tab) => tab.id !== this.#id && tab.visible && tab.shows === peer);
  }

  /** Whether any tab is in view. */
  get anyVisible() {
    return this.#all().some((tab) => tab.visible);
  }

  /** Whether this tab is the one that notifies: the one in view, else one for all. */
  get speaks() {
    const rank = (tab) => (tab.focused ? 2 : tab.visible ? 1 : 0);
    const [first] = this.#all().sort((one, other) => rank(other) - rank(one) || (one.id < other.id ? -1 : 1));
    return first.id === this.#id;
  }

  /** The other tabs, first those that were out of view for longest: their titles, and since when. */
  get idle() {
    return this.#all()
      .filter((tab) => tab.id !== this.#id)
      .sort((one, other) => one.visible - other.visible || one.seen - other.seen);
  }
}
