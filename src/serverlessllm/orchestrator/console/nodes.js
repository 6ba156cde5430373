// SPDX-License-Identifier: Apache-2.0
// One card per agent: how full its memory is, how fast its sources were, what waits and what loads.

import { byId, h, reconcile, redraw, s } from "./dom.js";
import { bytes, rate, seconds } from "./format.js";

function arena(status, names) {
  const budget = status.arena_budget_bytes || 1;
  let start = 0;
  const regions = status.regions.map((region) => {
    const width = Math.min(100 - start, (100 * region.nbytes) / budget);
    const name = names.get(region.revision) ?? region.revision.slice(0, 12);
    const state = region.is_pinned ? "in use" : region.is_complete ? "resting" : "loading";
    const rect = s("rect", {
      class: region.is_pinned ? "region pinned" : region.is_complete ? "region" : "region partial",
      x: start, width: Math.max(0.4, width - 0.4), height: 12,
    }, s("title", {}, `${name}: ${bytes(region.nbytes)}, ${state}`));
    start += width;
    return rect;
  });
  return s("svg", {
    class: "arena", viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img",
    "aria-label": `${bytes(status.arena_used_bytes)} of ${bytes(status.arena_budget_bytes)} used`,
  }, s("rect", { class: "track", width: 100, height: 12 }), ...regions);
}

function bandwidth(status) {
  const seen = status.bandwidths.filter((band) => band.num_samples > 0 && !band.source);
  return seen.map((band) => {
    const deviation = Math.sqrt(band.variance);
    const spread = band.num_samples > 1 ? ` ± ${rate(deviation)}` : "";
    const possible = band.possible_bytes_per_s ? ` of ${rate(band.possible_bytes_per_s)} possible` : "";
    return `${band.tier} ${rate(band.mean_bytes_per_s)}${spread}${possible}`;
  }).join(", ") || "nothing loaded yet";
}

function facts(view, status) {
  const slots = Object.entries(status.slots).filter(([, number]) => number > 0)
    .map(([name, number]) => `${number} ${name}`).join(", ");
  const engines = status.engines.map((engine) => status.dtypes[engine] ? `${engine} (${status.dtypes[engine]})` : engine);
  const rows = [
    ["Bandwidth seen", bandwidth(status)],
    ["Slots", slots || "none"],
    ["Replicas", String(status.replicas.length)],
    ["Engines", engines.join(", ")],
    ["Memory", status.arena_location],
    ["Address", view.address.replace(/^https?:\/\//, "")],
  ];
  return h("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function loads(status) {
  return status.loads.map((load) => {
    const share = load.total_bytes ? load.done_bytes / load.total_bytes : 0;
    return h("p", { class: "load" },
      `${load.phase} ${load.model}: ${Math.floor(100 * share)} %, ${seconds(load.eta_s)} left`);
  });
}

function card(view, names) {
  const status = view.status;
  const health = view.is_alive ? "alive" : `silent for ${seconds(view.silent_s)}`;
  const head = h("div", { class: "card-head" },
    h("h3", {}, status?.agent_id ?? view.address),
    h("span", { class: view.is_alive ? "state s-ready" : "state s-failed" }, health));
  if (!status) return [head, h("p", { class: "muted" }, "No news from it yet.")];
  return [
    head,
    h("div", { class: "budget" },
      h("span", {}, `${bytes(status.arena_used_bytes)} of ${bytes(status.arena_budget_bytes)} memory for weights`),
      h("span", { class: "muted num" }, `${Math.round((100 * status.arena_used_bytes) / (status.arena_budget_bytes || 1))} %`)),
    arena(status, names),
    ...loads(status),
    facts(view, status),
  ];
}

/** Draw all agents; models lend their names to the regions. */
export function drawNodes(agents, models) {
  const names = new Map(models.map((model) => [model.revision, model.name]));
  byId("nodes-empty").hidden = agents.length > 0;
  reconcile(byId("nodes"), agents, (view) => view.address, () => h("article", { class: "card" }), (element, view) => {
    const shown = view.is_alive ? { ...view, silent_s: 0 } : view;
    redraw(element, JSON.stringify([shown, [...names.values()]]), () => card(view, names));
  });
}
