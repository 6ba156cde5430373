// SPDX-License-Identifier: Apache-2.0
// The console: watches the orchestrator and hands each snapshot to the sections.

import { storeKey, watch } from "./api.js";
import { ChatBox } from "./chat.js";
import { byId, h, redraw, setText } from "./dom.js";
import { bytes, count } from "./format.js";
import { ModelsTable, stateOf } from "./models.js";
import { drawNodes } from "./nodes.js";
import { drawLegend, drawRequests } from "./requests.js";

const NOTICE_MS = 8000;
const HEALTH = { live: "live", retry: "reconnecting", denied: "no access" };

let noticeTimer = 0;

function notify(text) {
  const notice = byId("notice");
  setText(notice, text);
  notice.hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => {
    notice.hidden = true;
  }, NOTICE_MS);
}

function drawTotals({ models, agents, requests }) {
  const alive = agents.filter((agent) => agent.is_alive && agent.status);
  const sum = (field) => alive.reduce((total, agent) => total + agent.status[field], 0);
  const busy = requests.filter((request) => request.state === "held" || request.state === "running").length;
  const rows = [
    ["Awake", `${models.filter((model) => stateOf(model) === "ready").length} of ${count(models.length, "model")}`],
    ["In memory", `${bytes(sum("arena_used_bytes"))} of ${bytes(sum("arena_budget_bytes"))}`],
    ["Requests now", String(busy)],
  ];
  redraw(byId("totals"), JSON.stringify(rows), () =>
    rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function drawHealth(state) {
  const health = byId("health");
  health.dataset.state = state;
  setText(health, HEALTH[state]);
}

function start() {
  const chat = new ChatBox();
  const table = new ModelsTable((name) => chat.open(name), notify);
  drawLegend();

  const onSnapshot = (snapshot) => {
    drawTotals(snapshot);
    table.draw(snapshot.models);
    chat.offer(snapshot.models);
    drawRequests(snapshot.requests, snapshot.now_s);
    drawNodes(snapshot.agents, snapshot.models);
  };
  const onState = (state, message) => {
    drawHealth(state);
    const form = byId("key-form");
    if (state === "denied" && form.hidden === false) notify(message);
    form.hidden = state !== "denied";
  };
  const connect = () => watch(new AbortController().signal, onSnapshot, onState);

  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    storeKey(byId("key-input").value.trim());
    connect();
  });
  connect();
}

start();
