// Which files can be sent at once: asked before they are sent to Punch, which can be long.

/** `MAX_ITEMS` of punch.apps.files.messages. */
const MAX_ITEMS = 100;

/**
 * Why these files can't be sent at once: a sentence, or "" if they can.
 *
 * `files` are `{ path }`, with the names of folders in front of that of the file; `shown` makes text of a name.
 */
export function whyNot(files, shown) {
  const paths = new Set(files.map(({ path }) => path));
  const items = new Set(files.map(({ path }) => path.split("/")[0]));
  // Also a file that is called as a folder of others.
  const folders = new Set([...paths].flatMap((path) => path.split("/").slice(0, -1).map((_, depth, names) => names.slice(0, depth + 1).join("/"))));
  const seen = new Set();
  for (const { path } of files) {
    if (seen.has(path) || folders.has(path)) return `There are two files called ${shown(path)}: send one after the other.`;
    seen.add(path);
  }
  if (items.size > MAX_ITEMS) return `These are ${items.size.toLocaleString("en")} files and folders, and ${MAX_ITEMS} can be sent at once: put them into one folder.`;
  return "";
}
