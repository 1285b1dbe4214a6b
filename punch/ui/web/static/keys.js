// The keyboard: every key of ours is heard through here, and none that is somebody else's.

/**
 * Whether a key belongs to an input method: it composes a text, chooses a word, ends the composition or takes it
 * back. Safari tells of the end of a composition first and of the key after that, with 229 for its code.
 */
export const composes = (event) => event.isComposing || event.keyCode === 229 || event.key === "Process";

/** Hear the keys that are pressed in an element, except those of an input method. */
export function onKeys(target, heard) {
  // What a browser fills in by itself comes as a key press without a key.
  target.addEventListener("keydown", (event) => event.key === undefined || composes(event) || heard(event));
}

/** The kinds of input that are no field to write in. */
const NO_TEXT = new Set(["button", "checkbox", "color", "file", "image", "radio", "range", "reset", "submit"]);

/** Whether an element is one to write in. */
export const isTextField = (element) =>
  element instanceof HTMLTextAreaElement || element?.isContentEditable || (element instanceof HTMLInputElement && !NO_TEXT.has(element.type));

/**
 * Whether a key is Alt with this letter, and nothing else: not a character that Option or AltGr make of it, and not
 * in a field, where whatever is typed is text.
 */
export function isAltLetter(event, letter) {
  const { key, altKey, ctrlKey, metaKey, target } = event;
  if (!altKey || ctrlKey || metaKey || event.getModifierState("AltGraph") || isTextField(target)) return false;
  return key.toLowerCase() === letter;
}

/** Whether a key is Alt with this arrow, where it does not move through a text. */
export function isAltArrow(event, arrow) {
  const { key, altKey, ctrlKey, metaKey, shiftKey, target } = event;
  return key === arrow && altKey && !ctrlKey && !metaKey && !shiftKey && !(isTextField(target) && target.value);
}

/** Whether a key is Ctrl or Command with this one; `code`: where that is on keyboards without Latin letters. */
export function isControl(event, wanted, code = null) {
  const { key, altKey, ctrlKey, metaKey } = event;
  if (altKey || ctrlKey === metaKey || event.getModifierState("AltGraph")) return false;
  return key.toLowerCase() === wanted || (code !== null && event.code === code && !/^[a-z]$/i.test(key));
}
