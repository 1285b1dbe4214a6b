// The picture of a call: the two sides, the paths that are checked, and the one that is used.

import { h, replace, s } from "./dom.js";
import { count, cutBefore, milliseconds, pathInWords, shortened } from "./text.js";

const TRYING = new Set(["frozen", "waiting", "in-progress"]);

const STATES = {
  frozen: "will be tried",
  waiting: "will be tried",
  "in-progress": "is tried",
  succeeded: "works",
  failed: "does not work",
  silent: "stopped answering",
};

const KINDS = { host: "own address", srflx: "NAT", prflx: "NAT", relay: "relay" };

const TECHNIQUES = { ice: "connectivity checks", prediction: "prediction of ports", "simultaneous-open": "simultaneous open", spraying: "spraying", tcp: "TCP" };

/** What was sent to find a direct path, by technique: `techniques` of a link in the answer to `status`. */
export function cost(techniques) {
  return Object.entries(techniques).map(([technique, { attempts, packets, bytes }]) => {
    const tried = attempts ? `${count(attempts, "attempt")}, ` : "";
    return `${TECHNIQUES[technique] ?? technique}: ${tried}${count(packets, "packet")}, ${bytes.toLocaleString("en")} bytes`;
  });
}

const hostOf = (address) => address.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");

/** Which of the three paths of the picture a candidate pair belongs to. */
function lane(pair) {
  if (pair.local_kind === "relay" || pair.remote_kind === "relay") return "relay";
  if (pair.remote_kind === "host" && (pair.selected || pair.state === "succeeded" || isPrivate(pair.remote))) return "host";
  return "direct";
}

const isPrivate = (address) => /^(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|127\.|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7])\.|\[f[cd]|\[::1)/.test(address);

/** The state of each path: the furthest of all its candidate pairs. */
function lanes(pairs) {
  const found = { host: null, direct: null, relay: null };
  const rank = { failed: 0, silent: 1, trying: 2, works: 3, taken: 4 };
  for (const pair of pairs) {
    const way = lane(pair);
    let state = pair.state === "succeeded" ? "works" : TRYING.has(pair.state) ? "trying" : pair.state;
    if (pair.selected) state = "taken";
    if (found[way] === null || rank[state] > rank[found[way]]) found[way] = state;
  }
  return found;
}

/** The state of the call in one sentence; `short`: it fits into one line of a telephone once there is a link. */
export function caption(person, name, short = false) {
  const { link, stage, pairs } = person;
  if (stage === "ringing") return `${name} is calling. Nothing of yours is told before you accept.`;
  if (stage === "calling") return `Calling ${name}: the rendezvous passes on a sealed offer.`;
  if (stage === "introduced") return "Introduced: each side has the other’s addresses.";
  if (stage === "checking") {
    const works = pairs.filter((pair) => pair.state === "succeeded").length;
    return `Trying ${count(pairs.length, "pair")} of addresses${works ? `, ${works} work${works === 1 ? "s" : ""}` : ""}.`;
  }
  if (link?.dark) return short ? "No path right now: what you write waits." : "No path right now. Others are looked for, and what you write waits.";
  if (link && short) return `${pathInWords(link.path)}, ${milliseconds(link.rtt)}`;
  const keys = link?.post_quantum ? " Post-quantum key exchange." : "";
  if (link) return `${pathInWords(link.path, link.protocol)}, ${milliseconds(link.rtt)} there and back.${keys}`;
  return "Not connected.";
}

const GLYPHS = {
  person: ["M0 -8.500a4.200 4.200 0 1 0 .01 0", "M-8.500 9.500c.6-5 4-7.500 8.500-7.500s7.900 2.500 8.500 7.500"],
  nat: ["M-10 -8h20", "M-10 0h20", "M-10 8h20", "M-4 -8v8", "M5 0v8", "M5 -8v0"],
  rendezvous: ["M-8.500 1.500l5 5 4-3.500", "M8.500 1.500l-5 5-7-6.500 4-4.500", "M8.500 -3l-4-1.500-4 3"],
  relay: ["M-8 -3.500h15", "M3 -7.500l4 4-4 4", "M8 4.500h-15", "M-3 .5l-4 4 4 4"],
};

function node(kind, x, y, { label, address, used, absent, side }) {
  const shape = kind === "nat" ? s("rect", { x: -19, y: -19, width: 38, height: 38, rx: 11 }) : s("circle", { r: 20 });
  const texts = [];
  if (side) {
    texts.push(s("text", { x: 32, y: 4.500, class: "beside" }, label));
  } else {
    texts.push(s("text", { y: 38 }, label));
    if (address) texts.push(s("text", { y: 54, class: "address" }, address));
  }
  return s(
    "g",
    { class: `node n-${kind}${used ? " used" : ""}${absent ? " absent" : ""}`, transform: `translate(${x} ${y})` },
    shape,
    GLYPHS[kind].map((d) => s("path", { d })),
    texts,
  );
}

const ruler = document.createElement("canvas").getContext("2d");

/** A name, or its beginning with an ellipsis, that is no wider than so many pixels in the picture. */
function fitting(name, most) {
  ruler.font = '600 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
  const fits = (text) => ruler.measureText(text).width <= most;
  const whole = shortened(name, 24);
  if (fits(whole)) return whole;
  let end = Math.min(name.length, 24);
  while (end > 0 && !fits(`${name.slice(0, end)}…`)) end = cutBefore(name, end - 1);
  return `${name.slice(0, end)}…`;
}

function diagram(person, me, name, registered, width) {
  const wide = width >= 560;
  const height = wide ? 238 : 214;
  const middle = wide ? 104 : 100;
  const top = 28;
  const bottom = height - 44;
  const [you, ours, theirs, them, centre] = wide
    ? [width * 0.1, width * 0.3, width * 0.7, width * 0.9, width / 2]
    : [44, width * 0.345, width * 0.655, width - 44, width / 2];
  const { pairs, link, stage } = person;
  const found = lanes(pairs);
  const taken = link && Object.keys(found).find((way) => found[way] === "taken");
  const selected = pairs.find((pair) => pair.selected);

  const seenAs = selected?.seen_as ?? (selected?.local_kind === "host" ? null : pairs.find((pair) => pair.seen_as)?.seen_as);
  const remoteNat = (selected && ["srflx", "prflx"].includes(selected.remote_kind) ? selected : pairs.find((pair) => ["srflx", "prflx"].includes(pair.remote_kind)))?.remote;
  const local = (selected?.local_kind === "host" ? selected : pairs.find((pair) => pair.local_kind === "host"))?.local;
  const remote = pairs.find((pair) => pair.remote_kind === "host")?.remote;

  const straight = `M${you} ${middle}H${them}`;
  const above = `M${you} ${middle}C${ours} ${middle - 66} ${theirs} ${middle - 66} ${them} ${middle}`;
  const below = `M${you} ${middle}H${ours}C${(ours + centre) / 2} ${middle} ${(ours + centre) / 2} ${bottom} ${centre} ${bottom}S${(theirs + centre) / 2} ${middle} ${theirs} ${middle}H${them}`;
  const ways = { host: above, direct: straight, relay: below };

  const drawn = [];
  const signal = (from) => `M${from} ${middle}Q${from} ${top + 6} ${centre} ${top}`;
  const signaling = ["calling", "introduced", "ringing"].includes(stage);
  drawn.push(s("path", { d: straight, class: "wire" }));
  if (registered) drawn.push(s("path", { d: signal(ours), class: `signal${signaling ? " signaling" : ""}` }));
  if (stage && stage !== "calling") drawn.push(s("path", { d: signal(theirs), class: `signal${signaling ? " signaling" : ""}` }));
  for (const [way, state] of Object.entries(found)) {
    if (state && state !== "taken") {
      // While there is a link, other pairs are checked in the background.
      const trying = link && !link.dark ? "try quiet" : "try";
      drawn.push(s("path", { d: ways[way], class: { trying, silent: "failed" }[state] ?? state }));
    }
  }
  const way = taken ?? (link ? { host: "host", relay: "relay" }[link.path] ?? "direct" : null);
  if (way) {
    drawn.push(s("path", { d: ways[way], class: `taken${link.dark ? " disconnected" : ""}`, id: "way" }));
    if (!link.dark) {
      drawn.push(
        s("circle", { r: 5.500, class: "pulse" }, s("animateMotion", { dur: "2.6s", repeatCount: "indefinite", path: ways[way] })),
      );
    }
  }
  const through = way === "direct" || way === "relay";
  const short = (text) => (text && wide ? text : null);
  drawn.push(
    node("rendezvous", centre, top, { label: "Rendezvous", side: true, absent: !registered, used: signaling }),
    node("relay", centre, bottom, { label: "Relay", used: way === "relay", absent: found.relay === null && way !== "relay" }),
    node("nat", ours, middle, { label: "Your NAT", address: short(seenAs && hostOf(seenAs)), used: through, absent: way === "host" || (link && !seenAs && way === "direct") }),
    node("nat", theirs, middle, { label: "Their NAT", address: short(remoteNat && hostOf(remoteNat)), used: through, absent: way === "host" || (link && !remoteNat && way === "direct") }),
    node("person", you, middle, { label: "You", address: short(local && hostOf(local)), used: way !== null }),
    node("person", them, middle, { label: fitting(name, wide ? width * 0.2 - 12 : 74), address: short(remote && hostOf(remote)), used: way !== null }),
  );
  return s(
    "svg",
    { class: "diagram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `How you are connected: ${caption(person, name)}` },
    drawn,
  );
}

/** A figure that shows the call with one peer as it is now. `askCost` resolves with the `techniques` of its link. */
export class Picture {
  constructor(askCost) {
    this.askCost = askCost;
    this.diagram = h("div");
    this.words = h("span", { class: "words" });
    this.summary = h("summary");
    this.rows = h("tbody");
    this.cost = h("p", { class: "soft small", hidden: true });
    this.details = h(
      "details",
      { ontoggle: () => this.showCost() },
      this.summary,
      this.cost,
      h(
        "div",
        { class: "pairs", tabindex: "0", role: "region", "aria-label": "Pairs of addresses" },
        h(
          "table",
          {},
          h("thead", {}, h("tr", {}, ["From", "To", "Kind", "State"].map((text) => h("th", { scope: "col" }, text)))),
          this.rows,
        ),
      ),
    );
    this.element = h("figure", { class: "picture", id: "picture" }, this.diagram, h("figcaption", {}, this.words, this.details));
    this.element.style.margin = "0";
    this.width = 0;
    this.drawn = "";
    new ResizeObserver((entries) => {
      const width = Math.min(820, Math.round(entries[0].contentRect.width));
      if (width && width !== this.width) {
        this.width = width;
        this.again?.();
      }
    }).observe(this.element);
  }

  /** The sentence alone, in one line. */
  fold(folded) {
    this.folded = folded;
    this.element.classList.toggle("folded", folded);
    this.diagram.hidden = folded;
    this.showDetails();
  }

  /** What the search for a direct path has cost; asked for when the details are opened, and shown as it was then. */
  async showCost() {
    this.cost.hidden = true;
    if (!this.details.open) return;
    try {
      const lines = cost(await this.askCost());
      this.cost.textContent = `Sent for a direct path by ${lines.join("; by ")}.`;
      this.cost.hidden = !lines.length;
    } catch (error) {
      if (error.reason === undefined) throw error;
    }
  }

  showDetails() {
    this.details.hidden = this.diagram.hidden || !this.rows.firstChild;
  }

  show(person, me, name, registered) {
    this.again = () => this.show(person, me, name, registered);
    const width = this.width || 360;
    // To draw restarts the animation, so it is drawn only when something has changed.
    const { path, dark } = person.link ?? {};
    const state = JSON.stringify([person.pairs.map(({ rtt, ...pair }) => pair), path, dark, person.stage, name, registered, width]);
    if (state !== this.drawn) {
      this.drawn = state;
      replace(this.diagram, diagram(person, me, name, registered, width));
      this.summary.textContent = `${count(person.pairs.length, "pair")} of addresses`;
      replace(
        this.rows,
        person.pairs.map((pair) =>
          h(
            "tr",
            { class: pair.selected ? "selected" : null },
            h("td", { class: "mono" }, pair.local),
            h("td", { class: "mono" }, pair.remote),
            h("td", {}, `${KINDS[pair.local_kind]} → ${KINDS[pair.remote_kind]}`),
            h("td", {}, pair.selected ? "taken" : (STATES[pair.state] ?? pair.state)),
          ),
        ),
      );
      this.showDetails();
    }
    const words = caption(person, name, this.folded);
    if (this.words.textContent !== words) this.words.textContent = words;
  }
}
