// SPDX-License-Identifier: Apache-2.0
// Calls of the orchestrator. The API key, if one is needed, stays in this tab's sessionStorage.

import { readEvents } from "./sse.js";

const KEY = "sllm-api-key";
const POLL_MS = 2000;
const RETRY_MS = [500, 1000, 2000, 4000];

/** An answer that is none of 2xx, with the server's own words. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function storeKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers(extra) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...extra, Authorization: `Bearer ${key}` } : extra;
}

async function checked(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(response.status, body?.error?.message ?? `HTTP ${response.status}`);
}

async function getJson(path, signal) {
  return (await checked(await fetch(path, { headers: headers({}), signal }))).json();
}

/** POST as JSON; the raw response, so that a stream can be read from it. */
export async function post(path, body, signal) {
  const init = { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body) };
  return checked(await fetch(path, { ...init, signal }));
}

/** A model's name as a path: its slashes stay. */
export function modelPath(name) {
  return `admin/models/${name.split("/").map(encodeURIComponent).join("/")}`;
}

async function follow(signal, onSnapshot) {
  const response = await checked(await fetch("admin/events", { headers: headers({}), signal }));
  for await (const event of readEvents(response)) {
    if (event.data !== undefined) onSnapshot(JSON.parse(event.data));
  }
}

async function poll(signal, onSnapshot) {
  for (;;) {
    const [models, agents, requests] = await Promise.all(
      ["admin/models", "admin/agents", "admin/requests"].map((path) => getJson(path, signal)),
    );
    onSnapshot({ now_s: Date.now() / 1000, ...models, ...agents, ...requests });
    await pause(POLL_MS, signal);
  }
}

function pause(duration, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, duration);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/**
 * Keep `onSnapshot` fed until `signal` aborts: by the event stream, by polling where a proxy swallows it.
 * `onState` hears "live", "retry" or "denied"; after "denied" this ends, and is started again with a key.
 */
export async function watch(signal, onSnapshot, onState) {
  let attempt = 0;
  const receive = (snapshot) => {
    attempt = 0;
    onState("live");
    onSnapshot(snapshot);
  };
  for (let road = follow; !signal.aborted; ) {
    try {
      await road(signal, receive);
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401 || error.status === 403) return onState("denied", error.message);
      if (road === follow && [404, 405, 501].includes(error.status)) {
        road = poll;
        continue;
      }
    }
    onState("retry");
    await pause(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)], signal).catch(() => {});
    attempt += 1;
  }
}
