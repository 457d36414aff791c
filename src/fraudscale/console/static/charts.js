// Panels and sparklines, drawn by uPlot in the colours of the style sheet.

import { clock, format } from "./format.js";

const HEIGHT = 132;
const SPARK_HEIGHT = 36;
const SYNC = uPlot.sync("time");

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const series = (index) => colour(`series-${1 + (index % 8)}`);

/** A width for a chart, kept equal to that of its box. */
function fitted(box, chart, height) {
  const observer = new ResizeObserver(() => {
    if (box.clientWidth > 0) chart.setSize({ width: box.clientWidth, height });
  });
  observer.observe(box);
  return () => observer.disconnect();
}

function steppedIf(stepped) {
  return stepped ? uPlot.paths.stepped({ align: 1 }) : uPlot.paths.linear();
}

export class Spark {
  /** A line without axes in a box. */
  constructor(box, { stepped }) {
    const stroke = colour("accent");
    this.chart = new uPlot({
      width: box.clientWidth || 100, height: SPARK_HEIGHT,
      cursor: { show: false }, legend: { show: false }, padding: [3, 0, 3, 0],
      scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.05 : 1] } },
      axes: [{ show: false }, { show: false }],
      series: [{}, { stroke, width: 1.5, fill: `${stroke}1f`, points: { show: false }, paths: steppedIf(stepped) }],
    }, [[], []], box);
    this.release = fitted(box, this.chart, SPARK_HEIGHT);
  }

  show(times, values) {
    this.chart.setData([times, values]);
  }

  remove() {
    this.release();
    this.chart.destroy();
  }
}

export class Chart {
  /**
   * Lines over time, for a fixed list of series.
   *
   * `marks()` returns what happened: [{start, end, colour}], drawn on all charts.
   * `onCursor(index)` is told where the pointer is; null where it is not.
   */
  constructor(box, { lines, unit, stepped, limit, marks, onCursor }) {
    const muted = colour("muted"), grid = { stroke: colour("grid"), width: 1 };
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    this.chart = new uPlot({
      width: box.clientWidth || 300, height: HEIGHT, padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: SYNC.key }, y: false, points: { size: 6 }, drag: { x: false, y: false } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), highest(high ?? 0, limit)] } },
      axes: [
        { stroke: muted, font, grid: { show: false }, ticks: { show: false }, size: 22, gap: 4, space: 72,
          values: (_, ticks) => ticks.map((at) => clock(at, false).replace(/^.* (?=\d\d:)/, "")) },
        { stroke: muted, font, grid, ticks: { show: false }, size: 56, gap: 6, space: 34,
          incrs: increments(unit, stepped),
          values: (_, ticks) => ticks.map((tick) => format(tick, unit)) },
      ],
      series: [{}, ...lines.map(({ dashed }, index) => ({
        stroke: dashed ? muted : series(index), width: dashed ? 1 : 1.5, dash: dashed ? [5, 4] : undefined,
        fill: lines.length === 1 ? `${series(index)}1a` : undefined,
        points: { show: false }, paths: steppedIf(stepped),
      }))],
      hooks: {
        drawAxes: [(chart) => drawMarks(chart, marks())],
        draw: [(chart) => limit && drawLimit(chart, limit)],
        setCursor: [(chart) => onCursor(chart.cursor.idx ?? null)],
      },
    }, [[], ...lines.map(() => [])], box);
    SYNC.sub(this.chart);
    this.release = fitted(box, this.chart, HEIGHT);
  }

  show(times, columns) {
    this.chart.setData([times, ...columns]);
  }

  remove() {
    this.release();
    SYNC.unsub(this.chart);
    this.chart.destroy();
  }
}

export function swatch(index, dashed) {
  return dashed ? "muted" : `series-${1 + (index % 8)}`;
}

/** Round steps of an axis: of bytes powers of two, of what is counted no halves; else uPlot's own. */
function increments(unit, stepped) {
  if (unit === "bytes") return Array.from({ length: 40 }, (_, power) => 2 ** power);
  return stepped && unit === "short" ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10000] : undefined;
}

/** The limit is in the picture where it is near, and where all is 0: far above, it would flatten what is shown. */
function highest(high, limit) {
  const near = limit && (high <= 0 || high > limit.value / 4);
  return 1.12 * Math.max(high, near ? limit.value : 0) || 1;
}

function drawLimit(chart, limit) {
  const y = chart.valToPos(limit.value, "y", true);
  const { left, top, width } = chart.bbox;
  if (y < top) return;
  const { ctx } = chart;
  ctx.save();
  ctx.strokeStyle = colour(limit.tone);
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(left, y);
  ctx.lineTo(left + width, y);
  ctx.stroke();
  ctx.restore();
}

function drawMarks(chart, marks) {
  const { left, top, width, height } = chart.bbox;
  const { ctx } = chart;
  ctx.save();
  for (const { start, end, tone } of marks) {
    const from = Math.max(left, chart.valToPos(start, "x", true));
    const to = Math.min(left + width, chart.valToPos(end, "x", true));
    if (to < left || from > left + width) continue;
    ctx.fillStyle = ctx.strokeStyle = colour(tone);
    ctx.globalAlpha = 0.1;
    ctx.fillRect(from, top, to - from, height);
    ctx.globalAlpha = 0.55;
    ctx.lineWidth = devicePixelRatio;
    ctx.beginPath();
    ctx.moveTo(from, top);
    ctx.lineTo(from, top + height);
    ctx.stroke();
  }
  ctx.restore();
}
