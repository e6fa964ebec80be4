/** The view in the page's address, so that a link leads to it and the back button leaves it. Knows no panel. */

let last = view();
let shown = {};

/** What the address says: `model`, `version`, `seed`, `row` and the like, as texts. */
export function view() {
  return Object.fromEntries(new URLSearchParams(location.search));
}

/** Name the model that is shown: with it a link leads to the same, even where another is the default by then. */
export function pin(model) {
  shown = model;
}

/** Change parts of the view; null takes one out. `replace` makes no new entry of the history. */
export function setView(changes, { replace = false } = {}) {
  const next = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries({ ...shown, ...changes })) {
    if (value == null) next.delete(name);
    else next.set(name, value);
  }
  const search = next.size ? `?${next}` : "";
  if (search === location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", `${search || location.pathname}${location.hash}`);
  last = view();
}

/** Call `go(view, before)` when the user goes back or on to another view. */
export function onReturn(go) {
  addEventListener("popstate", () => {
    const before = last;
    last = view();
    if (JSON.stringify(last) !== JSON.stringify(before)) go(last, before);
  });
}
