// Line charts over time, in the colours of the page.

import { count, day, measure, time } from "./format.js";

/* global uPlot */

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const charts = new Set();

/** Between two ticks of the time axis: a label shows no less than a second. */
const SPANS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 432000, 864000];
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7];

/** Times of day, with seconds only where they tell the ticks apart, and the date where a day begins. */
function stamps(ticks) {
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : 1;
  return ticks.map((s) => {
    const moment = new Date(s * 1000);
    if (step >= 86400 || (step >= 3600 && moment.getHours() === 0)) return day(s * 1000);
    return step >= 60 ? time(s * 1000).replace(/^(\d+:\d+):\d+/, "$1") : time(s * 1000);
  });
}

/** The points that have no neighbour to be joined to by a line. */
function lonely(plot, at) {
  const values = plot.data[at];
  const known = [];
  values.forEach((value, index) => { if (value !== undefined) known.push(index); });
  return known.filter((index, n) => values[index] !== null && (values[known[n - 1]] ?? null) === null && (values[known[n + 1]] ?? null) === null);
}

export class Chart {
  /** `lines` are {label, colour (a CSS variable), fill, thin}; `aria` says what the picture shows. `mouse` makes
      it answer: {bands, zoom(from_s, to_s), read(index)}. */
  constructor(node, lines, aria, fromZero = true, mouse = null) {
    Object.assign(this, { node, lines, aria, fromZero, mouse });
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
    if (width && height && (width !== this.plot.width || height !== this.plot.height)) this.plot.setSize({ width, height });
  }

  draw() {
    this.plot?.destroy();
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const { fromZero, mouse } = this;
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
      cursor: { drag: { x: Boolean(mouse), y: false, setScale: false }, points: { size: 6 } },
      bands: (mouse?.bands ?? []).map(([high, low, name]) => ({ series: [high, low], fill: `${colour(name)}22` })),
      hooks: mouse ? { setCursor: [(plot) => mouse.read(plot.cursor.idx)], setSelect: [(plot) => this.selected(plot)] } : {},
      legend: { show: false },
      scales: { x: { range: mouse?.span ? () => mouse.span() : undefined }, y: { range } },
      axes: [{ ...axis, space: 80, size: 26, incrs: SPANS_S, values: (_plot, ticks) => stamps(ticks) }, { ...axis, size: 56, space: 26, values: (_plot, ticks) => ticks.map((n) => (fromZero ? count(n) : measure(n))), incrs: fromZero ? WHOLE : undefined }],
      series: [{}, ...this.lines.map((line) => ({
        label: line.label,
        stroke: colour(line.colour),
        width: line.thin ? 0 : line.dash ? 1 : 2,
        dash: line.dash ? [6, 4] : undefined,
        points: { show: !line.thin, size: 5, fill: colour(line.colour), filter: (plot, at) => (line.points ? null : lonely(plot, at)) },
        fill: line.fill ? `${colour(line.colour)}22` : undefined,
        spanGaps: false,
      }))],
    };
    this.plot = new uPlot(options, this.data, this.node);
    this.plot.root.setAttribute("role", "img");
    this.plot.root.setAttribute("aria-label", this.aria);
    if (mouse) this.answerKeys();
  }

  selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const [from, to] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.mouse.zoom(from, to);
  }

  /** What the mouse does, by keyboard: arrows read values, + and − zoom around the one that is read. */
  answerKeys() {
    const { root } = this.plot;
    root.tabIndex = 0;
    root.addEventListener("keydown", (event) => {
      const times = this.data[0];
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (step !== undefined && times.length) {
        const at = this.plot.cursor.idx ?? times.length - 1;
        const next = Math.min(Math.max(at + step, 0), times.length - 1);
        this.plot.setCursor({ left: this.plot.valToPos(times[next], "x"), top: 10 });
        event.preventDefault();
      } else if ((event.key === "+" || event.key === "-") && times.length) {
        const { min, max } = this.plot.scales.x;
        const middle = times[this.plot.cursor.idx ?? times.length - 1];
        const half = (max - min) * (event.key === "+" ? 0.25 : 1);
        this.mouse.zoom(middle - half, middle + half);
        event.preventDefault();
      }
    });
  }

  /** The picture as it is shown, with a title. */
  async picture(title) {
    const drawn = this.plot.ctx.canvas;
    const scale = devicePixelRatio || 1;
    const top = 32 * scale;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [drawn.width, drawn.height + top];
    const context = canvas.getContext("2d");
    context.fillStyle = colour("--card");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = colour("--text");
    context.font = `600 ${14 * scale}px system-ui, sans-serif`;
    context.fillText(title, 12 * scale, 20 * scale);
    context.drawImage(drawn, 0, top);
    return new Promise((resolve) => { canvas.toBlob(resolve); });
  }

  destroy() {
    this.sizes.disconnect();
    this.plot.destroy();
    charts.delete(this);
  }
}

addEventListener("themechange", () => charts.forEach((chart) => chart.draw()));
