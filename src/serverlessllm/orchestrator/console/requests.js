// SPDX-License-Identifier: Apache-2.0
// Live and recent requests; each opens to the waterfall of its road.

import { byId, h, reconcile, redraw, setText } from "./dom.js";
import { ago, count, milliseconds } from "./format.js";
import { tierBadge } from "./models.js";
import { PHASES, miniature, waterfall } from "./waterfall.js";

const MAX_SHOWN = 40;

function outcome(request) {
  if (request.state === "failed") return h("span", { class: "state s-failed" }, `failed ${request.status || ""}`);
  if (request.state === "held") return h("span", { class: "state s-loading" }, "waking");
  if (request.state === "running") return h("span", { class: "state s-ready" }, "running");
  return request.state === "cancelled" ? "cancelled" : "";
}

function summary(request) {
  const tokens = request.completion_tokens ? count(request.completion_tokens, "token") : "";
  return [
    h("span", { class: "model" }, request.model),
    h("span", { class: `kind k-${request.start}` }, request.start),
    h("span", { class: "tier" }, request.start === "hot" || !request.tier ? "" : tierBadge(request.tier)),
    miniature(request),
    h("span", { class: "ttft num" }, request.ttft_ms ? milliseconds(request.ttft_ms) : "–"),
    h("span", { class: "tokens num muted" }, tokens),
    h("span", { class: "outcome muted" }, outcome(request)),
    h("time", { class: "when muted num" }),
  ];
}

function details(request) {
  const rows = [
    ["Request", request.request_id],
    ["Call", `${request.endpoint}${request.is_stream ? ", streamed" : ""}`],
    ["Tokens", `${request.prompt_tokens} in, ${request.completion_tokens} out`],
    ["Total", request.e2e_ms ? milliseconds(request.e2e_ms) : "–"],
    ["Agent", request.agent_id ? `${request.agent_id}, attempt ${request.attempt}` : "–"],
    ["Retries", request.num_retries ? String(request.num_retries) : ""],
    ["Revision", request.revision ?? ""],
  ].filter(([, value]) => value);
  return [
    request.error ? h("p", { class: "error-text" }, request.error) : null,
    waterfall(request),
    h("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
  ].filter(Boolean);
}

/** The signature of everything but the age, which ticks by itself. */
function signature(request) {
  return JSON.stringify(request);
}

function create() {
  const element = h("li", {}, h("details", {}, h("summary", {}), h("div", { class: "open" })));
  element.firstElementChild.addEventListener("toggle", () => fillDetails(element));
  return element;
}

function fillDetails(element) {
  const opened = element.firstElementChild;
  if (opened.open && element.request) {
    redraw(opened.lastElementChild, signature(element.request), () => details(element.request));
  }
}

function update(element, request, now) {
  const head = element.firstElementChild.firstElementChild;
  element.request = request;
  redraw(head, signature(request), () => summary(request));
  setText(head.querySelector(".when"), ago(now - request.arrived_s));
  fillDetails(element);
}

/** Draw the list, the newest first. */
export function drawRequests(requests, now) {
  byId("requests-empty").hidden = requests.length > 0;
  byId("legend").hidden = requests.length === 0;
  reconcile(byId("requests"), requests.slice(0, MAX_SHOWN), (request) => request.request_id, create,
    (element, request) => update(element, request, now));
}

/** The colours of the phases, once. */
export function drawLegend() {
  byId("legend").replaceChildren(...PHASES.map((phase) =>
    h("span", {}, h("i", { class: `swatch p-${phase}` }), phase.replace("_", " "))));
}
