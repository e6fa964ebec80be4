/** The bar that shows how many rows are done, with a button that stops the rest. */

import { inPieces } from "../lib/pieces.js";

const SOON = 400;

/**
 * A function that asks about many rows, in pieces, see `inPieces`. It promises how many rows are answered, or null where a
 * newer call has taken its place. The button ends the request under way.
 *
 * @param {HTMLElement} zone has a progress element, a text and a button; it is shown where the work takes a while.
 */
export function progress(zone) {
  const bar = zone.querySelector("progress");
  const text = zone.querySelector("[role=status]");
  let current;

  zone.querySelector("button").addEventListener("click", () => {
    current.abort();
    keepFocus(zone);
  });

  return async (count, ask) => {
    current?.abort();
    const mine = new AbortController();
    current = mine;
    const told = (done, wait) => {
      if (mine !== current) return;
      bar.max = count;
      bar.value = done;
      text.textContent = `${done.toLocaleString("en")} of ${count.toLocaleString("en")}`
        + (wait ? `; the service is busy, and asks to wait ${wait} s` : "");
    };
    told(0);
    const timer = setTimeout(() => { zone.hidden = mine !== current; }, SOON);
    try {
      const done = await inPieces(count, ask, mine.signal, told);
      return mine === current ? done : null;
    } finally {
      clearTimeout(timer);
      if (mine === current) zone.hidden = true;
    }
  };
}

/** Focus the title of a button's panel, or else the page's content, as the button is about to go. */
function keepFocus(zone) {
  (zone.closest("section")?.querySelector("h2") ?? zone.closest("main")).focus({ preventScroll: true });
}

/** A button, in a zone that shows it after a failure, that does the same work again; gives the function that shows it or not. */
export function tryAgain(zone, work) {
  zone.querySelector("button").addEventListener("click", () => {
    keepFocus(zone);
    work();
  });
  return (failed) => { zone.hidden = !failed; };
}
