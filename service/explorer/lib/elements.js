/** Page elements: making them, and saying in them what went wrong. Knows nothing of what they show. */

import { droppedFiles } from "./dropped.js";

/** A new element; `properties` are assigned, but names with a hyphen, as `aria-label`, are attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** The same in SVG; all properties are attributes. */
export function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Work whose failure is said in `message` instead of being thrown. */
export function spoken(message, work) {
  return async (...given) => {
    say(message, "");
    try {
      await work(...given);
    } catch (error) {
      say(message, error.message);
    }
  };
}

/** Say what is wrong with a control in the element that describes it, or that nothing is. */
export function say(message, text) {
  message.textContent = text;
  if (!message.id) return;
  for (const control of document.querySelectorAll(`[aria-describedby=${message.id}]`)) {
    control.setAttribute("aria-invalid", String(text !== ""));
  }
}

/** Whether an input holds a number that it allows; if not, it is said which it does. */
export function holdsNumber(input) {
  const right = input.value !== "" && input.validity.valid;
  const [low, high] = [input.min, input.max].map((end) => Number(end).toLocaleString("en"));
  const kind = input.step === "any" ? "A number" : "A whole number";
  say(document.getElementById(input.getAttribute("aria-describedby")), right ? "" : `${kind} from ${low} to ${high}.`);
  return right;
}

/** Call `take(files)` for what is dropped on an element or chosen by its file input. */
export function takeFiles(zone, take) {
  const input = zone.querySelector("input[type=file]");
  input.addEventListener("change", () => {
    if (input.files.length) take([...input.files]);
    input.value = "";
  });
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const files = await droppedFiles(event.dataTransfer);
    if (files.length) take(files);
  });
}

/**
 * Make the buttons of a grid one stop for the Tab key; the arrow keys, Home and End move between them. `across` is how many
 * stand side by side, where that does not follow from their places.
 */
export function oneTabStop(grid, across = null) {
  const buttons = [...grid.querySelectorAll("button")];
  const stop = (chosen) => buttons.forEach((button) => { button.tabIndex = button === chosen ? 0 : -1; });
  const columns = () => {
    if (across) return across;
    const tops = buttons.map((button) => button.getBoundingClientRect().top);
    return tops.filter((top) => top === tops[0]).length;
  };
  const steps = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns(), ArrowDown: columns };
  if (!buttons.length) return;
  stop(buttons[0]);
  buttons.forEach((button, at) => {
    button.addEventListener("focus", () => stop(button));
    button.addEventListener("keydown", (event) => {
      const ends = { Home: 0, End: buttons.length - 1 };
      const to = ends[event.key] ?? at + (steps[event.key]?.() ?? NaN);
      if (Number.isNaN(to)) return;
      event.preventDefault();
      buttons[to]?.focus();
    });
  });
}
