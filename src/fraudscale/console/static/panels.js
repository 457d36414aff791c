// The rows of the dashboard: a chart a panel, asked for only while it is near the window.

import { Chart, swatch } from "./charts.js";
import { make, outside } from "./dom.js";
import { format, legend } from "./format.js";
import { fill, range } from "./prometheus.js";

class PanelView {
  constructor(panel, marks) {
    this.panel = panel;
    this.marks = marks;
    this.near = false;
    this.chart = null;
    this.lines = [];
    this.box = make("div", { class: "chart", role: "img", "aria-label": panel.title });
    this.legend = make("ul", { class: "legend" });
    this.note = make("p", { class: "note", hidden: true });
    const { limit, unit } = panel;
    this.element = make("article", { class: "panel", "data-title": panel.title },
      make("header", {},
        make("h3", {}, panel.title),
        limit && make("span", { class: "limit", "data-tone": limit.tone }, `limit ${format(limit.value, unit)}`),
        make("details", { name: "about" },
          make("summary", { "aria-label": `About ${panel.title}` }, "i"),
          make("div", { class: "about" },
            make("p", {}, panel.about),
            ...panel.runbooks.map(({ name, url }) => make("p", {}, "Runbook: ", outside(url, name)))))),
      this.box, this.note, this.legend);
  }

  async refresh({ start, end, step, namespace }) {
    const { queries, title, unit } = this.panel;
    try {
      const answers = await Promise.all(
        queries.map(({ expr }) => range(fill(expr, namespace, step), start, end, step)));
      this.times = Array.from({ length: Math.round((end - start) / step) + 1 }, (_, i) => start + i * step);
      this.lines = answers.flatMap((found, i) => found.map(({ labels, values }) => ({
        name: legend(queries[i].legend, labels), dashed: queries[i].dashed, values,
      }))).sort((a, b) => a.dashed - b.dashed || a.name.localeCompare(b.name, "en", { numeric: true }));
      this.draw();
      this.say(this.lines.length ? null : "no data in this time");
      const told = this.lines.map(({ name, values }) => `${name} ${format(last(values), unit)}`);
      this.box.setAttribute("aria-label", `${title}: ${told.join(", ") || "no data"}`);
    } catch (error) {
      this.say(error.message);
    }
  }

  draw() {
    const names = JSON.stringify(this.lines.map(({ name, dashed }) => [name, dashed]));
    if (this.names !== names) {
      this.names = names;
      this.chart?.remove();
      const { unit, stepped, limit } = this.panel;
      this.chart = new Chart(this.box, {
        lines: this.lines, unit, stepped, limit, marks: this.marks, onCursor: (index) => this.tell(index),
      });
      this.values = this.lines.map(({ name, dashed }, i) => {
        const key = make("span", { class: dashed ? "key dashed" : "key" });
        key.style.setProperty("--key", `var(--${swatch(i, dashed)})`);
        const value = make("b");
        this.legend.children[i]?.remove();
        return [value, make("li", {}, key, `${name || this.panel.title} `, value)];
      });
      this.legend.replaceChildren(...this.values.map(([, item]) => item));
    }
    this.chart.show(this.times, this.lines.map(({ values }) => values));
    this.tell(null);
  }

  /** Show the values at a place in time, or the last ones. */
  tell(index) {
    this.values?.forEach(([value], i) => {
      const { values } = this.lines[i] ?? { values: [] };
      value.textContent = format(index === null ? last(values) : values[index], this.panel.unit);
    });
  }

  say(text) {
    this.note.hidden = !text;
    this.note.textContent = text ?? "";
    this.element.classList.toggle("silent", Boolean(text));
  }

  forget() {
    this.chart?.remove();
    this.chart = this.values = null;
    this.names = undefined;
  }
}

export function last(values) {
  return values.findLast((value) => value !== null) ?? null;
}

export class Panels {
  /** All rows below each other; `marks()` returns what happened. */
  constructor(container, rows, marks) {
    this.views = [];
    this.span = null;
    const observer = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
      const view = this.views.find(({ element }) => element === target);
      const appears = isIntersecting && !view.near;
      view.near = isIntersecting;
      if (appears && this.span) view.refresh(this.span);
    }), { rootMargin: "400px" });
    for (const { title, panels } of rows) {
      const views = panels.map((panel) => new PanelView(panel, marks));
      const id = `row-${title.toLowerCase()}`;
      container.append(make("section", { class: "row", "aria-labelledby": id },
        make("h2", { id }, title), make("div", { class: "grid" }, ...views.map(({ element }) => element))));
      this.views.push(...views);
      views.forEach(({ element }) => observer.observe(element));
    }
  }

  refresh(span) {
    this.span = span;
    return Promise.all(this.views.filter(({ near }) => near).map((view) => view.refresh(span)));
  }

  /** Draw anew, in other colours. */
  repaint() {
    for (const view of this.views) {
      view.forget();
      if (view.lines.length && view.times) view.draw();
    }
  }
}
