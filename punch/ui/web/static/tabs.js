// The tabs of this browser that show the page: they are one person's, so that one of them speaks for all.

const CHANNEL = "punch-tabs";

/** A tab says that it is there so often, and is taken for gone after so long (a hidden one's timers are slow). */
const SAY = 20_000;
const GONE = 150_000;

/** Tabs tell each other what they show and whether somebody looks at them, by messages in this browser. */
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

  /** This tab shows the chat with somebody now, or none (null). */
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

  /** Whether somebody looks at this chat in another tab. */
  showElsewhere(peer) {
    return this.#all().some((tab) => tab.id !== this.#id && tab.visible && tab.shows === peer);
  }

  /** Whether somebody looks at any tab. */
  get anyVisible() {
    return this.#all().some((tab) => tab.visible);
  }

  /** Whether this tab is the one to tell something: that which is looked at, or else one for all. */
  get speaks() {
    const rank = (tab) => (tab.focused ? 2 : tab.visible ? 1 : 0);
    const [first] = this.#all().sort((one, other) => rank(other) - rank(one) || (one.id < other.id ? -1 : 1));
    return first.id === this.#id;
  }

  /** The other tabs, first those that nobody has looked at for longest: their titles, and since when. */
  get idle() {
    return this.#all()
      .filter((tab) => tab.id !== this.#id)
      .sort((one, other) => one.visible - other.visible || one.seen - other.seen);
  }
}
