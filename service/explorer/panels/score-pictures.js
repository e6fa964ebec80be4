/** The panel that scores pictures: many side by side, and one in all detail. */

import { setView, view } from "../lib/address.js";
import { ALTERATIONS } from "../lib/alterations.js";
import { bar, distribution } from "../lib/charts.js";
import { format } from "../lib/csv.js";
import { element, oneTabStop, say, spoken, takeFiles } from "../lib/elements.js";
import { downloadText } from "../lib/files.js";
import { FILE } from "../lib/labels.js";
import { fixed, short, words } from "../lib/numbers.js";
import { readAll } from "../lib/picture-files.js";
import { glow, inUnitsOf, paint, row, together } from "../lib/pictures.js";
import { labelling } from "./labels.js";
import { progress, tryAgain } from "./progress.js";
import { callingRule } from "./rules.js";
import { explainScore, inWords, offerScores, pValueInWords, strangerThan } from "./scores.js";

const MOST_SHOWN = 200;
const MOST_LATENTS = 8;

/** Whether a picture is one that the user has brought or chosen, and not altered here. */
const isOwn = (picture) => picture.number !== undefined;

/** @param {() => void} scored is called when other pictures are scored. */
export function scorePicturesPanel(panel, scored) {
  const find = (selector) => panel.querySelector(selector);
  const message = find(".work > [role=alert]");
  const filesProblem = find("#pictures-problem");
  const score = find("[name=score]");
  const steps = find("[name=refine]");
  const gallery = find(".grid");
  const note = find(".note");
  const run = progress(find(".progress"));
  const failed = tryAgain(find(".again"), () => rank());
  const rule = callingRule(panel, "picture", () => judge());
  const labels = labelling(find(".labels"), {
    noun: "picture", titleOf: (i) => pictures[i].name, changed: () => judge(), marked: (i, first) => marked(pictures[i], first),
  });
  const [result, opened] = [find(".result"), find(".detail")];
  const canvases = { sent: find("canvas.sent"), expected: find("canvas.expected"), unlikely: find("canvas.unlikely") };
  let model;
  let pictures = [];
  let ranked = [];
  let selected;

  /** Score the pictures. An error leaves no verdict of other pictures. */
  const rank = spoken(message, async () => {
    explainScore(panel);
    failed(false);
    if (!pictures.length) return;
    try {
      const given = pictures;
      const done = await run(given.length, async (start, stop, signal) => {
        const values = together(given.slice(start, stop).map((picture) => picture.values));
        const answer = await model.elbo(values, { score: score.value }, signal);
        given.slice(start, stop).forEach((picture, i) => (
          Object.assign(picture, { score: answer.score.data[i], p: answer.p_value.data[i] })));
      });
      if (done === null) return;
      if (done === 0) throw new Error("Stopped before the first pictures were scored.");
      show(given.slice(0, done), given.length);
      scored();
      await detail();
    } catch (error) {
      failed(true);
      result.hidden = true;
      note.textContent = "";
      ranked = [];
      scored();
      throw error;
    }
  });

  /** Show the scored ones of so many pictures, the strangest first. */
  function show(given, count) {
    ranked = given.toSorted((a, b) => b.score - a.score);
    const number = (n) => n.toLocaleString("en");
    note.textContent = [
      given.length < count ? `Stopped after ${number(given.length)} of ${number(count)} pictures.` : "",
      given.length > MOST_SHOWN ? `The strangest ${MOST_SHOWN} of ${number(given.length)} are shown.` : "",
      "Each is stranger than the share of held-out pictures under it, red where it is called.",
    ].join(" ").trim();
    const shown = ranked.slice(0, MOST_SHOWN);
    if (!shown.includes(selected)) selected = shown.find(({ row: number }) => number === Number(view().row)) ?? shown[0];
    judge();
    result.hidden = false;
  }

  /** Call pictures by the chosen rule, without asking the service again. */
  function judge() {
    if (!ranked.length) return;
    const answer = { score: ranked.map((picture) => picture.score), p_value: ranked.map(({ p }) => (Number.isNaN(p) ? null : p)) };
    const { called, verdict } = rule.judge(answer, model.manifest.calibration.rows);
    ranked.forEach((picture, i) => { picture.called = called[i]; });
    find(".judged").textContent = verdict;
    const own = pictures.filter(isOwn);
    labels.judged(own.map((picture) => picture.called), own.map((picture) => picture.score));
    gallery.replaceChildren(...ranked.slice(0, MOST_SHOWN).map(tile));
    oneTabStop(gallery);
  }

  const detail = spoken(message, async () => {
    const picture = selected;
    try {
      await takeApart(picture);
    } catch (error) {
      opened.hidden = true;
      throw error;
    }
  });

  async function takeApart(picture) {
    for (const button of gallery.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.name === picture.name));
    }
    const explain = model.has("explain") || null;
    const [bounds, refined, posterior] = await Promise.all([
      model.elbo(picture.values, { score: score.value, explain }),
      Number(steps.value) ? model.elbo(picture.values, { score: "negative_elbo", refine: steps.value }) : null,
      model.encode(picture.values),
    ]);
    const expected = await model.decode(posterior.mean.data);
    if (picture !== selected) return;
    opened.hidden = false;
    find(".name").textContent = picture.name;
    showMarks(picture);
    paint(canvases.sent, picture.values, model.input);
    paint(canvases.expected, expected.data, model.input);
    find(".unlikely-figure").hidden = !explain;
    find(".by-pixel").hidden = !explain;
    if (explain) showParts(bounds);
    const [value, p] = [bounds.score.data[0], bounds.p_value.data[0]];
    find(".verdict").textContent = inWords(p, model.manifest.calibration);
    find(".p-value").textContent = pValueInWords(p);
    distribution(find("svg.distribution"), model.held_out[score.value], value,
      `Held-out ${words(score.value)} with a median of ${short(model.held_out[score.value][50])}; this picture's is ${short(value)}`);
    showBounds(bounds, refined);
  }

  /** The buttons that label a picture, if it is none that the page has altered; the focus stays on them. */
  function showMarks(picture) {
    const marks = find(".marks");
    const focused = [...marks.querySelectorAll("button")].indexOf(document.activeElement);
    marks.replaceChildren(...(isOwn(picture) ? [labels.buttons(picture.number)] : []));
    if (focused >= 0) marks.querySelectorAll("button")[focused]?.focus();
  }

  function showParts({ feature_log_likelihood: byPixel, latent_kl: byLatent }) {
    const [low, high] = glow(canvases.unlikely, row(byPixel, 0), model.input);
    find(".low").textContent = fixed(low);
    find(".high").textContent = fixed(high);
    const largest = Array.from(byLatent.data, (nats, i) => ({ nats, i })).sort((a, b) => b.nats - a.nats).slice(0, MOST_LATENTS);
    find(".latents").replaceChildren(...largest.map(({ nats, i }) => element("li", {},
      element("span", {}, "z", element("sub", { textContent: i + 1 })),
      bar(nats, largest[0].nats),
      element("span", { textContent: fixed(nats, 2) }))));
  }

  /** The encoder's bound, and beside it the refined one, if that was asked for. */
  function showBounds(bounds, refined) {
    const rows = [["ELBO", "elbo", ""], ["log-likelihood", "log_likelihood", ""], ["KL", "kl", "\u2212 "]];
    find(".bounds thead tr").replaceChildren(...["", "nats", ...(refined ? ["refined", "change"] : [])].map((text) => (
      text ? element("th", { scope: "col", textContent: text }) : element("td"))));
    find(".bounds tbody").replaceChildren(...rows.map(([title, name, sign], i) => {
      const [before, after] = [bounds[name].data[0], refined?.[name].data[0]];
      const cells = refined ? [fixed(before), fixed(after), (after < before ? "" : "+") + fixed(after - before)] : [fixed(before)];
      const label = element("th", { scope: "row" }, i === 0 ? title : (sign || "= ") + title);
      return element("tr", {}, label, ...cells.map((text) => element("td", { textContent: text })));
    }));
    find(".regret").textContent = refined
      ? `Regret ${fixed(refined.regret.data[0], 2)} nats: so much did ${steps.value} steps of the picture's own inference gain `
        + "over the encoder."
      : "";
  }

  function canvasOf(picture) {
    const canvas = element("canvas", { ariaHidden: "true" });
    paint(canvas, picture.values, model.input);
    return canvas;
  }

  function tile(picture) {
    const share = strangerThan(picture.p);
    const button = element("button", { type: "button", className: "picture", "aria-pressed": String(picture === selected) },
      canvasOf(picture), element("span", { className: picture.called ? "p strange" : "p", textContent: share }),
      element("span", { className: "p mark" }));
    button.dataset.name = picture.name;
    button.addEventListener("click", () => choose(picture));
    nameTile(button, picture);
    return element("li", {}, button);
  }

  function nameTile(button, picture) {
    const [called, label] = [picture.called ? ", called" : "", labels.textOf(picture.number)];
    button.ariaLabel = `${picture.name}, stranger than ${strangerThan(picture.p)}${called}${label && `, labelled ${label}`}`;
    button.querySelector(".mark").textContent = label;
  }

  /** Take a picture apart, and name it in the address if that can be. */
  function choose(picture) {
    select(picture);
    setView({ row: picture.seed === (view().seed ?? "0") ? picture.row : null });
  }

  function select(picture) {
    selected = picture;
    detail();
  }

  /** Show a picture's new label. After its first one the next strangest picture without a label is taken apart. */
  function marked(picture, first) {
    const shown = ranked.slice(0, MOST_SHOWN);
    const tiles = gallery.querySelectorAll("button");
    nameTile(tiles[shown.indexOf(picture)], picture);
    const next = first ? shown.findIndex((other, i) => i > shown.indexOf(picture) && isOwn(other) && !labels.textOf(other.number)) : -1;
    if (next < 0) return;
    choose(shown[next]);
    gallery.scrollTop = tiles[next].offsetTop - gallery.offsetTop - gallery.clientHeight / 2;
  }

  /** Score pictures, each `{name, values}`, instead of those before; samples have their `row` and `seed`, too. */
  function take(taken) {
    pictures = taken.map((picture, number) => ({ ...picture, number }));
    selected = null;
    find(".marks").replaceChildren(); // They are those of the picture before, until another is taken apart.
    labels.take(model.manifest.name, taken.length, new Map([[FILE, taken.map(({ name, file = name }) => file)]]));
    say(filesProblem, "");
    return rank();
  }

  takeFiles(find(".drop"), spoken(filesProblem, async (files) => {
    result.hidden = true;
    note.textContent = `Reading ${files.length.toLocaleString("en")} ${files.length === 1 ? "file" : "files"} …`;
    const { pictures: read, problems } = await readAll(files, model);
    note.textContent = "";
    setView({ row: null });
    await take(read);
    if (problems.length) throw new TypeError(problems.join("\n"));
  }));
  find(".download").addEventListener("click", () => {
    const places = ranked.some(({ place }) => place > 1);
    const head = ["file", ...(places ? ["row"] : []), "score", "p_value", "called", "label"];
    const lines = ranked.map(({ name, file = name, place, number, score: value, p, called }) => (
      [file, ...(places ? [place] : []), value, Number.isNaN(p) ? null : p, called, labels.textOf(number)]));
    downloadText(`${model.manifest.name}-scores.csv`, format([head, ...lines], ","));
  });
  score.addEventListener("change", rank);
  steps.addEventListener("change", detail);
  for (const button of panel.querySelectorAll("[data-alter]")) {
    button.addEventListener("click", () => {
      const values = ALTERATIONS[button.dataset.alter](selected.values, model.input);
      const name = `${selected.name}, ${button.textContent.toLowerCase()}`;
      pictures = [...pictures.filter((other) => other.name !== name), { name, values }];
      selected = pictures.at(-1);
      rank();
    });
  }

  return {
    open(other, taken) {
      model = other;
      offerScores(panel, model.manifest);
      find(".refinement").hidden = !model.has("refine");
      steps.value = "0";
      return take(taken);
    },
    take,
    /** What `/elbo` answered about the pictures, the strangest first, what they look like, and how another model scores them. */
    scored: () => ({
      answer: ranked.length ? { score: ranked.map((picture) => picture.score), p_value: ranked.map(({ p }) => p) } : null,
      pictureOf: (i) => [canvasOf(ranked[i]), ranked[i].name],
      forOther(other) {
        const convert = inUnitsOf(model.input, other);
        const given = ranked;
        return async (start, stop, signal) => {
          const answer = await other.elbo(together(given.slice(start, stop).map(({ values }) => convert(values))), {}, signal);
          return { score: [...answer.score.data], p_value: [...answer.p_value.data] };
        };
      },
    }),
    /** Take the picture of that number apart, if it is there. */
    openRow(number) {
      const picture = pictures.find((one) => one.row === Number(number)) ?? pictures.toSorted((a, b) => b.score - a.score)[0];
      if (picture && picture !== selected) select(picture);
    },
  };
}
