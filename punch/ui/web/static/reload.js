// Runs first: loads a page again of which a part is missing. A browser may drop what it is fetching
// when the machine's network changes (Chromium: ERR_NETWORK_CHANGED), even from this machine itself.
{
  const KEY = "punch-tries";
  const MOST = 8;
  const FIRST_WAIT = 300;
  let missing = false;
  // The error of a script or a style sheet does not bubble. That of an exception has the window as its target.
  const missed = (event) => {
    missing ||= event.target instanceof Element;
  };
  addEventListener("error", missed, true);
  addEventListener("load", () => {
    removeEventListener("error", missed, true);
    const tries = Number(sessionStorage.getItem(KEY));
    if (!missing) {
      sessionStorage.removeItem(KEY);
    } else if (tries < MOST) {
      // A limited number of times: something in the browser may block a part.
      sessionStorage.setItem(KEY, String(tries + 1));
      setTimeout(() => location.reload(), FIRST_WAIT * 1.7 ** tries);
    }
  });
}
