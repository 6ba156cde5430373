// SPDX-License-Identifier: Apache-2.0
// The table of models: where each rests, what it does, and how to wake it or let it sleep.

import { modelPath, post } from "./api.js";
import { byId, h, reconcile, redraw, s } from "./dom.js";
import { bytes, count, seconds } from "./format.js";

const ORDER = ["ready", "binding", "loading", "draining"];

/** One word for the model: its registration's state, and once that is done its replicas'. */
export function stateOf(model) {
  if (model.state !== "ready") return model.state;
  const states = model.replicas.map((replica) => replica.status.state);
  const replica = ORDER.find((state) => states.includes(state));
  return replica ?? (model.loads.length ? "loading" : "asleep");
}

function progressOf(model) {
  const progress = model.progress ?? model.loads[0];
  return progress?.total_bytes ? progress.done_bytes / progress.total_bytes : null;
}

function activity(model) {
  const sum = (field) => model.replicas.reduce((total, replica) => total + replica.status[field], 0);
  const parts = [];
  if (model.replicas.length > 1) parts.push(count(model.replicas.length, "replica"));
  if (sum("num_running")) parts.push(`${sum("num_running")} running`);
  if (sum("num_queued")) parts.push(`${sum("num_queued")} queued`);
  if (model.num_held) parts.push(`${model.num_held} waiting`);
  return parts.join(" · ");
}

/** Seconds until the last replica is unbound; null while one works or none is there. */
function sleepsIn(model) {
  const idle = model.replicas.filter(({ status }) => status.state === "ready");
  if (!idle.length || idle.some(({ status }) => status.num_running + status.num_queued > 0)) return null;
  return Math.max(0, model.keep_alive_s - Math.min(...idle.map(({ status }) => status.idle_s)));
}

function bar(share) {
  return s("svg", { class: "meter", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "track", width: 100, height: 6, rx: 3 }),
    s("rect", { class: "p-read", width: 100 * share, height: 6, rx: 3 }));
}

function stateCell(model) {
  const state = stateOf(model);
  const share = progressOf(model);
  const parts = [
    h("span", { class: `state s-${state}` }, share === null ? state : `${state} ${Math.floor(share * 100)} %`),
    h("span", { class: "muted" }, activity(model)),
  ];
  if (share !== null) parts.push(bar(share));
  if (model.error) parts.push(h("span", { class: "error-text" }, model.error));
  return parts;
}

async function stop(name, button, onError) {
  button.disabled = true;
  try {
    await post(`${modelPath(name)}/stop`, {});
  } catch (error) {
    onError(`Could not stop ${name}: ${error.message}`);
  } finally {
    button.disabled = false;
  }
}

/** The section; `onChat(name)` opens a conversation, `onError(text)` tells the user. */
export class ModelsTable {
  constructor(onChat, onError) {
    this.body = byId("models-body");
    this.onChat = onChat;
    this.onError = onError;
  }

  draw(models) {
    byId("models").hidden = models.length === 0;
    byId("models-empty").hidden = models.length > 0;
    reconcile(this.body, models, (model) => model.name, (model) => this.create(model.name), (row, model) => this.update(row, model));
  }

  create(name) {
    const chat = h("button", { type: "button", onclick: () => this.onChat(name), "aria-label": `Chat with ${name}` }, "Chat");
    const sleep = h("button", { type: "button", class: "quiet", "aria-label": `Stop ${name}` }, "Stop");
    sleep.addEventListener("click", () => stop(name, sleep, this.onError));
    // The roles keep it a table for screen readers where a phone's layout makes its rows grids.
    return h("tr", { role: "row" },
      h("th", { scope: "row", role: "rowheader" }),
      h("td", { role: "cell", class: "tier-cell" }),
      h("td", { role: "cell", class: "state-cell" }),
      h("td", { role: "cell", class: "sleeps-cell num muted" }),
      h("td", { role: "cell", class: "actions" }, chat, sleep));
  }

  update(row, model) {
    const [name, tier, state, sleeps, actions] = row.children;
    const kind = model.nbytes ? `${model.engine} · ${bytes(model.nbytes)}` : model.engine;
    const left = sleepsIn(model);
    redraw(name, kind, () => [
      h("span", { class: "name", title: model.source }, model.name),
      h("span", { class: "sub muted" }, kind),
    ]);
    redraw(tier, String(model.tier), () => [tierBadge(model.tier)]);
    redraw(state, JSON.stringify([stateOf(model), progressOf(model), activity(model), model.error]), () => stateCell(model));
    redraw(sleeps, String(left && Math.round(left)), () => [left === null ? "–" : seconds(left)]);
    const [chat, sleep] = actions.children;
    chat.disabled = model.state !== "ready";
    sleep.hidden = model.replicas.length === 0;
  }
}

/** Where bytes rest, in one word with its colour. */
export function tierBadge(tier) {
  return tier ? h("span", { class: `badge t-${tier}` }, tier) : h("span", { class: "muted" }, "–");
}
