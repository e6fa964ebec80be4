/** The panel of walks: from one picture to another through latent space. */

import { element, spoken, takeFiles } from "../lib/elements.js";
import { latest } from "../lib/pacing.js";
import { readPictures } from "../lib/picture-files.js";
import { paint, row } from "../lib/pictures.js";

const STEPS = 11;

export function walkPanel(panel) {
  const message = panel.querySelector(".work > [role=alert]");
  const strip = panel.querySelector(".strip");
  const ends = {};
  let model;

  const draw = latest(spoken(message, async () => {
    const asked = model;
    const way = panel.querySelector("[name=way]:checked").value === "linear" ? linear : spherical;
    const latents = new Float32Array(STEPS * model.latentSize);
    for (let i = 0; i < STEPS; i++) latents.set(way(ends.a.latents, ends.b.latents, i / (STEPS - 1)), i * model.latentSize);
    const pictures = await model.decode(latents);
    if (asked !== model) return;
    strip.replaceChildren(...Array.from({ length: STEPS }, (_, i) => {
      const canvas = element("canvas", { role: "img", "aria-label": `${Math.round((100 * i) / (STEPS - 1))} % of the way` });
      paint(canvas, row(pictures, i), model.input);
      return element("li", {}, canvas);
    }));
  }));

  /** Begin ("a") or end ("b") with a picture. */
  function set(end, picture) {
    ends[end] = picture;
    const zone = panel.querySelector(`[data-end=${end}]`);
    paint(zone.querySelector("canvas"), picture.shown, model.input);
    zone.querySelector("figcaption").textContent = picture.name;
    if (ends.a && ends.b) draw();
  }

  for (const zone of panel.querySelectorAll("[data-end]")) {
    takeFiles(zone, spoken(zone.querySelector("[role=alert]"), async ([file]) => {
      const [{ name, values }] = await readPictures(file, model);
      const { mean } = await model.encode(values);
      set(zone.dataset.end, { name, shown: values, latents: mean.data });
    }));
  }
  for (const way of panel.querySelectorAll("[name=way]")) way.addEventListener("change", draw);

  return {
    /** Show a model, with a walk from one of its pictures to another. */
    open(opened, a, b) {
      model = opened;
      delete ends.a;
      set("b", b);
      set("a", a);
    },
    set,
  };
}

/** The straight line. */
export function linear(a, b, t) {
  return a.map((value, i) => (1 - t) * value + t * b[i]);
}

/** The arc (Shoemake 1985), which keeps the distance from the prior's centre where both ends have the same. */
export function spherical(a, b, t) {
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  const length = Math.sqrt(dot(a, a) * dot(b, b));
  const angle = Math.acos(Math.max(-1, Math.min(1, length ? dot(a, b) / length : 1)));
  if (Math.sin(angle) < 1e-4) return linear(a, b, t);
  const [p, q] = [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)];
  return a.map((value, i) => p * value + q * b[i]);
}
