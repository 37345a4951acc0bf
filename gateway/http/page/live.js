// The live numbers: a frame a second with the parts that have changed, and the last 15 minutes of them.

const KEPT_ROWS = 900;
const AGAIN_MS = 2000;

/** JSON (or text) of the gateway. One who is not signed in any more is sent to do so. */
export async function ask(path, form = "json") {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw new Error((await answer.text()) || `${path}: ${answer.status}`);
  return form === "json" ? answer.json() : answer.text();
}

export class Live {
  constructor({ onState, onLost }) {
    Object.assign(this, { onState, onLost, state: null, rows: [], source: null }); // [time_ms, in_per_s, out_per_s, waiting]
    // A hidden page costs the gateway nothing.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
  }

  async open() {
    if (this.source || this.opening || document.hidden) return;
    this.opening = true;
    try {
      this.rows = await ask("/api/history");
      this.listen();
    } catch {
      this.lose();
    }
    this.opening = false;
  }

  listen() {
    this.source = new EventSource("/api/page");
    this.source.addEventListener("page", (event) => this.take(JSON.parse(event.data)));
    this.source.addEventListener("error", () => this.lose());
  }

  take(parts) {
    this.state = { ...this.state, ...parts };
    const { time_ms: at, rates, buffer } = this.state;
    this.rows.push([at, rates.in_now, rates.out_now, buffer.forecast.waiting]);
    if (this.rows.length > KEPT_ROWS) this.rows.shift();
    this.onState(this.state);
  }

  lose() {
    this.close();
    this.onLost(this.state);
    setTimeout(() => this.open(), AGAIN_MS);
  }

  close() {
    this.source?.close();
    this.source = null;
  }
}

/** Does `task` now and every `everyMs` while the page can be seen, one at a time, until it is closed. */
export class Poll {
  constructor(everyMs, task) {
    Object.assign(this, { everyMs, task, closed: false });
    this.seen = () => { if (!document.hidden) this.now(); };
    document.addEventListener("visibilitychange", this.seen);
    this.now();
  }

  /** What is under way is not waited for: the task must look whether its answer is still wanted. */
  async now() {
    clearTimeout(this.timer);
    if (this.closed) return;
    try {
      if (!document.hidden) await this.task();
    } finally {
      clearTimeout(this.timer);
      if (!this.closed) this.timer = setTimeout(() => this.now(), this.everyMs);
    }
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    document.removeEventListener("visibilitychange", this.seen);
  }
}
