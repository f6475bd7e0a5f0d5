"use strict";
// Without this file the page says the same: every cut below the other, and no limits. Nothing is fetched.
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const at = (id) => document.getElementById(id);
const root = document.documentElement;
root.classList.add("scripted");

// One cut at a time ---------------------------------------------------------------------------------------------------
const cuts = all("article.cut");
const slider = at("cut-slider");
let shown = -1;

function show(i) {
  shown = Math.max(0, Math.min(cuts.length - 1, i));
  cuts.forEach((cut, k) => cut.classList.toggle("shown", k === shown));
  all(".column").forEach((column) => column.classList.toggle("current", Number(column.dataset.cut) === shown));
  all(".cut-line").forEach((line) => line.classList.toggle("current", Number(line.dataset.cut) === shown));
  const name = all("h3", cuts[shown])[0].textContent;
  slider.value = shown;
  slider.setAttribute("aria-valuetext", name);
  at("cut-name").textContent = name;
  at("before").disabled = shown === 0;
  at("after").disabled = shown === cuts.length - 1;
}

function follow() {
  const found = /^#cut-(\d+)$/.exec(location.hash);
  if (!found) return;
  show(Number(found[1]));
  cuts[shown].focus();
}

at("slider").hidden = false;
slider.addEventListener("input", () => show(Number(slider.value)));
at("before").addEventListener("click", () => show(shown - 1));
at("after").addEventListener("click", () => show(shown + 1));
all(".column").forEach((column) => column.addEventListener("click", () => show(Number(column.dataset.cut))));
addEventListener("hashchange", follow);
addEventListener("keydown", (event) => {
  // Not where keys mean something else: in fields, and in regions that they scroll.
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input:not([type=range]), select, textarea, .scroll")) return;
  const slides = event.target === slider; // which moves itself by arrows
  const step = slides ? undefined : { ArrowLeft: shown - 1, ArrowRight: shown + 1 }[event.key];
  // Digits only where the images have the focus: elsewhere they may be spoken or typed by mistake.
  const digit = /^[1-9]$/.test(event.key) && event.target.closest("#images");
  const asked = digit ? Number(event.key) - 1 : step;
  if (asked === undefined || asked >= cuts.length) return;
  event.preventDefault();
  show(asked);
});
addEventListener("beforeprint", () => all("details").forEach((part) => { part.open = true; }));
show(Math.max(0, cuts.findIndex((cut) => cut.querySelector(".pictures"))));
follow();

// Limits --------------------------------------------------------------------------------------------------------------
const form = at("budgets");
const limit = (id) => {
  const field = at(id);
  return field && field.value !== "" && Number.isFinite(field.valueAsNumber) ? field.valueAsNumber : null;
};
// A number that is not known does not exceed a limit of cost; a cut that nobody attacked meets no limit of leaks.
const over = (value, most) => most !== null && value > most;
const short = (value, least) => least !== null && !(value >= least);

function judge() {
  const type = at("payload-type").value;
  const lines = all(".cut-line[data-valid='1']");
  const fitting = [];
  const best = new Map();
  for (const line of lines) {
    const cost = line.dataset;
    const why = [];
    if (over(100 * Number(cost.share), limit("limit-share"))) why.push("the edge holds too much");
    if (over(Number(cost[type]), limit("limit-payload"))) why.push(`${Number(cost[type]).toLocaleString("en")} bytes are sent`);
    if (over(Number(cost.ms), limit("limit-ms"))) why.push("the edge takes too long");
    const runs = all(".verdicts > li", line);
    const kept = runs.filter((run) => {
      const named = limit("limit-named");
      const leaks = short(Number(run.dataset.ratio), limit("limit-ratio")) || (named !== null && !(100 * Number(run.dataset.named) <= named));
      run.classList.toggle("out", leaks);
      return !leaks;
    });
    const attacked = runs.some((run) => run.dataset.ratio !== "nan");
    if (!kept.length) why.push(attacked ? "attacks got more than that" : "nobody attacked it");
    line.classList.toggle("out", why.length > 0);
    all(`.column[data-cut="${cost.cut}"]`).forEach((column) => column.classList.toggle("out", why.length > 0));
    const said = all(".why-out", line)[0];
    said.hidden = !why.length;
    said.textContent = why.length ? `Beyond the limits: ${why.join("; ")}.` : "";
    if (why.length) continue;
    fitting.push(cost.name);
    for (const run of kept) {
      const rank = Number(run.dataset.rank);
      const before = best.get(run.dataset.run);
      if (rank && (!before || rank < before.rank)) best.set(run.dataset.run, { rank, cut: cost.name, word: run.dataset.word });
    }
  }
  const total = lines.length;
  const names = [...best].map(([run, one]) => `${best.size > 1 ? `${run}: ` : ""}${one.cut} (${one.word})`);
  const proposed = names.length ? ` Of these, the one that gives away least: ${names.join("; ")}.` : " None of these can be proposed as it stands.";
  at("fits").textContent = fitting.length
    ? `${fitting.length} of ${total} cuts fit: ${fitting.join(", ")}.${proposed}`
    : "No cut fits; one of the limits must give.";
}

if (form) {
  form.hidden = false;
  form.addEventListener("input", judge);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(judge, 0));
  judge();
}
