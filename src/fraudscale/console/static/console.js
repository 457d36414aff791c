// The page: asks every few seconds, shows the answers, and heeds keys. Nothing is kept but the time range, in the address.

import { changes, showChanges } from "./changes.js";
import { read } from "./dashboard.js";
import { byId, fill as fillIn, make } from "./dom.js";
import { clock } from "./format.js";
import { showAlerts, showModel, showParts, showReplicas, showVerdict, Tiles } from "./glance.js";
import { Panels } from "./panels.js";
import { fill, getJson, instant } from "./prometheus.js";

const RANGES = [
  { name: "5m", words: "5 minutes", seconds: 300, step: 5 },
  { name: "15m", words: "15 minutes", seconds: 900, step: 5 },
  { name: "1h", words: "hour", seconds: 3600, step: 15 },
  { name: "6h", words: "6 hours", seconds: 21600, step: 60 },
  { name: "24h", words: "24 hours", seconds: 86400, step: 300 },
];
const USUAL = "15m";
const REFRESH_MS = 5000;
const KEYS = [["1 – 5", "time range"], ["r", "ask now"], ["p", "pause, go on"], ["t", "to the top"], ["?", "these keys"]];

const state = { overview: null, alerts: null, failure: "", changes: [] };
let range, paused = false, running = false, again = false, timer;
let dashboard, tiles, panels;

const chosen = () => RANGES.find(({ name }) => name === location.hash.slice(1)) ?? RANGES.find(({ name }) => name === USUAL);

function span() {
  const now = Date.now() / 1000;
  const end = Math.floor(now / range.step) * range.step;
  return { now, end, start: end - range.seconds, step: range.step, namespace: dashboard.namespace };
}

/** What is asked fails for itself: the rest of the page goes on. */
async function asked(question, otherwise) {
  try {
    return await question();
  } catch (error) {
    return otherwise(error);
  }
}

async function askAutoscaler({ now, namespace }) {
  const scope = `{namespace="${namespace}",horizontalpodautoscaler="ml-model"}`;
  const percent = async (metric) => Object.fromEntries(
    (await instant(`max by (metric_name) (${metric}${scope})`, now)).map(({ labels, value }) => [labels.metric_name, value]));
  const bound = async (which) => (await instant(`max(kube_horizontalpodautoscaler_spec_${which}_replicas${scope})`, now))[0]?.value;
  const [seen, target, ...bounds] = await Promise.all([
    percent("kube_horizontalpodautoscaler_status_target_metric"), percent("kube_horizontalpodautoscaler_spec_target_metric"),
    bound("min"), bound("max"),
  ]);
  return { seen, target, bounds };
}

async function look() {
  const now = span();
  const [overview, alerts, autoscaler, found] = await Promise.all([
    asked(() => getJson("/api/overview"), () => null),
    asked(async () => (await getJson("/api/v1/alerts")).data.alerts, (error) => {
      state.failure = error.status === 0 ? error.message : "Prometheus does not answer";
      return null;
    }),
    asked(() => askAutoscaler(now), () => ({})),
    asked(() => changes(dashboard.marks, now), () => []),
    tiles.refresh(now),
  ]);
  Object.assign(state, { overview, alerts, changes: found });
  document.body.classList.toggle("blind", !alerts);
  showVerdict(state, tiles);
  showReplicas({ overview, ...autoscaler });
  showModel(state);
  showAlerts(state, now.now);
  showChanges(byId("changes"), dashboard.marks, found, now, range.words);
  showParts(state);
  byId("asked").textContent = `${paused ? "paused, " : ""}asked at ${clock(now.now)}`;
  document.body.dataset.asked = now.now;
  await panels.refresh(now);
}

/** Look, and again after a while; a wish that comes meanwhile is heeded right after. */
async function refresh() {
  clearTimeout(timer);
  if (running) {
    again = true;
    return;
  }
  running = true;
  again = false;
  try {
    await look();
  } finally {
    running = false;
  }
  if (again) refresh();
  else if (!paused && !document.hidden) timer = setTimeout(refresh, REFRESH_MS);
}

function choose(name) {
  history.replaceState(null, "", `#${name}`);
  range = chosen();
  for (const button of byId("ranges").children) button.setAttribute("aria-pressed", String(button.textContent === range.name));
  refresh();
}

function pause() {
  paused = !paused;
  document.body.classList.toggle("paused", paused);
  refresh();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const act = {
    r: refresh, p: pause, t: () => scrollTo({ top: 0 }), "?": () => byId("help").showModal(),
    ...Object.fromEntries(RANGES.map(({ name }, i) => [String(i + 1), () => choose(name)])),
  }[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
}

async function begin() {
  dashboard = read(await getJson("/dashboard.json"));
  const [glance, ...rows] = dashboard.rows;
  tiles = new Tiles(byId("tiles"), glance.panels);
  panels = new Panels(byId("panels"), rows, () => state.changes);
  byId("ranges").append(...RANGES.map(({ name, words }) => {
    const button = make("button", { type: "button", title: `the last ${words}` }, name);
    button.addEventListener("click", () => choose(name));
    return button;
  }));
  fillIn(byId("keys"), ...KEYS.flatMap(([key, meaning]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, meaning)]));
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  addEventListener("keydown", onKey);
  addEventListener("hashchange", () => choose(chosen().name));
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    tiles.repaint();
    panels.repaint();
    refresh();
  });
  choose(chosen().name);
}

begin().catch((error) => {
  byId("status").dataset.tone = "bad";
  byId("verdict").textContent = error.message;
});
