/** The page: which model is shown, and which panels show it. */

import { onReturn, pin, setView, view } from "./lib/address.js";
import { aboutPanel } from "./panels/about.js";
import { comparePanel } from "./panels/compare.js";
import { element, spoken } from "./lib/elements.js";
import { enlarging } from "./lib/enlarge.js";
import { keyDialog } from "./panels/key.js";
import { latentsPanel } from "./panels/latents.js";
import { Model } from "./model.js";
import { fixed } from "./lib/numbers.js";
import { tryAgain } from "./panels/progress.js";
import { samplesPanel } from "./panels/samples.js";
import { scorePicturesPanel } from "./panels/score-pictures.js";
import { scoreRowsPanel } from "./panels/score-rows.js";
import { Service } from "./service.js";
import { themeSwitch } from "./lib/theme.js";
import { walkPanel } from "./panels/walk.js";

const AT_FIRST = 12;

const panel = (id) => document.getElementById(id);
const service = new Service(keyDialog(panel("key")));
const latents = latentsPanel(panel("latents"));
const walk = walkPanel(panel("walk"));
const pictures = scorePicturesPanel(panel("pictures"), () => compare.compare());
const rows = scoreRowsPanel(panel("rows"), () => compare.compare());
const compare = comparePanel(panel("compare"), service, () => (kind === "image" ? pictures : rows).scored());
const about = aboutPanel(panel("model"), service);
const openSamples = samplesPanel(panel("samples"), {
  score: (chosen) => { pictures.take(chosen); go("pictures"); },
  explore: (picture) => { latents.move(picture.latents); go("latents"); },
  walk: (end, picture) => { walk.set(end, picture); go("walk"); },
});

let kind;
const content = panel("content");
const select = panel("which");
const failed = tryAgain(panel("again"), () => (select.disabled ? start() : show()));
const show = spoken(panel("failure"), async () => {
  const [name, version] = select.value.split("/");
  await busy(async () => open(await Model.open(service, name, version)));
});

/** Mark the page as busy meanwhile; where the work fails, show the place of its message and a button to try again. */
async function busy(work) {
  content.ariaBusy = "true";
  failed(false);
  if (!kind) panel("title").textContent = "Loading…";
  try {
    return await work();
  } catch (error) {
    if (!kind) panel("title").textContent = "No model to show";
    failed(true);
    scrollTo({ top: 0 });
    throw error;
  } finally {
    content.ariaBusy = "false";
  }
}

async function open(model) {
  ({ kind } = model.input);
  for (const part of document.querySelectorAll("[data-kind]")) part.hidden = !part.dataset.kind.split(" ").includes(kind);
  introduce(model);
  pin({ model: model.manifest.name, version: model.manifest.version });
  compare.open(model, [...select.options].map(({ value }) => value));
  if (kind === "image") {
    const [first, ...others] = await openSamples(model);
    await latents.open(model, first.latents);
    walk.open(model, first, others[0] ?? first);
    const named = others.slice(AT_FIRST - 1).find(({ row }) => row === Number(view().row));
    await pictures.open(model, [first, ...others].slice(0, AT_FIRST).concat(named ?? []));
  } else {
    await rows.open(model);
  }
  await about.open(model);
}

function introduce({ manifest, device, input, latentSize }) {
  const what = input.kind === "image"
    ? `pictures of ${input.shape.slice(0, 2).join(" × ")} pixels`
    : `rows of ${input.columns.length} columns`;
  panel("title").textContent = manifest.name;
  panel("subtitle").textContent = `A model of ${what} in ${latentSize} numbers.`;
  const figures = {
    "rows it learned from": fixed(manifest.provenance.splits.train?.rows, 0),
    "held-out rows to compare with": manifest.calibration.rows.toLocaleString("en"),
    "device in use": device,
  };
  panel("figures").replaceChildren(...Object.entries(figures).filter(([, text]) => !text.startsWith("–")).map(
    ([term, text]) => element("div", {}, element("dt", { textContent: term }), element("dd", { textContent: text }))));
  document.title = `${manifest.name} · Lowerbound`;
}

function go(id) {
  panel(id).scrollIntoView();
  panel(id).querySelector("h2").focus({ preventScroll: true });
}

const start = spoken(panel("failure"), async () => {
  const { models, default: preferred } = await busy(() => service.json("models"));
  const names = Object.keys(models).sort((a, b) => (b === preferred) - (a === preferred));
  select.replaceChildren(...names.flatMap((name) => models[name].toReversed().map((version) => (
    element("option", { value: `${name}/${version}`, textContent: `${name} ${version}` })))));
  select.disabled = false;
  const found = choose();
  await show();
  if (!found) throw new Error(`${view().model} ${view().version ?? ""} is not served here; this is ${select.value.replace("/", " ")}.`);
});

/** Choose the model that the page's address names. */
function choose() {
  const { model, version } = view();
  const options = [...select.options].map(({ value }) => value);
  const wanted = options.find((value) => value === (version ? `${model}/${version}` : `${model}/${value.split("/")[1]}`));
  select.value = wanted ?? options[0];
  return !model || wanted !== undefined;
}

select.addEventListener("change", () => {
  const [model, version] = select.value.split("/");
  setView({ model, version, seed: null, temperature: null, count: null, row: null, with: null });
  show();
});
onReturn(({ row, with: other, ...now }, { row: _, with: before, ...then }) => {
  if (JSON.stringify(now) !== JSON.stringify(then)) {
    choose();
    show();
    return;
  }
  rows.openRow();
  pictures.openRow(row);
  if (other !== before) compare.choose();
});
themeSwitch(panel("theme"));
enlarging(panel("large"));
start();
