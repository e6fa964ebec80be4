/** The panel of latents: a slider for each, and a map over two of them. */

import { element, spoken } from "../lib/elements.js";
import { fixed } from "../lib/numbers.js";
import { debounced, latest } from "../lib/pacing.js";
import { levels, paint, row } from "../lib/pictures.js";

const PROBES = 256;
const AT_FIRST = 8;
const REACH = 3;
const CELLS = 11;

export function latentsPanel(panel) {
  const message = panel.querySelector(".work > [role=alert]");
  const canvas = panel.querySelector("canvas.now");
  const map = panel.querySelector("canvas.map");
  const spot = panel.querySelector(".spot");
  const list = panel.querySelector(".sliders");
  const all = panel.querySelector("[name=all]");
  const axes = [panel.querySelector("[name=x-axis]"), panel.querySelector("[name=y-axis]")];
  let model;
  let z;
  let sliders;
  let spreads;

  const show = latest(spoken(message, async () => {
    const asked = model;
    const picture = await model.decode(Float32Array.from(z));
    if (asked === model) paint(canvas, picture.data, model.input);
  }));

  const drawMap = latest(spoken(message, async () => {
    const asked = model;
    const [x, y] = axes.map((axis) => Number(axis.value));
    const latents = new Float32Array(CELLS * CELLS * z.length);
    for (let cell = 0; cell < CELLS * CELLS; cell++) {
      latents.set(z, cell * z.length);
      latents[cell * z.length + x] = along(cell % CELLS);
      latents[cell * z.length + y] = -along(Math.floor(cell / CELLS));
    }
    const pictures = await model.decode(latents);
    if (asked !== model) return;
    const [height, width] = model.input.shape;
    map.width = CELLS * (width + 1);  // A pixel between them.
    map.height = CELLS * (height + 1);
    const cell = element("canvas");
    const context = map.getContext("2d");
    for (let i = 0; i < CELLS * CELLS; i++) {
      paint(cell, row(pictures, i), model.input);
      context.drawImage(cell, (i % CELLS) * (width + 1), Math.floor(i / CELLS) * (height + 1));
    }
  }));
  const drawMapSoon = debounced(drawMap);

  function along(cell) {
    return ((2 * cell) / (CELLS - 1) - 1) * REACH;
  }

  function place() {
    const [x, y] = axes.map((axis) => Math.max(-REACH, Math.min(REACH, z[axis.value])));
    // The outermost cells' centres are at the ends of the range.
    const share = (value) => `${(((value / REACH) * (CELLS - 1)) / CELLS + 1) * 50}%`;
    spot.style.left = share(x);
    spot.style.top = share(-y);
  }

  /** Move to a point, all sliders with it. */
  function move(latents) {
    z = Float32Array.from(latents);
    for (const { input, output, latent } of sliders) {
      input.value = z[latent];
      output.value = fixed(z[latent], 2);
    }
    place();
    show();
    drawMapSoon();
  }

  function slider(latent) {
    const id = `latent-${latent}`;
    const input = element("input", { type: "range", id, min: -REACH, max: REACH, step: 0.01 });
    const output = element("output", { htmlFor: id });
    input.addEventListener("input", () => {
      z[latent] = input.valueAsNumber;
      output.value = fixed(z[latent], 2);
      place();
      show();
      if (!axes.some((axis) => Number(axis.value) === latent)) drawMapSoon();
    });
    const title = `Its mean varies by ${spreads[latent].toFixed(2)} from picture to picture`;
    const label = element("label", { htmlFor: id, title }, "z", element("sub", { textContent: latent + 1 }));
    return { input, output, latent, item: element("li", {}, label, input, output) };
  }

  function fold() {
    sliders.forEach(({ item }, i) => { item.hidden = i >= AT_FIRST && !all.checked; });
  }

  all.addEventListener("change", fold);
  for (const axis of axes) axis.addEventListener("change", () => { place(); drawMap(); });
  panel.querySelector(".centre").addEventListener("click", () => move(new Float32Array(model.latentSize)));
  map.addEventListener("click", (event) => {
    const box = map.getBoundingClientRect();
    const value = (share) => Math.max(-REACH, Math.min(REACH, ((2 * share - 1) * REACH * CELLS) / (CELLS - 1)));
    const next = Float32Array.from(z);
    next[axes[0].value] = value((event.clientX - box.left) / box.width);
    next[axes[1].value] = -value((event.clientY - box.top) / box.height);
    move(next);
  });

  return {
    /** Show a model, its most active latents first, from a point of its latent space on. */
    open: spoken(message, async (opened, latents) => {
      model = opened;
      const probes = await model.sample(PROBES, 0, 1);
      spreads = spread((await model.encode(levels(probes.instances.data, model.input))).mean);
      const order = Array.from(spreads.keys()).sort((a, b) => spreads[b] - spreads[a]);
      sliders = order.map(slider);
      list.replaceChildren(...sliders.map(({ item }) => item));
      panel.querySelector(".all").hidden = order.length <= AT_FIRST;
      fold();
      axes.forEach((axis, i) => {
        axis.replaceChildren(...order.map((latent) => element("option", { value: latent, textContent: `z${latent + 1}` })));
        axis.value = order[Math.min(i, order.length - 1)];
      });
      move(latents);
    }),
    move,
  };
}

/** The standard deviation of each column of an array of rows. */
function spread({ shape: [rows, size], data }) {
  return Float64Array.from({ length: size }, (_, j) => {
    let sum = 0;
    let squares = 0;
    for (let i = 0; i < rows; i++) {
      sum += data[i * size + j];
      squares += data[i * size + j] ** 2;
    }
    return Math.sqrt(Math.max(0, squares / rows - (sum / rows) ** 2));
  });
}
