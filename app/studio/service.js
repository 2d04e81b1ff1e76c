/** Requests to the service. Paths are relative to the page, so that it may lie anywhere behind a proxy. */

import { askForKey, key } from "./key.js";

/** The service answered, and said no. */
export class Refused extends Error {
  constructor(status, { code = `http_${status}`, message = `The service answered ${status}.`, param = null } = {}, retryAfter = 0) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter });
  }
}

/** Nobody answered, or something that the service needs is away: it may be back in a moment. */
export class Away extends Error {}

/** Tells "away" and "back". */
export const connection = new EventTarget();

/**
 * @param {string} path
 * @param {{method?: string, json?: object, form?: FormData, headers?: object, signal?: AbortSignal}} request
 * @returns {Promise<Response>} that is a success. Throws Refused, Away, and AbortError.
 */
export async function send(path, { method, json, form, headers, signal } = {}) {
  const used = key();
  const response = await reach(path, {
    method: method ?? (json || form ? "POST" : "GET"),
    body: json ? JSON.stringify(json) : form,
    headers: {
      ...(json && { "Content-Type": "application/json" }),
      ...(used && { Authorization: `Bearer ${used}` }),
      ...headers,
    },
    signal,
  });
  if (response.status === 401) {
    await askForKey(used);
    return send(path, { method, json, form, headers, signal });
  }
  if (response.ok) return response;
  throw await refusal(response);
}

/** The same, for an answer in JSON. */
export async function ask(path, request) {
  return (await send(path, request)).json();
}

/** Does it again for as long as the service is away, or asks for patience. */
export async function stubborn(act, signal) {
  for (;;) {
    try {
      return await act();
    } catch (error) {
      if (error instanceof Away) await pause(2, signal);
      else if (error.code === "rate_limited") await pause(error.retryAfter || 2, signal);
      else throw error;
    }
  }
}

/** Throws AbortError when the signal comes first. */
export async function pause(seconds, signal) {
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const leave = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", leave);
      resolve();
    }, seconds * 1000);
    signal?.addEventListener("abort", leave, { once: true });
  });
}

/** A link of the service's, as this page reaches it: PUBLIC_URL may be another of its names. */
export const here = (link) => link && link.slice(link.lastIndexOf("/results/") + 1);

async function reach(path, request) {
  try {
    const response = await fetch(path, request);
    tell(isAway(response));
    return response;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    tell(true);
    throw new Away(error.message);
  }
}

/** What stands before the service says 502 or 504; the service itself says when to come back. */
const isAway = ({ status, headers }) => status === 502 || status === 504 || (status === 503 && headers.has("Retry-After"));

async function refusal(response) {
  const said = await response.json().catch(() => ({})); // a proxy may answer with a page of its own
  if (isAway(response)) return new Away(said.error?.message);
  return new Refused(response.status, said.error, Number(response.headers.get("Retry-After")));
}

const tell = (away) => connection.dispatchEvent(new Event(away ? "away" : "back"));
