/** Pictures and charts as large as the window, in a dialog. Knows nothing of what they show. */

import { element } from "./elements.js";

/** The button that enlarges what stands beside it in the same parent. */
export function enlargeButton() {
  return element("button", { type: "button", className: "enlarge", "aria-label": "Enlarge", title: "Enlarge", textContent: "⤢" });
}

/** Let every such button of the page, now and later, open this dialog. */
export function enlarging(dialog) {
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("button.enlarge");
    if (!button) return;
    const shown = button.parentElement.querySelector("canvas, svg, img");
    const name = shown.alt || shown.getAttribute("aria-label");
    dialog.querySelector(".shown").replaceChildren(copy(shown));
    dialog.querySelector("p").textContent = name;
    dialog.showModal();
  });
  dialog.addEventListener("click", ({ target }) => { if (target === dialog) dialog.close(); });
}

function copy(shown) {
  const made = shown.cloneNode(true);
  if (made instanceof HTMLCanvasElement) made.getContext("2d").drawImage(shown, 0, 0);
  return made;
}
