// Lines over time: silence is a hole in a line, never bridged.

/* global uPlot */

const SILENT_MS = 5000;

/** Rows of one a second, with an empty one wherever some are missing. */
export function withBreaks(rows) {
  const found = [];
  for (const row of rows) {
    const before = found.at(-1);
    if (before && row[0] - before[0] > SILENT_MS) found.push([before[0] + 1000, ...row.slice(1).map(() => null)]);
    found.push(row);
  }
  return found;
}

/** Lines with times of their own on one axis: [seconds, ...columns]. A null is a hole; what is only no point of a line stays undefined. */
export function joined(series) {
  if (!series.length) return [[]];
  const tables = series.map(({ times, columns }) => [times.map((ms) => ms / 1000), ...columns]);
  return uPlot.join(tables, tables.map((each) => each.map(() => 1)));
}
