/** The service over HTTP: addresses, the API key, and failures in words. Knows no model and no page element. */

import { decode, encode } from "./lib/npy.js";

const NPY = "application/x-npy";
const JSON_TYPE = "application/json";
const KEPT = "lowerbound-key";

/**
 * What the service, or the way to it, said no with; `message` is for people, and `detail` the same without the place. `status`
 * is that of HTTP, and `wait` the seconds after which to ask again, where the service says so.
 */
export class ServiceError extends Error {
  constructor(message, { detail = message, status = null, wait = null } = {}) {
    super(message);
    Object.assign(this, { detail, status, wait });
  }
}

export class Service {
  #askForKey;
  #asked = null;

  /** `askForKey(wasRefused)` promises a key from the user. */
  constructor(askForKey) {
    this.#askForKey = askForKey;
  }

  /** Whether a key is in use. */
  get hasKey() {
    return sessionStorage.getItem(KEPT) !== null;
  }

  async json(path, query, body, signal) {
    const content = body && { body: JSON.stringify(body), headers: { "Content-Type": JSON_TYPE } };
    return (await this.#fetch(path, query, JSON_TYPE, content, signal)).json();
  }

  /** The same in binary: `data` of that shape in, if any; arrays out, see `decode`. */
  async npy(path, query, data, shape, signal) {
    const content = data && { body: encode(data, shape), headers: { "Content-Type": NPY } };
    return decode(await (await this.#fetch(path, query, NPY, content, signal)).arrayBuffer());
  }

  /** The same for a file as it is: its content says what it holds. */
  async file(path, file) {
    const content = { body: file, headers: { "Content-Type": "application/octet-stream" } };
    return decode(await (await this.#fetch(path, {}, NPY, content)).arrayBuffer());
  }

  async text(path) {
    return (await this.#fetch(path, {}, "*/*")).text();
  }

  async #fetch(path, query, accept, content, signal) {
    // Relative to the page, wherever a proxy has put it.
    const url = new URL(path, document.baseURI);
    for (const [name, value] of Object.entries(query ?? {})) if (value != null) url.searchParams.set(name, value);
    for (;;) {
      const key = sessionStorage.getItem(KEPT);
      const headers = { Accept: accept, ...content?.headers, ...(key && { Authorization: `Bearer ${key}` }) };
      let answer;
      try {
        answer = await fetch(url, { method: content ? "POST" : "GET", body: content?.body, headers, signal });
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new ServiceError("The service cannot be reached.");
      }
      if (answer.status !== 401) {
        if (!answer.ok) throw await failure(answer);
        return answer;
      }
      await this.#renewKey(key);
    }
  }

  /** One question for however many requests were refused with that key. */
  async #renewKey(refused) {
    if (refused !== sessionStorage.getItem(KEPT)) return;
    this.#asked ??= this.#askForKey(refused !== null);
    try {
      sessionStorage.setItem(KEPT, await this.#asked);
    } finally {
      this.#asked = null;
    }
  }
}

async function failure(answer) {
  const problem = await answer.json().catch(() => ({}));
  const detail = problem.detail ?? `The service answered ${answer.status} ${answer.statusText}.`;
  const place = problem.location?.replace(/^instances\[(\d+)\]\.?/, (_, i) => `row ${Number(i) + 1} `).trim();
  const text = place ? `${place}: ${detail}` : detail;
  const wait = Number(answer.headers.get("Retry-After")) || null;  // Proxies may give a date.
  const message = text[0].toUpperCase() + text.slice(1) + (wait ? ` Try again in ${wait} s.` : "");
  return new ServiceError(message, { detail, status: answer.status, wait });
}
