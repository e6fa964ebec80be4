/** Files for the user to keep. */

import { element } from "./elements.js";

/** Let the browser save a text under that name. */
export function downloadText(name, text, type = "text/csv") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}
