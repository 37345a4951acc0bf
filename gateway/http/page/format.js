// Numbers, durations and sizes as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const dated = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

export const count = (value) => whole.format(value);

/** A measured value: as many digits as say something. */
export const measure = (value) => (typeof value === "number" ? short.format(value) : "–");

/** What a result says, as text: its values without those named in `but`. */
export function measured(result, but = []) {
  if (typeof result !== "object" || result === null) return measure(result);
  const said = (value) => (typeof value === "number" ? measure(value) : typeof value === "string" ? value : JSON.stringify(value));
  return Object.entries(result).filter(([name]) => !but.includes(name)).map(([name, value]) => `${words(name)} ${said(value)}`).join(", ");
}

export const plural = (number, one) => `${count(number)} ${one}${number === 1 ? "" : "s"}`;

export const rate = (value) => (value >= 10 ? whole.format(value) : value === 0 ? "0" : value.toFixed(1));

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${at && value < 10 ? value.toFixed(1) : whole.format(value)} ${units[at]}`;
}

export function duration(seconds) {
  if (seconds > 0 && seconds < 0.001) return `${whole.format(seconds * 1e6)} µs`;
  if (seconds < 0.01) return `${+(seconds * 1000).toPrecision(2)} ms`;
  if (seconds < 1) return `${whole.format(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? +seconds.toFixed(1) : Math.round(seconds)} s`;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  let rest = Math.round(seconds);
  const words = [];
  for (const [size, unit] of parts) {
    const n = Math.floor(rest / size);
    rest -= n * size;
    if (n && words.length < 2) words.push(`${n} ${unit}`);
    else if (words.length) break;
  }
  return words.join(" ");
}

export const signed = (seconds) => `${seconds < 0 ? "−" : "+"}${duration(Math.abs(seconds))}`;

export const time = (ms) => clock.format(ms);

export const moment = (ms) => (Date.now() - ms < 43_200_000 ? clock : dated).format(ms);

const date = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

export const day = (ms) => date.format(ms);

export const words = (name) => name.replaceAll("_", " ");

/** Parts per million, of a clock: one is 86 ms a day. */
export const ppm = (value) => `${Math.abs(value) < 0.005 ? "" : value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)} ppm`;

export const share = (value) => `${Math.round(value * 100)} %`;

export const title = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export const sentence = (text) => title(text) + (/[.!?]$/.test(text) ? "" : ".");
