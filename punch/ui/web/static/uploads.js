// Files on their way from this browser to Punch on the same machine, from where they go to a peer.

import { CommandError, keyOf } from "./connection.js";
import { count, plain } from "./text.js";
import { whyNot } from "./uploadable.js";
import { notice } from "./widgets.js";

const MAX_FILES = 10_000;

/** What was dropped: `{ path, file }` for each file, also of folders, with their paths below what was dropped. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const found = [];
  const walk = async (entry, path) => {
    if (found.length > MAX_FILES) return;
    if (entry.isFile) {
      found.push({ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      // It gives some of them at a time, and none at the end.
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const child of some) await walk(child, `${path}/${child.name}`);
    }
  };
  for (const entry of entries) await walk(entry, entry.name);
  return found;
}

/** What was chosen in a dialog of the browser. */
export const chosen = (files) => [...files].map((file) => ({ path: file.name, file }));

/** All uploads of this page that are under way. */
export class Uploads {
  #all = new Set();

  constructor(store) {
    this.store = store;
    addEventListener("beforeunload", (event) => this.#all.size && event.preventDefault());
  }

  to(peer) {
    return [...this.#all].filter((upload) => upload.peer === peer);
  }

  /** Send files to a peer. */
  async start(peer, files) {
    if (!files.length) {
      notice("There is no file in it.");
      return;
    }
    const problem = whyNot(files, (path) => plain(path, 80));
    if (problem) {
      notice(problem);
      return;
    }
    const size = files.reduce((sum, { file }) => sum + file.size, 0);
    const [{ path }] = files;
    const name = files.length === 1 ? path : `${path.split("/")[0]} and more (${count(files.length, "file")})`;
    const upload = { peer, name, size, sent: 0, stop: () => {} };
    this.#all.add(upload);
    this.#changed(upload);
    let id = null;
    try {
      id = (await this.store.ask("upload", { size, files: files.length })).upload;
      for (const each of files) {
        if (upload.stopped) break;
        await this.#put(upload, id, each);
      }
      if (upload.stopped) await this.store.ask("discard-upload", { upload: id });
      else await this.store.ask("send-files", { peer, upload: id });
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      if (!upload.stopped) notice(plain(error.message));
      if (id) this.store.ask("discard-upload", { upload: id }).catch(() => {});
    } finally {
      this.#all.delete(upload);
      this.#changed(upload);
    }
  }

  stop(upload) {
    upload.stopped = true;
    upload.stop();
  }

  #changed(upload) {
    this.store.tell({ event: "upload", peer: upload.peer });
  }

  #put(upload, id, { path, file }) {
    const before = upload.sent;
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      const lost = () => reject(new CommandError("lost", `${plain(path, 80)} could not be read, or Punch went away. Try again.`));
      request.open("POST", "/upload");
      request.setRequestHeader("Content-Type", "application/octet-stream");
      request.setRequestHeader("X-Punch-Key", keyOf());
      try {
        request.setRequestHeader("X-Punch-Upload", `${id}/${path.split("/").map(encodeURIComponent).join("/")}`);
      } catch {
        reject(new CommandError("bad-file", "The name of a file is not valid text, so it can’t be sent from a browser."));
        return;
      }
      request.setRequestHeader("X-Punch-Modified", String(Math.max(0, Math.floor(file.lastModified))));
      request.upload.addEventListener("progress", ({ loaded }) => {
        upload.sent = before + Math.min(loaded, file.size);
        this.#changed(upload);
      });
      request.addEventListener("load", () => {
        upload.sent = before + file.size;
        if (request.status === 200) resolve();
        else reject(new CommandError("bad-file", request.responseText || "Punch did not take the file."));
      });
      request.addEventListener("error", lost);
      request.addEventListener("abort", lost);
      upload.stop = () => request.abort();
      request.send(file);
    });
  }
}
