/** The dialog that asks for an API key. */

/** A function that asks, and promises the key. */
export function keyDialog(dialog) {
  const input = dialog.querySelector("input");
  // Nothing works without a key: the dialog is left by giving one.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  return (wasRefused) => new Promise((resolve) => {
    dialog.querySelector("[role=alert]").textContent = wasRefused ? "That key was not accepted." : "";
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close();
      resolve(input.value.trim());
      input.value = "";
    }, { once: true });
    dialog.showModal();
  });
}
