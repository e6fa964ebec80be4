/** How often work is done that people ask for faster than it can be: by a slider, or by typing. */

/** Work that runs one call at a time and then with the newest arguments; those in between are never needed. */
export function latest(work) {
  let waiting = null;
  let busy = false;
  return async (...given) => {
    waiting = given;
    if (busy) return;
    busy = true;
    try {
      while (waiting) {
        const now = waiting;
        waiting = null;
        await work(...now);
      }
    } finally {
      busy = false;
    }
  };
}

/** Work that starts when no call has asked for it for some milliseconds. */
export function debounced(work, milliseconds = 200) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), milliseconds);
  };
}
