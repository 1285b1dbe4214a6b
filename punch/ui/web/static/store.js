// The page's copy of the chat's state, which events keep up to date.

import { CommandError } from "./connection.js";
import { Drafts } from "./drafts.js";
import { milliseconds, pathInWords, plain, shortId, shortPath, MAX_NAME } from "./text.js";

const PAGE = 50;
const MANY = 400;

/** Seconds over which the rate of a transfer is taken. */
const RATE_TIME = 5;

const now = () => Date.now() / 1000;

const isUnderWay = (message) => message.outgoing && (message.state === "waiting" || message.state === "sent");

const UNSEEN = /(?![\u202a-\u202e\u2066-\u2069])[\p{Cf}\p{Default_Ignorable_Code_Point}]/gu;

/** The part of a chat's history that is loaded. `earlier` and `later`: there is more on that side. */
class Log {
  constructor() {
    this.messages = [];
    this.notes = [];
    this.loaded = false;
    this.earlier = true;
    this.later = false;
    this.loading = null;
    this.turn = 0;
  }

  get first() {
    return this.messages[0]?.number;
  }

  get last() {
    return this.messages.at(-1)?.number;
  }

  find(number) {
    return this.messages.find((message) => message.number === number);
  }

  add(message) {
    const known = this.find(message.number);
    if (known) {
      Object.assign(known, message);
      return;
    }
    const after = this.messages.findLastIndex((each) => each.number < message.number);
    this.messages.splice(after + 1, 0, message);
  }

  /** `after`: the number of the last message when this was noted. */
  note(text, after) {
    this.notes.push({ text, time: now(), after, day: {} });
    if (this.notes.length > 100) this.notes.shift();
  }
}

export class Store {
  constructor(connection) {
    this.connection = connection;
    this.me = null;
    this.connected = false;
    this.registration = null;
    this.historyTrouble = null;
    this.questions = [];
    this.people = new Map();
    this.logs = new Map();
    this.drafts = new Drafts();
    this.retention = null;
    /** The code of this side that waits, whom the last one led to, or why it came to nothing. */
    this.code = null;
    this.met = null;
    this.codeTrouble = "";
    /** Files that are sent and received, by number, and how far each was in the last seconds. */
    this.transfers = new Map();
    this.samples = new Map();
    this.downloads = null;
    this.opensFolders = false;
    this.watchers = new Set();
  }

  watch(watcher) {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  }

  tell(change) {
    for (const watcher of [...this.watchers]) watcher(change);
  }

  // Peers

  person(peer) {
    let person = this.people.get(peer);
    if (!person) {
      person = {
        peer,
        petname: null,
        name: "",
        known: false,
        blocked: false,
        alike: false,
        services: [],
        unread: 0,
        waiting: 0,
        last: null,
        link: null,
        stage: null,
        pairs: [],
        away: null,
        listed: false,
      };
      this.people.set(peer, person);
    }
    return person;
  }

  /** The name to show, sanitized: the petname, else the peer's own name, else the beginning of the ID. */
  nameOf(peer) {
    const person = this.people.get(peer);
    const name = plain((person?.petname || person?.name || "").replace(UNSEEN, ""), MAX_NAME);
    if (!name) return shortId(peer);
    // A name that looks like another peer's, or like what this page calls you, gets the ID beside it.
    return person.alike ? `${name} (${shortId(peer)})` : name;
  }

  named(text) {
    const wanted = text.replace(UNSEEN, "").trim().toLowerCase();
    const all = [...this.people.values()];
    return (
      all.find((person) => person.petname?.toLowerCase() === wanted) ??
      all.find((person) => person.name.toLowerCase() === wanted)
    );
  }

  /** All peers with a chat, a link or an entry in the address book, the newest first. */
  chats() {
    const when = (person) => Math.max(person.last?.time ?? 0, person.touched ?? 0);
    return [...this.people.values()]
      .filter((person) => person.listed || person.link || person.stage)
      .sort((one, other) => when(other) - when(one) || (one.peer < other.peer ? -1 : 1));
  }

  get unread() {
    let sum = 0;
    for (const person of this.people.values()) sum += person.unread;
    return sum;
  }

  log(peer) {
    let log = this.logs.get(peer);
    if (!log) this.logs.set(peer, (log = new Log()));
    return log;
  }

  /** Add a note after the last message, whether that is loaded or not. */
  note(peer, text) {
    const log = this.log(peer);
    log.note(text, Math.max(this.person(peer).last?.number ?? 0, log.last ?? 0));
  }

  ask(command, fields) {
    return this.connection.ask(command, fields);
  }

  // History

  /** The newest messages, or those around one. */
  async load(peer, around = null) {
    const log = this.log(peer);
    const fields = { peer, limit: PAGE };
    if (around !== null) fields.before = around + PAGE / 2;
    const turn = (log.turn += 1);
    const { messages } = await this.ask("history", fields);
    if (turn !== log.turn) return; // another part was asked for since
    log.messages = messages;
    log.loaded = true;
    log.earlier = messages.length === PAGE;
    const person = this.person(peer);
    log.later = around !== null && (person.last?.number ?? 0) > (log.last ?? 0);
    this.tell({ event: "loaded", peer });
  }

  async more(peer, direction) {
    const log = this.log(peer);
    if (log.loading || !log[direction] || !log.loaded) return;
    const fields = { peer, limit: PAGE };
    if (direction === "earlier") fields.before = log.first;
    else fields.after = log.last;
    const { turn } = log;
    log.loading = this.ask("history", fields);
    try {
      const { messages } = await log.loading;
      if (turn !== log.turn) return;
      for (const message of messages) log.add(message);
      log[direction] = messages.length === PAGE;
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
    } finally {
      log.loading = null;
    }
    this.tell({ event: "more", peer, direction });
  }

  /** The end of a log is in view: drop the earlier messages that were loaded. */
  trim(peer) {
    const log = this.log(peer);
    if (log.messages.length > MANY && !log.later) {
      log.messages = log.messages.slice(-2 * PAGE);
      log.earlier = true;
    }
  }

  // Events

  apply(event) {
    const handler = this[`on_${event.event.replaceAll("-", "_")}`];
    if (handler) handler.call(this, event);
    this.tell(event);
  }

  on_snapshot(event) {
    this.me = { id: event.id, name: event.name, qr: event.qr, version: event.version, longest: event.longest };
    this.drafts.open(event.id, event.keeps_history, event.erased);
    this.registration = event.registration;
    this.retention = event.retention;
    this.historyTrouble = event.history_failed;
    this.questions = event.questions;
    this.transfers = new Map(event.transfers.map((each) => [each.transfer, each]));
    this.samples.clear();
    this.downloads = event.downloads;
    this.opensFolders = event.opens_folders;
    this.code = event.code && { ...event.code, until: now() + event.code.expires };
    const before = this.people;
    this.people = new Map();
    for (const fields of event.peers) Object.assign(this.person(fields.peer), fields, { listed: true });
    for (const fields of event.conversations) Object.assign(this.person(fields.peer), fields, { listed: true });
    for (const peer of event.questions) this.person(peer);
    for (const [peer, pairs] of Object.entries(event.pairs)) this.person(peer).pairs = pairs;
    for (const [peer, person] of before) {
      if (this.people.has(peer)) this.people.get(peer).touched = person.touched;
    }
    for (const log of this.logs.values()) log.loaded = false;
    this.connected = true;
  }

  // Files

  /** Files that somebody offers, and that wait for an answer here. */
  get offers() {
    return [...this.transfers.values()].filter(({ outgoing, stage }) => !outgoing && stage === "offered");
  }

  #transferred({ event: _, ...transfer }) {
    this.transfers.set(transfer.transfer, transfer);
    if (transfer.stage !== "running") this.samples.delete(transfer.transfer);
  }

  on_transfer_offered(event) {
    this.#transferred(event);
  }

  on_transfer_running(event) {
    this.#transferred(event);
  }

  on_transfer_waiting(event) {
    this.#transferred(event);
  }

  on_transfer_done(event) {
    this.#transferred(event);
  }

  on_transfer_failed(event) {
    this.#transferred(event);
  }

  on_transfer_dismissed(event) {
    this.transfers.delete(event.transfer);
    this.samples.delete(event.transfer);
  }

  on_transfer_progress(event) {
    const transfer = this.transfers.get(event.transfer);
    if (!transfer) return;
    transfer.position = event.position;
    const samples = this.samples.get(event.transfer) ?? [];
    samples.push([now(), event.position]);
    while (samples.length > 2 && samples[0][0] < now() - RATE_TIME) samples.shift();
    this.samples.set(event.transfer, samples);
  }

  /** Bytes a second in the last seconds; 0 if that is not known. */
  rate(number) {
    const samples = this.samples.get(number) ?? [];
    if (samples.length < 2 || samples.at(-1)[0] < now() - RATE_TIME) return 0;
    const [since, first] = samples[0];
    const [until, last] = samples.at(-1);
    return until > since ? Math.max(0, last - first) / (until - since) : 0;
  }

  on_code(event) {
    this.code = { code: event.code, qr: event.qr, until: now() + event.expires };
    this.met = null;
    this.codeTrouble = "";
  }

  on_code_used(event) {
    this.code = null;
    this.knows(event);
  }

  on_code_void(event) {
    this.code = null;
    this.codeTrouble = event.reason === "withdrawn" ? "" : event.text;
  }

  /** A code was used, here or by the other side. */
  knows(contact) {
    const { event: _, request: __, command: ___, problem, ...fields } = contact;
    Object.assign(this.person(contact.peer), fields, { listed: true });
    this.met = { peer: contact.peer, blocked: contact.blocked, problem };
    this.codeTrouble = "";
  }

  on_registered(event) {
    this.registration = event;
  }

  on_unregistered(event) {
    this.registration = event;
  }

  on_renamed(event) {
    this.me.name = event.name;
  }

  on_history_failed(event) {
    this.historyTrouble = event.text;
  }

  #learn(event) {
    const person = this.person(event.peer);
    if (typeof event.name === "string") person.name = event.name;
    if ("petname" in event) person.petname = event.petname;
    return person;
  }

  on_contact(event) {
    const { event: _, ...fields } = event;
    Object.assign(this.person(event.peer), fields, { listed: true });
  }

  on_forgotten(event) {
    const person = this.person(event.peer);
    Object.assign(person, { petname: null, known: false, blocked: false, services: [], listed: person.last !== null });
  }

  on_erased(event) {
    for (const [peer, log] of this.logs) {
      if (event.peer !== null && event.peer !== peer) continue;
      // Messages that wait are kept, however old they are.
      const kept = (message) => event.before && (message.time >= event.before || isUnderWay(message));
      log.messages = log.messages.filter(kept);
      log.notes = [];
      if (!event.before) log.earlier = false;
    }
    if (!event.before) this.drafts.eraseAll(event.peer);
    if (event.before) {
      this.recount();
      return;
    }
    for (const person of this.people.values()) {
      if (event.peer !== null && event.peer !== person.peer) continue;
      Object.assign(person, { last: null, unread: 0, waiting: 0 });
    }
  }

  /** Old messages were erased, also some that are not loaded: ask how many are unread and how many wait. */
  async recount() {
    try {
      const { conversations } = await this.ask("conversations");
      const left = new Map(conversations.map((each) => [each.peer, each]));
      for (const person of this.people.values()) {
        const { last = null, unread = 0, waiting = 0 } = left.get(person.peer) ?? {};
        Object.assign(person, { last, unread, waiting });
      }
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      return; // the next snapshot has the numbers
    }
    this.tell({ event: "recounted" });
  }

  on_call(event) {
    const person = this.#learn(event);
    person.known = event.known;
    if (!event.decided) {
      person.stage = "ringing";
      if (!this.questions.includes(event.peer)) this.questions.push(event.peer);
    }
  }

  #answered(peer) {
    this.questions = this.questions.filter((each) => each !== peer);
  }

  on_calling(event) {
    const person = this.#learn(event);
    Object.assign(person, { stage: "calling", away: null, touched: now(), listed: true });
  }

  on_introduced(event) {
    this.#answered(event.peer);
    const person = this.#learn(event);
    person.stage = "introduced";
    person.listed = true;
  }

  on_checking(event) {
    this.#answered(event.peer);
    this.#learn(event).stage = "checking";
  }

  on_connected(event) {
    this.#answered(event.peer);
    const person = this.#learn(event);
    const { path, local, remote, protocol, rtt, post_quantum } = event;
    person.link = { path, local, remote, protocol, rtt, post_quantum, since: now(), dark: false };
    Object.assign(person, { stage: null, away: null, known: true, listed: true, touched: now() });
    this.note(event.peer, `Connected. ${pathInWords(path, protocol)}, ${milliseconds(rtt)}`);
  }

  on_path(event) {
    const person = this.#learn(event);
    const { path, local, remote, protocol, rtt } = event;
    const before = person.link;
    person.link = { ...before, path, local, remote, protocol, rtt, dark: false, changed: now() };
    if (before?.dark) this.note(event.peer, `There is a path again. ${pathInWords(path, protocol)}, ${milliseconds(rtt)}`);
    else this.note(event.peer, `The path changed. ${pathInWords(path, protocol)}, ${milliseconds(rtt)}`);
  }

  on_path_lost(event) {
    const person = this.#learn(event);
    if (person.link) person.link = { ...person.link, dark: true };
    this.note(event.peer, "The path is lost. What you write waits, and goes when there is one again.");
  }

  on_path_slowed(event) {
    this.#learn(event);
    this.note(event.peer, plain(event.text));
  }

  on_disconnected(event) {
    const person = this.#learn(event);
    person.link = null;
    person.pairs = [];
    this.note(event.peer, plain(event.text));
  }

  on_failed(event) {
    if (!event.peer) return;
    this.#answered(event.peer);
    const person = this.#learn(event);
    const wasQuestion = person.stage === "ringing";
    person.stage = null;
    if (!person.link) person.pairs = [];
    if (!wasQuestion || person.listed) this.note(event.peer, plain(event.text));
  }

  on_refused(event) {
    this.#answered(event.peer);
    this.person(event.peer).stage = null;
  }

  on_away(event) {
    this.#learn(event).away = { reason: event.reason, text: event.text, until: event.retry_in === null ? null : now() + event.retry_in };
  }

  on_broken(event) {
    this.note(event.peer, plain(event.text));
  }

  on_pairs(event) {
    const person = this.person(event.peer);
    person.pairs = event.pairs;
    const rtt = event.pairs.find((pair) => pair.selected)?.rtt;
    if (rtt && person.link) person.link.rtt = rtt;
  }

  #arrived(message) {
    const person = this.person(message.peer);
    person.listed = true;
    if (!person.last || person.last.number <= message.number) person.last = message;
    const log = this.log(message.peer);
    if (log.loaded && !log.later) log.add(message);
    return person;
  }

  on_added(event) {
    const { event: _, ...message } = event;
    const person = this.#arrived(message);
    person.waiting += 1;
  }

  on_message(event) {
    const person = this.#learn(event);
    if (event.again && this.log(event.peer).find(event.number)) return;
    const { peer, number, id, text, time_sent } = event;
    this.#arrived({ peer, number, id, text, time_sent, time: now(), outgoing: false, state: "unread" });
    person.unread += 1;
  }

  #advance(event) {
    const person = this.person(event.peer);
    const message = this.log(event.peer).find(event.number);
    const before = message ?? (person.last?.number === event.number ? person.last : null);
    if (message) message.state = event.event;
    if (person.last?.number === event.number) person.last = { ...person.last, state: event.event };
    return before;
  }

  on_waiting(event) {
    this.#advance(event);
  }

  on_sent(event) {
    this.#advance(event);
  }

  on_delivered(event) {
    this.#advance(event);
    const person = this.person(event.peer);
    person.waiting = Math.max(0, person.waiting - 1);
  }

  on_read(event) {
    this.#advance(event);
    if (event.outgoing === false) {
      const person = this.person(event.peer);
      person.unread = Math.max(0, person.unread - 1);
    }
  }
}

/** The state of a peer in one line: a kind for the dot, and a text. */
export function stateOf(person) {
  if (person.link?.dark) return { kind: "wait", text: "No path right now, looking for another" };
  if (person.link) return { kind: "on", text: `${shortPath(person.link.path)} · ${milliseconds(person.link.rtt)}` };
  if (person.stage === "ringing") return { kind: "wait", text: "Is calling you" };
  if (person.stage === "calling") return { kind: "wait", text: "Calling…" };
  if (person.stage === "introduced") return { kind: "wait", text: "Introduced, looking for a path…" };
  if (person.stage === "checking") return { kind: "wait", text: "Trying paths…" };
  if (person.blocked) return { kind: "off", text: "Blocked" };
  if (person.waiting) return { kind: "off", text: `Away · ${person.waiting.toLocaleString("en")} waiting` };
  return { kind: "off", text: "Not connected" };
}
