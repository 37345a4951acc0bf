// Line charts over time, in the colours of the page.

import { count, measure, time } from "./format.js";

/* global uPlot */

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = new Set();

/** Between two ticks of the time axis: a label shows no less than a second. */
const SPANS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400];

/** Times of day, with seconds only where they tell the ticks apart. */
function stamps(ticks) {
  const short = ticks.length > 1 && ticks[1] - ticks[0] >= 60;
  return ticks.map((s) => (short ? time(s * 1000).replace(/^(\d+:\d+):\d+/, "$1") : time(s * 1000)));
}

export class Chart {
  /** `lines` are {label, colour (a CSS variable), fill}; `aria` says what the picture shows. */
  constructor(node, lines, aria, fromZero = true, mouse = null) {
    this.node = node;
    this.lines = lines;
    this.aria = aria;
    this.fromZero = fromZero;
    this.mouse = mouse; // {band, zoom(), read(index)}: the chart answers the mouse
    this.data = [[], ...lines.map(() => [])];
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(node);
    charts.add(this);
    this.draw();
  }

  set(data, lines = this.lines) {
    const same = lines.length === this.lines.length && lines.every((line, at) => line.label === this.lines[at].label);
    this.lines = lines;
    this.data = data;
    if (same) this.plot.setData(data);
    else this.draw();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.node;
    if (width && height) this.plot.setSize({ width, height });
  }

  draw() {
    this.plot?.destroy();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const fromZero = this.fromZero;
    const range = (_plot, low, high) => {
      if (low === null || low === undefined) return [0, 1];
      if (fromZero) return [0, Math.max(high * 1.1, 1)];
      const room = (high - low || Math.abs(high) || 1) * 0.1;
      return [low - room, high + room];
    };
    const options = {
      width: this.node.clientWidth || 300,
      height: this.node.clientHeight || 150,
      padding: [8, 32, 0, 0], // the last label of the time axis stands under the last point
      cursor: { drag: { x: Boolean(this.mouse), y: false }, points: { size: 6 } },
      bands: this.mouse?.band ? [{ series: [3, 2], fill: `${colour(this.lines[0].colour)}22` }] : [],
      hooks: this.mouse ? { setCursor: [(plot) => this.mouse.read(plot.cursor.idx)], setSelect: [(plot) => plot.select.width && this.mouse.zoom()] } : {},
      legend: { show: false },
      scales: { y: { range } },
      axes: [{ ...axis, space: 80, size: 26, incrs: SPANS_S, values: (_plot, ticks) => stamps(ticks) }, { ...axis, size: 56, space: 26, values: (_plot, ticks) => ticks.map((n) => (fromZero ? count(n) : measure(n))), incrs: fromZero ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6] : undefined }],
      series: [{}, ...this.lines.map((line) => ({
        label: line.label,
        stroke: colour(line.colour),
        width: line.thin ? 0 : 2,
        points: { show: line.points ?? false, size: 5, fill: colour(line.colour) },
        fill: line.fill ? `${colour(line.colour)}22` : undefined,
        spanGaps: !line.gaps,
      }))],
    };
    this.plot = new uPlot(options, this.data, this.node);
    this.plot.root.setAttribute("role", "img");
    this.plot.root.setAttribute("aria-label", this.aria);
  }

  destroy() {
    this.sizes.disconnect();
    this.plot.destroy();
    charts.delete(this);
  }
}

/** After the theme has changed. */
export function redrawAll() {
  for (const chart of charts) chart.draw();
}
