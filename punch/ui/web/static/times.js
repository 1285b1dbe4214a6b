// Times and dates in words, as of now and here: both may change while a page is open.

/** Milliseconds between two checks whether they have changed. */
const LOOK = 1000;

let formats = null;

function make() {
  const format = (options) => new Intl.DateTimeFormat(undefined, options);
  return {
    time: format({ hour: "2-digit", minute: "2-digit" }),
    weekday: format({ weekday: "long" }),
    date: format({ day: "numeric", month: "long", year: "numeric" }),
    short: format({ day: "numeric", month: "short" }),
    shortWithYear: format({ day: "numeric", month: "short", year: "numeric" }),
  };
}

/** The day and the time zone for which texts are made; texts for others are made again. */
export const today = () => `${new Date().toDateString()} ${Intl.DateTimeFormat().resolvedOptions().timeZone}`;

let made = "";

function inUse() {
  const now = today();
  if (made !== now) {
    made = now;
    formats = make();
  }
  return formats;
}

/** Call `changed` when the day or the time zone has changed: at midnight, after sleep, or when the clock is set. */
export function watchDays(changed) {
  let last = today();
  const look = () => {
    const now = today();
    if (now === last) return;
    last = now;
    changed();
  };
  setInterval(look, LOOK);
  addEventListener("focus", look);
  addEventListener("visibilitychange", look);
}

export const timeOf = (seconds) => inUse().time.format(seconds * 1000);

const midnight = (seconds) => new Date(seconds * 1000).setHours(0, 0, 0, 0);

function daysAgo(seconds) {
  return Math.round((midnight(Date.now() / 1000) - midnight(seconds)) / 86400000);
}

/** The day as it stands between messages. */
export function dayOf(seconds) {
  const days = daysAgo(seconds);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  return (days > 1 && days < 7 ? inUse().weekday : inUse().date).format(seconds * 1000);
}

/** A key for the day of a time: the same for all times of that day. */
export const dateOf = (seconds) => midnight(seconds);

/** A time as lists show it. */
export function whenOf(seconds) {
  const days = daysAgo(seconds);
  if (days === 0) return timeOf(seconds);
  if (days === 1) return "Yesterday";
  const sameYear = new Date(seconds * 1000).getFullYear() === new Date().getFullYear();
  return (sameYear ? inUse().short : inUse().shortWithYear).format(seconds * 1000);
}
