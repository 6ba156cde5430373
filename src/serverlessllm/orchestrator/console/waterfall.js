// SPDX-License-Identifier: Apache-2.0
// The road of one request as a picture: a row per phase, each bar where the last one ended.

import { bytes, milliseconds } from "./format.js";
import { h, s } from "./dom.js";

export const PHASES = ["queue", "place", "fetch", "read", "bind", "prefill", "first_token"];

const MEANINGS = {
  queue: "waiting for a place",
  place: "choosing a node",
  fetch: "remote to disk",
  read: "disk to memory",
  bind: "worker takes the weights",
  prefill: "computing the prompt",
  first_token: "text, framing, hops",
};
const ROW = 24;
const TOP = 22;
const LABEL = 92;
const VALUE = 64;
const MIN_BAR = 2;

/** "first_token" → "first token" */
function label(phase) {
  return phase.replace("_", " ");
}

/** A step of 1, 2 or 5 × 10ⁿ that cuts `total` into at most `most` pieces. */
function tickStep(total, most) {
  const rough = total / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

function axis(total, width, height) {
  const scale = (width - LABEL - VALUE) / total;
  const step = tickStep(total, width < 460 ? 3 : 6);
  const parts = [];
  for (let at = 0; at <= total * 1.0001; at += step) {
    const x = LABEL + at * scale;
    parts.push(s("line", { class: "grid", x1: x, x2: x, y1: TOP - 4, y2: height }));
    parts.push(s("text", { class: "tick", x, y: 11, "text-anchor": at ? "middle" : "start" }, at ? milliseconds(at) : "0"));
  }
  return parts;
}

function row(phase, index, start, duration, scale, width) {
  const y = TOP + index * ROW;
  const middle = y + ROW / 2;
  const isIdle = duration <= 0;
  const parts = [
    s("title", {}, `${label(phase)}: ${milliseconds(duration)} (${MEANINGS[phase]})`),
    s("text", { class: "label", x: 0, y: middle, "dominant-baseline": "central" }, label(phase)),
    s("text", { class: "value", x: width, y: middle, "text-anchor": "end", "dominant-baseline": "central" },
      isIdle ? "–" : milliseconds(duration)),
  ];
  if (!isIdle) {
    const length = Math.max(MIN_BAR, duration * scale);
    const x = Math.min(LABEL + start * scale, width - VALUE - length);
    parts.push(s("rect", { class: `p-${phase}`, x, y: y + 5, width: length, height: ROW - 10, rx: 3 }));
  }
  return s("g", { class: isIdle ? "phase idle" : "phase" }, ...parts);
}

function draw(road, width) {
  const durations = PHASES.map((phase) => Math.max(0, road.phases[phase] ?? 0));
  const total = Math.max(durations.reduce((sum, value) => sum + value, 0), 0.001);
  const height = TOP + PHASES.length * ROW;
  const scale = (width - LABEL - VALUE) / total;
  let start = 0;
  const rows = PHASES.map((phase, index) => {
    const drawn = row(phase, index, start, durations[index], scale, width);
    start += durations[index];
    return drawn;
  });
  const spoken = PHASES.filter((_, index) => durations[index] > 0)
    .map((phase) => `${label(phase)} ${milliseconds(road.phases[phase])}`);
  return s("svg", {
    class: "waterfall", role: "img", viewBox: `0 0 ${width} ${height}`, width, height,
    "aria-label": `${headline(road)}. ${spoken.join(", ")}.`,
  }, ...axis(total, width, height), ...rows);
}

/** "Cold start from nvme, first token after 283 ms" */
export function headline(road) {
  const kind = `${road.start[0].toUpperCase()}${road.start.slice(1)} start`;
  const from = road.tier && road.start !== "hot" ? ` from ${road.tier}` : "";
  return `${kind}${from}, ${road.ttft_ms ? `first token after ${milliseconds(road.ttft_ms)}` : "no token yet"}`;
}

function speed(road) {
  if (!road.nbytes || !road.gbps) return null;
  const possible = road.possible_gbps || 0;
  const text = `${bytes(road.nbytes)} at ${road.gbps.toFixed(2)} GB/s`;
  const share = Math.min(1, possible ? road.gbps / possible : 1);
  const bar = s("svg", { class: "meter", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "track", width: 100, height: 6, rx: 3 }),
    s("rect", { class: "p-read", width: 100 * share, height: 6, rx: 3 }));
  const limit = road.limiting ? `, limited by ${road.limiting}` : "";
  const against = possible ? `${Math.round(100 * share)} % of ${possible.toFixed(2)} GB/s possible${limit}` : "";
  return h("div", { class: "speed" }, h("span", {}, text), possible ? bar : null, h("span", { class: "muted" }, against));
}

/**
 * The whole picture of a road {start, tier, phases, ttft_ms, nbytes, gbps, possible_gbps, limiting}.
 * Drawn for the width it gets, and again when that changes.
 */
export function waterfall(road) {
  const canvas = h("div", { class: "canvas" });
  let drawnWidth = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width < 160 || width === drawnWidth) return;
    drawnWidth = width;
    canvas.replaceChildren(draw(road, width));
  }).observe(canvas);
  return h("figure", { class: "road" }, h("figcaption", {}, headline(road)), canvas, speed(road));
}

/** The same in one thin line, for lists. */
export function miniature(road) {
  const durations = PHASES.map((phase) => Math.max(0, road.phases[phase] ?? 0));
  const total = durations.reduce((sum, value) => sum + value, 0);
  let start = 0;
  const bars = PHASES.map((phase, index) => {
    const bar = s("rect", { class: `p-${phase}`, x: start, width: durations[index], height: 8 });
    start += durations[index];
    return bar;
  });
  return s("svg", { class: "mini", viewBox: `0 0 ${total || 1} 8`, preserveAspectRatio: "none", "aria-hidden": "true" },
    ...(total ? bars : []));
}
