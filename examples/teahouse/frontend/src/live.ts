/** What moves while a visitor looks. Both connections come back by themselves, to whichever release is live then. */

export interface Counter {
  release: string;
  edition: string;
  guests: number;
  packs_today: number | null;
}

export interface Ordered {
  id: number;
  tea: string;
  quantity: number;
  at: string;
}

/** The server or a proxy restarts and asks us to come back (RFC 6455, IANA registry of close codes). */
const SERVICE_RESTART = 1012;
const GOING_AWAY = 1001;
const LONGEST_PAUSE_MS = 10_000;

/** Calls `show` with each state of the counter, and with null while it is not known. */
export function watchCounter(show: (counter: Counter | null) => void, failures = 0): void {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/api/live`);
  let failed = failures + 1;
  socket.addEventListener("message", (event) => {
    failed = 0;
    show(JSON.parse(String(event.data)) as Counter);
  });
  socket.addEventListener("close", (event) => {
    const asked = event.code === SERVICE_RESTART || event.code === GOING_AWAY;
    // What is shown stays while we move to another release.
    if (!asked) show(null);
    setTimeout(() => watchCounter(show, failed), asked ? Math.random() * 200 : pause(failed));
  });
}

/** Calls `show` with each new order. After a polite end the browser itself asks for what it missed. */
export function watchOrders(show: (order: Ordered) => void, failures = 0): void {
  const stream = new EventSource("/api/events");
  let failed = failures + 1;
  stream.addEventListener("hello", () => (failed = 0));
  stream.addEventListener("order", (event) => show(JSON.parse(String(event.data)) as Ordered));
  stream.addEventListener("error", () => {
    // Only an answer that is no stream makes the browser give up.
    if (stream.readyState !== EventSource.CLOSED) return;
    setTimeout(() => watchOrders(show, failed), pause(failed));
  });
}

/** Longer after each failure, and never the same for everybody. */
function pause(failures: number): number {
  return Math.min(500 * 2 ** failures, LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2);
}
