// What changed: the dashboard's marks on one time line, and as a list.

import { fill as fillIn, make } from "./dom.js";
import { ago, clock, legend } from "./format.js";
import { fill, range } from "./prometheus.js";

const LISTED = 8;
const TONES = { critical: "bad", warning: "warn", info: "info" };

/** Values that follow each other are one happening, as in Grafana. */
function spans(mark, { labels, values }, start, end) {
  const found = [];
  values.forEach((value, index) => {
    if (!(value > 0)) return;
    const at = start + index * mark.step;
    const open = found.at(-1);
    if (open && at - open.end <= mark.step) open.end = at;
    else found.push({ start: at, end: at });
  });
  return found.map((span) => ({
    ...span, ongoing: span.end > span.start && span.end >= end,
    lane: mark.name, tone: TONES[labels.severity] ?? mark.tone, title: legend(mark.title, labels),
  }));
}

/** Ask for all marks of a time: [{lane, title, tone, start, end, ongoing}], the latest first. */
export async function changes(marks, { start, end, namespace }) {
  const asked = await Promise.all(marks.map(async (mark) => {
    const from = Math.floor(start / mark.step) * mark.step, to = Math.floor(end / mark.step) * mark.step;
    const found = await range(fill(mark.expr, namespace, mark.step), from, to, mark.step);
    return found.flatMap((series) => spans(mark, series, from, to));
  }));
  return asked.flat().sort((a, b) => b.start - a.start);
}

function lane(name, found, { start, end }) {
  const track = make("div", { class: "track" });
  for (const change of found) {
    const item = make("span", {
      class: change.end > change.start ? "span" : "mark", "data-tone": change.tone,
      title: `${change.title}, ${clock(change.start)}`,
    });
    const left = Math.max(0, (change.start - start) / (end - start));
    const right = Math.min(1, ((change.ongoing ? end : change.end) - start) / (end - start));
    item.style.left = `${100 * left}%`;
    item.style.width = change.end > change.start ? `${100 * Math.max(0.004, right - left)}%` : "";
    track.append(item);
  }
  return make("div", { class: "lane" }, make("span", { class: "lane-name" }, name), track);
}

function row(change, now) {
  const until = change.ongoing ? ", still" : change.end > change.start ? ` until ${clock(change.end)}` : "";
  return make("li", {},
    make("span", { class: "dot", "data-tone": change.tone }),
    make("span", { class: "what" }, change.title),
    make("span", { class: "when" }, `${clock(change.start)}${until} · ${ago(change.start, now)}`));
}

export function showChanges(element, marks, found, span, words) {
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => make("span", {}, clock(span.start + part * (span.end - span.start), false)));
  fillIn(element,
    make("div", { class: "lanes", "aria-hidden": "true" },
      ...marks.map(({ name }) => lane(name, found.filter((change) => change.lane === name), span)),
      make("div", { class: "ticks" }, ...ticks)),
    found.length
      ? make("ol", { class: "changes" }, ...found.slice(0, LISTED).map((change) => row(change, span.now)))
      : make("p", { class: "muted" }, `Nothing changed in the last ${words}.`),
    found.length > LISTED ? make("p", { class: "muted" }, `and ${found.length - LISTED} more before`) : null);
}
