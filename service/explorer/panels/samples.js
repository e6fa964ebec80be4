/** The panel of samples: pictures out of the prior, of which some can be chosen for the other panels. */

import { setView, view } from "../lib/address.js";
import { element, holdsNumber, oneTabStop, spoken } from "../lib/elements.js";
import { levels, paint, row } from "../lib/pictures.js";
import { latest } from "../lib/pacing.js";

const FIRST = { count: "48", seed: "0", temperature: "1" };

/**
 * @param {HTMLElement} panel
 * @param {{score, explore, walk}} use what is done with chosen pictures, each `{name, values, latents, shown}`; `walk`
 *   gets the end, "a" or "b", too.
 */
export function samplesPanel(panel, use) {
  const [count, seed, temperature] = ["count", "seed", "temperature"].map((name) => panel.querySelector(`[name=${name}]`));
  const grid = panel.querySelector(".grid");
  const hint = panel.querySelector(".chosen");
  const actions = [...panel.querySelectorAll("[data-use]")];
  let model;
  let pictures = [];
  let chosen = [];

  async function draw() {
    panel.querySelector("output").value = Number(temperature.value).toFixed(2);
    if (!holdsNumber(seed)) return;
    const asked = model;
    const { latents, instances } = await model.sample(count.value, seed.value, temperature.value);
    if (asked !== model) return;
    pictures = Array.from({ length: instances.shape[0] }, (_, i) => ({
      name: `Sample ${i + 1}`, row: i + 1, seed: seed.value, latents: row(latents, i), shown: row(instances, i), values: levels(row(instances, i), model.input),
    }));
    chosen = [];
    grid.replaceChildren(...pictures.map(tile));
    oneTabStop(grid);
    tellChosen();
  }
  const redraw = latest(spoken(panel.querySelector(".work > [role=alert]"), draw));

  /** Put what is drawn into the page's address. */
  function keep() {
    if (!seed.validity.valid) return;
    const told = [count, seed, temperature].map(({ name, value }) => [name, value === FIRST[name] ? null : value]);
    setView({ ...Object.fromEntries(told), row: null });
  }

  function tile(picture) {
    const canvas = element("canvas");
    paint(canvas, picture.shown, model.input);
    const button = element("button", { type: "button", className: "picture", "aria-label": picture.name, "aria-pressed": "false" }, canvas);
    button.addEventListener("click", () => {
      const on = chosen.includes(picture);
      chosen = on ? chosen.filter((other) => other !== picture) : [...chosen, picture];
      button.setAttribute("aria-pressed", String(!on));
      tellChosen();
    });
    return element("li", {}, button);
  }

  function tellChosen() {
    hint.textContent = chosen.length ? `${chosen.length} chosen` : "Choose pictures, then";
    for (const action of actions) action.disabled = !chosen.length;
  }

  for (const input of [count, seed, temperature]) {
    input.addEventListener("input", redraw);
    input.addEventListener("change", keep);
  }
  panel.querySelector(".another").addEventListener("click", () => {
    seed.value = Number(seed.value) + 1;
    keep();
    redraw();
  });
  const uses = {
    score: () => use.score(chosen),
    explore: () => use.explore(chosen.at(-1)),
    a: () => use.walk("a", chosen.at(-1)),
    b: () => use.walk("b", chosen.at(-1)),
  };
  for (const action of actions) action.addEventListener("click", uses[action.dataset.use]);

  /** Show a model, drawn as the page's address says; returns its first samples. */
  return async (opened) => {
    model = opened;
    const told = { ...FIRST, ...view() };
    for (const input of [count, seed, temperature]) input.value = told[input.name];
    if (!count.value) count.value = FIRST.count;
    if (!holdsNumber(seed)) seed.value = FIRST.seed;
    pictures = [];
    await draw();
    return pictures;
  };
}
