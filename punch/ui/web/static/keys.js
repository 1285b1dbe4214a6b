// Keyboard events, without those that belong to an input method.

/**
 * Whether a key belongs to an input method: it composes a text, chooses a word, ends the composition or takes it
 * back. Safari reports the end of a composition before its key, whose code is 229 then.
 */
export const composes = (event) => event.isComposing || event.keyCode === 229 || event.key === "Process";

/** Call `heard` for the keys that are pressed in an element, except those of an input method. */
export function onKeys(target, heard) {
  // When a browser fills in a field, the event has no key.
  target.addEventListener("keydown", (event) => event.key === undefined || composes(event) || heard(event));
}

/** The types of `<input>` that take no text. */
const NO_TEXT = new Set(["button", "checkbox", "color", "file", "image", "radio", "range", "reset", "submit"]);

/** Whether text can be typed into an element. */
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
