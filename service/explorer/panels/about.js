/** The panel about the model itself: what it is, what was measured, where it comes from, and what it does just now. */

import { trace } from "../lib/charts.js";
import { element, spoken } from "../lib/elements.js";
import { enlargeButton } from "../lib/enlarge.js";
import { downloadText } from "../lib/files.js";
import { between, read } from "../lib/prometheus.js";
import { fixed, short, words } from "../lib/numbers.js";

const INTERVAL = 2000;
const SLOTS = 60;

export function aboutPanel(panel, service) {
  const find = (selector) => panel.querySelector(selector);
  const [facts, metrics, provenance, card] = [".facts", ".metrics tbody", ".provenance", ".card"].map(find);
  let visible = false;
  let before = null;
  let rates = [];

  const measure = spoken(find("[role=alert]"), async () => {
    const now = read(await service.text("metrics"), performance.now());
    if (before) {
      const live = between(before, now);
      rates = [...rates, live.requests].slice(-SLOTS);
      const time = (seconds) => (seconds === null ? "–" : `${short(1000 * seconds, 3)} ms`);
      find("[data-live=requests]").textContent = `${short(live.requests, 3)} / s`;
      find("[data-live=row-draws]").textContent = `${short(live.rowDraws, 3)} / s`;
      find("[data-live=median]").textContent = time(live.median);
      find("[data-live=slowest]").textContent = time(live.slowest);
      trace(find("svg.live"), rates, SLOTS);
    }
    before = now;
  });

  async function showCard(model) {
    card.replaceChildren();
    find(".card-link").hidden = true;
    if (!("card/index.html" in model.manifest.files)) return;
    link(model);
    // Its styles are not wanted here, and this page's policy forbids them even in a document that is not shown.
    const plain = (await model.card()).replace(/<style>.*?<\/style>| style="[^"]*"/gs, "");
    const page = new DOMParser().parseFromString(plain, "text/html");
    for (const section of page.querySelectorAll("main section, body > section")) {
      const figures = [...section.querySelectorAll("figure")].map(cardFigure);
      if (figures.length) {
        card.append(element("details", {}, element("summary", { textContent: section.querySelector("h2").textContent }),
          element("div", { className: "figures" }, ...figures)));
      }
    }
  }

  /** The card is a page of its own; where a key is needed, which no link carries, the link gives it as a file. */
  function link(model) {
    const page = find(".card-link a");
    page.href = model.cardAddress;
    page.onclick = service.hasKey
      ? (event) => {
        event.preventDefault();
        spoken(find("[role=alert]"), async () => downloadText(`${model.manifest.name}-card.html`, await model.card(), "text/html"))();
      }
      : null;
    find(".card-link").hidden = false;
  }

  /** One of the card's own, its picture and words alone. */
  function cardFigure(given) {
    const pictures = [...given.querySelectorAll("img[src^='data:image/png']")];
    return element("figure", {},
      ...pictures.map(({ src, alt, className }) => element("div", { className: "chart" },
        element("img", { src, alt, className, loading: "lazy" }), enlargeButton())),
      element("figcaption", { textContent: given.querySelector("figcaption")?.textContent ?? "" }));
  }

  new IntersectionObserver(([{ isIntersecting }]) => { visible = isIntersecting; }).observe(panel);
  setInterval(() => { if (visible && !document.hidden) measure(); }, INTERVAL);

  return {
    open: spoken(find("[role=alert]"), async (model) => {
      const { manifest } = model;
      facts.replaceChildren(...definitions({
        "device in use": model.device,
        likelihood: words(manifest.likelihood),
        prior: words(manifest.prior),
        latents: manifest.latent_size,
        "draws for each row": manifest.num_draws,
        "default score": words(manifest.default_score),
        "held-out rows": manifest.calibration.rows.toLocaleString("en"),
        "smallest p-value": short(manifest.calibration.resolution, 2),
        "golden rows' error": model.golden_error === null ? "no number" : `${short(100 * model.golden_error, 2)} % of what is allowed`,
        "engines replaced": model.replaced_engines,
      }));
      metrics.replaceChildren(...Object.entries(manifest.metrics).map(([name, value]) => element("tr", {},
        element("th", { scope: "row", textContent: words(name) }), element("td", { textContent: figure(value) }))));
      const { provenance: origin } = manifest;
      provenance.replaceChildren(...definitions({
        created: new Date(manifest.created).toISOString().replace("T", " ").slice(0, 16) + " UTC",
        "bundle, SHA-256": model.bundle,
        "data, SHA-256": origin.data_sha256 ?? "not said",
        "trainer's revision": origin.commit ?? "not said",
        rows: Object.entries(origin.splits).map(([name, { rows }]) => `${name} ${rows.toLocaleString("en")}`).join(", ") || "not said",
        packages: Object.entries(origin.packages).map(([name, version]) => `${name} ${version}`).join(", ") || "not said",
      }));
      find(".recipe").textContent = JSON.stringify(origin.recipe, null, 2);
      await measure();
      await showCard(model);
    }),
  };
}

function definitions(entries) {
  return Object.entries(entries).map(([term, text]) => element("div", {},
    element("dt", { textContent: term }), element("dd", { textContent: text })));
}

function figure(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) < 0.01 ? short(value, 3) : fixed(value, 3);
}
