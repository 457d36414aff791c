// Questions to Prometheus, through the console's own server.

const TIMEOUT_MS = 12000;
const SCRAPE_SECONDS = 15; // the longest interval of ours: rates look over four of them at least

export class NoAnswer extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Get JSON; anything but a good answer is a NoAnswer with its reason. */
export async function getJson(path, form) {
  let response;
  try {
    response = await fetch(path, {
      method: form ? "POST" : "GET", body: form, signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch {
    throw new NoAnswer(0, "The console's server does not answer");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new NoAnswer(response.status, body.detail ?? body.error ?? `status ${response.status}`);
  return body;
}

/** Put values in the place of a dashboard's variables. */
export function fill(expression, namespace, step) {
  const rateSeconds = Math.max(step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS);
  return expression.replaceAll("$namespace", namespace).replaceAll("$__rate_interval", `${rateSeconds}s`);
}

async function ask(path, parameters) {
  return (await getJson(`/api/v1/${path}`, new URLSearchParams(parameters))).data.result;
}

/** Instant vector: [{labels, value}]. */
export async function instant(query, time) {
  const found = await ask("query", { query, time });
  return found.map(({ metric, value }) => ({ labels: metric, value: Number(value[1]) }));
}

/** Range vector on the grid from start to end: [{labels, values}], null where there is none. */
export async function range(query, start, end, step) {
  const found = await ask("query_range", { query, start, end, step });
  const length = Math.round((end - start) / step) + 1;
  return found.map(({ metric, values }) => {
    const placed = Array(length).fill(null);
    for (const [at, value] of values) {
      const number = Number(value);
      placed[Math.round((at - start) / step)] = Number.isFinite(number) ? number : null;
    }
    return { labels: metric, values: placed };
  });
}
