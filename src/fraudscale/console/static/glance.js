// The screen's top: one verdict, a sentence, tiles, and the cards of replicas, model and alerts.

import { Spark } from "./charts.js";
import { byId, fill as fillIn, make, outside } from "./dom.js";
import { ago, clock, format, legend, split } from "./format.js";
import { runbook } from "./dashboard.js";
import { fill, instant, range } from "./prometheus.js";

const NAMES = { cpu: "CPU", memory: "Memory" };
const RANKS = { critical: 0, warning: 1, info: 2 };
const TONES = { critical: "bad", warning: "warn", info: "info" };

const seconds = (text) => Date.parse(text) / 1000;

class Tile {
  constructor(panel) {
    this.panel = panel;
    this.value = make("p", { class: "value" });
    this.box = panel.names ? null : make("div", { class: "spark", "aria-hidden": "true" });
    const { limit, unit, about, title } = panel;
    this.element = make("article", { class: "tile", "data-title": title, title: about },
      make("h2", {}, title), this.value,
      make("p", { class: "muted small" }, limit ? `limit ${format(limit.value, unit)}` : ""), this.box);
  }

  async refresh({ start, end, step, now, namespace }) {
    const [{ expr, legend: template }] = this.panel.queries;
    try {
      const query = fill(expr, namespace, step);
      const [[...found], [line]] = await Promise.all([
        instant(query, now), this.box ? range(query, start, end, step) : [],
      ]);
      this.show(found, now, template);
      if (line) this.draw(line.values, start, step);
    } catch {
      this.show([], now, template);
    }
  }

  show(found, now, template) {
    const { unit, names, limit } = this.panel;
    const value = found[0]?.value ?? null;
    const parts = names ? [found.map(({ labels }) => legend(template, labels)).join(", ") || "–", ""] : split(value, unit);
    fillIn(this.value, parts[0], parts[1] && make("small", {}, parts[1]));
    Object.assign(this.element.dataset, { value: names ? parts[0] : value ?? "", time: now });
    this.element.dataset.tone = limit && value > limit.value ? limit.tone : "";
    this.shown = value;
  }

  draw(values, start, step) {
    this.spark ??= new Spark(this.box, this.panel);
    this.spark.show(values.map((_, i) => start + i * step), values);
  }

  repaint() {
    this.spark?.remove();
    this.spark = null;
  }
}

export class Tiles {
  constructor(container, panels) {
    this.all = panels.map((panel) => new Tile(panel));
    container.append(...this.all.map(({ element }) => element));
  }

  refresh(span) {
    return Promise.all(this.all.map((tile) => tile.refresh(span)));
  }

  repaint() {
    this.all.forEach((tile) => tile.repaint());
  }

  /** The value of a tile as people read it; null where there is none. */
  text(title) {
    const tile = this.all.find(({ panel }) => panel.title === title);
    return tile && Number.isFinite(tile.shown ?? NaN) ? format(tile.shown, tile.panel.unit) : null;
  }
}

/** Of Prometheus's alerts those that tell something, the worst first. */
export function telling(alerts) {
  return alerts
    .filter(({ labels, state }) => labels.severity !== "none" && state !== "inactive")
    .sort((a, b) => (a.state === "firing" ? 0 : 1) - (b.state === "firing" ? 0 : 1)
      || RANKS[a.labels.severity] - RANKS[b.labels.severity] || seconds(a.activeAt) - seconds(b.activeAt));
}

/** One verdict of everything: [tone, words]. */
export function verdict({ overview, alerts, failure }) {
  if (!overview) return ["bad", "The console's server does not answer"];
  if (!overview.started_at) return ["bad", "No platform runs here"];
  if (!alerts) return ["bad", failure];
  const firing = telling(alerts).filter(({ state }) => state === "firing");
  const worst = firing[0]?.labels.severity;
  const words = firing.length > 1 ? `${firing.length} alerts fire` : firing[0]?.annotations.summary;
  if (worst === "critical") return ["bad", words];
  const unready = [...overview.components, ...overview.replicas]
    .filter(({ state }) => state !== "ready" && state !== "external").map(({ name, id, state }) => `${name ?? id} is ${state}`);
  if (!overview.ready || unready.length) return ["warn", unready.slice(0, 3).join(", ") || "Not all is ready"];
  if (worst) return [TONES[worst], words];
  return watches(alerts) ? ["good", "All is well"] : ["warn", "No alert rules are evaluated"];
}

/** Whether Prometheus evaluates the rules: one of them always fires. */
function watches(alerts) {
  return alerts.some(({ labels, state }) => labels.alertname === "Watchdog" && state === "firing");
}

export function showVerdict(state, tiles) {
  const [tone, words] = verdict(state);
  byId("status").dataset.tone = tone;
  if (byId("verdict").textContent !== words) byId("verdict").textContent = words;
  document.title = `${words} · fraudscale`;
  const { overview, alerts } = state;
  const ready = overview?.replicas.filter(({ state: is }) => is === "ready").length ?? 0;
  const scored = tiles.text("Scored"), p95 = tiles.text("95th percentile"), model = overview?.model;
  byId("sentence").textContent = !overview?.started_at ? "`make up` starts it." : [
    `${ready} of ${overview.replicas.length} replicas ${alerts && scored ? `score ${scored.replace("/s", "")} transactions per second` : "are ready"}`,
    alerts && p95 && `95 % of requests are answered within ${p95}`,
    model ? `model version ${model.version}${model.alias ? ` (${model.alias})` : ""}` : "the entry names no model",
    model && wantsOther(model) && `${wanted(model)} is wanted`,
  ].filter(Boolean).join("; ") + ".";
}

function bar(name, seen, target) {
  const track = make("div", { class: "track", role: "img", "aria-label": `${name} ${seen} % of the request, target ${target} %` });
  const filled = make("span", { class: "filled", "data-tone": seen > target ? "warn" : "" }), tick = make("span", { class: "target" });
  filled.style.width = `${Math.min(100, seen)}%`;
  tick.style.left = `${Math.min(100, target)}%`;
  track.append(filled, tick);
  return make("div", { class: "bar" }, make("span", {}, name), track, make("b", {}, `${seen}`, make("small", {}, ` of ${target} %`)));
}

/** `seen` and `target`: metric → percent; `bounds`: [fewest, most]. */
export function showReplicas({ overview, seen = {}, target = {}, bounds = [] }) {
  const replicas = overview?.replicas ?? [];
  const slots = Array.from({ length: Math.max(bounds[1] ?? 0, replicas.length) }, (_, i) => replicas.find(({ id }) => id === `replica-${i + 1}`));
  const decision = overview?.decision;
  fillIn(byId("replicas"),
    make("p", { class: "slots" }, ...slots.map((replica, i) => make("span", {
      class: "slot", "data-state": replica?.state ?? "none", title: replica ? `${replica.id} is ${replica.state}` : `replica-${i + 1} is not needed`,
    }, `${i + 1}`))),
    make("p", {}, make("strong", {}, `${replicas.length}`), bounds[1] ? ` of ${bounds[0]} to ${bounds[1]} run` : " run",
      decision && decision.target_replicas !== replicas.length ? `, ${decision.target_replicas} are wanted` : ""),
    ...Object.keys(target).sort().filter((name) => name in seen).map((name) => bar(NAMES[name] ?? name, seen[name], target[name])),
    decision
      ? make("p", { class: "muted" }, `Why: ${decision.message}. `,
        decision.want !== null ? `The metrics alone asked for ${decision.want}, at ${clock(seconds(decision.timestamp))}.` : "")
      : make("p", { class: "muted" }, "The autoscaler has not decided yet."));
}

const facts = (rows) => make("dl", {}, ...rows.filter(([, value]) => value !== undefined && value !== null)
  .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
const share = (value) => (value === undefined ? null : format(value, "percentunit"));

/** Whether the alias or the pin asks for another version than the one that scores; older replicas don't say. */
const wantsOther = ({ version, wanted: other }) => other && other.version !== version;
const wanted = ({ wanted: { version, alias } }) => (version ? `version ${version} (${alias})` : `no version (${alias} names none)`);

export function showModel({ overview }) {
  const model = overview?.model;
  if (!model) {
    fillIn(byId("model"), make("p", { class: "muted" }, "The entry names no model."));
    return;
  }
  const { metrics = {}, training = {} } = model;
  fillIn(byId("model"),
    make("p", { class: "lead" }, make("strong", {}, `Version ${model.version}`), model.alias ? ` ${model.alias}` : ""),
    wantsOther(model)
      ? make("p", { "data-tone": "warn" }, `Wanted: ${wanted(model)}. If that lasts, the log event model_load_failed says why.`)
      : null,
    facts([
      ["Serves since", model.loaded_at && clock(seconds(model.loaded_at))],
      ["Threshold", model.threshold?.toFixed(3)],
      ["Frauds found", share(metrics.recall_at_threshold)],
      ["Right when it says fraud", share(metrics.precision_at_threshold)],
      ["PR-AUC", metrics.pr_auc?.toFixed(3)],
      ["Trained", model.trained_at && clock(seconds(model.trained_at), false)],
      ["On", training.rows && `${training.rows.toLocaleString("en")} transactions, ${training.origin?.startsWith("generated") ? "generated" : "of yours"}`],
    ]));
}

export function showAlerts({ alerts, failure }, now) {
  if (!alerts) {
    fillIn(byId("alerts"), make("p", { class: "muted" }, `${failure}.`));
    return;
  }
  const found = telling(alerts);
  const watched = watches(alerts);
  fillIn(byId("alerts"),
    found.length ? null : make("p", { class: "lead" }, make("strong", {}, "No alert fires")),
    make("ul", { class: "alerts" }, ...found.map(({ labels, annotations, state, activeAt }) => make("li", { "data-alert": labels.alertname, "data-state": state },
      make("span", { class: "dot", "data-tone": state === "firing" ? TONES[labels.severity] : "none" }),
      make("div", {},
        make("strong", {}, annotations.summary ?? labels.alertname),
        make("p", { class: "muted small" }, `${state === "firing" ? labels.severity : "pending"} since ${clock(seconds(activeAt))}, ${ago(seconds(activeAt), now)} · `,
          outside(runbook(labels.alertname, annotations.runbook_url ?? ""), "runbook")))))),
    make("p", { class: "muted" }, watched ? "The rules are evaluated: the watchdog fires." : "The watchdog does not fire: rules are not evaluated, or not loaded."));
}

export function showParts({ overview }) {
  const components = overview?.components ?? [];
  fillIn(byId("components"), ...components.map(({ name, state, address }) => make("li", { title: `${name} is ${state}` },
    make("span", { class: "dot", "data-tone": state === "ready" || state === "external" ? "good" : "bad" }),
    address.startsWith("http") ? outside(address, name) : name,
    make("span", { class: "muted" }, state === "ready" ? address.replace("http://", "") : state))));
}
