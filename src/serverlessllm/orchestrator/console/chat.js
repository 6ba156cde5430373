// SPDX-License-Identifier: Apache-2.0
// The chat box: streams an answer, tells how the model wakes, and shows the road under the answer.

import { post } from "./api.js";
import { byId, h, setText } from "./dom.js";
import { count } from "./format.js";
import { readEvents } from "./sse.js";
import { PHASES, headline, waterfall } from "./waterfall.js";

/** `: timeline {…}` or a `Server-Timing` header → what `waterfall` draws; null when it is neither. */
export function roadOf(comment, header) {
  if (comment?.startsWith("timeline ")) {
    const fields = JSON.parse(comment.slice("timeline ".length));
    return { ...fields, phases: fields, ttft_ms: fields.ttft };
  }
  const durations = {};
  let start = "hot";
  for (const part of (header ?? "").split(",")) {
    const [name, ...parameters] = part.trim().split(";");
    for (const parameter of parameters) {
      if (parameter.startsWith("dur=")) durations[name] = Number(parameter.slice(4));
      if (name === "start" && parameter.startsWith("desc=")) start = parameter.slice(5).replaceAll('"', "");
    }
  }
  return PHASES.some((phase) => phase in durations) ? { start, tier: null, phases: durations, ttft_ms: durations.ttft } : null;
}

/** One streamed answer in the log: its text, its status line, its road. */
class Answer {
  constructor(model, log) {
    this.text = "";
    this.numTokens = 0;
    this.road = null;
    this.finish = null;
    this.started = performance.now();
    this.body = h("p", { class: "text" });
    this.status = h("p", { class: "status" }, "sending");
    this.element = h("article", { class: "turn assistant", "aria-busy": "true" }, h("h3", {}, model), this.body, this.status);
    log.append(this.element);
  }

  progress(text) {
    if (!this.text) setText(this.status, text);
  }

  chunk(payload) {
    if (payload.error) throw new Error(payload.error.message ?? "the stream failed");
    for (const choice of payload.choices ?? []) {
      this.numTokens += choice.token_ids?.length ?? 0;
      this.finish = choice.finish_reason ?? this.finish;
      const piece = choice.delta?.content;
      if (!piece) continue;
      if (!this.text) this.first = performance.now();
      this.text += piece;
      this.body.append(piece);
      setText(this.status, "");
    }
  }

  end(note) {
    const seconds = (performance.now() - (this.first ?? this.started)) / 1000;
    const speed = this.numTokens > 1 && seconds > 0 ? `${((this.numTokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    const length = this.finish === "length" ? "cut at max tokens" : "";
    const tokens = this.numTokens ? count(this.numTokens, "token") : "";
    setText(this.status, [note, tokens, speed, length].filter(Boolean).join(" · "));
    if (note) this.status.classList.add("error-text");
    this.element.removeAttribute("aria-busy");
    if (!this.road) return;
    const isOpen = this.road.start !== "hot";
    this.element.append(h("details", { open: isOpen }, h("summary", {}, headline(this.road)), waterfall(this.road)));
  }
}

/** The section. One conversation at a time; changing the model keeps it. */
export class ChatBox {
  constructor() {
    this.messages = [];
    this.log = byId("chat-log");
    this.select = byId("chat-model");
    this.input = byId("chat-text");
    this.abort = null;
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("chat-form").requestSubmit();
    });
    byId("chat-stop").addEventListener("click", () => this.abort?.abort());
    byId("chat-clear").addEventListener("click", () => this.clear());
  }

  /** Offer the models that may be called; the choice stays. */
  offer(models) {
    const names = models.filter((model) => model.state === "ready").map((model) => model.name);
    if ([...this.select.options].map((option) => option.value).join("\n") === names.join("\n")) return;
    const chosen = this.select.value;
    this.select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    if (names.includes(chosen)) this.select.value = chosen;
    byId("chat-send").disabled = names.length === 0;
  }

  /** Choose a model and go to the box. */
  open(name) {
    this.select.value = name;
    this.input.focus();
    this.input.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  clear() {
    this.abort?.abort();
    this.messages = [];
    this.log.replaceChildren();
  }

  async send() {
    const text = this.input.value.trim();
    const model = this.select.value;
    if (!text || !model || this.abort) return;
    this.input.value = "";
    this.messages.push({ role: "user", content: text });
    this.log.append(h("article", { class: "turn user" }, h("h3", {}, "You"), h("p", { class: "text" }, text)));
    const answer = new Answer(model, this.log);
    this.follow();
    this.busy(new AbortController());
    let note = "";
    try {
      await this.stream(model, answer);
    } catch (error) {
      note = error.name === "AbortError" ? "stopped" : error.message;
    }
    answer.end(note);
    if (answer.text) this.messages.push({ role: "assistant", content: answer.text });
    else this.messages.pop();
    this.busy(null);
    this.follow();
  }

  async stream(model, answer) {
    const response = await post("v1/chat/completions", this.body(model), this.abort.signal);
    answer.road = roadOf(null, response.headers.get("Server-Timing"));
    let isDone = false;
    for await (const { comment, data } of readEvents(response)) {
      if (data === "[DONE]") isDone = true;
      else if (data !== undefined) answer.chunk(JSON.parse(data));
      else if (comment.startsWith("timeline ")) answer.road = roadOf(comment);
      else answer.progress(comment);
      this.follow();
    }
    if (!isDone) throw new Error("the stream was cut");
  }

  body(model) {
    const body = { model, messages: this.messages, stream: true };
    const temperature = byId("chat-temperature").value;
    const maxTokens = byId("chat-max-tokens").value;
    if (temperature !== "") body.temperature = Number(temperature);
    if (maxTokens !== "") body.max_tokens = Number(maxTokens);
    return body;
  }

  busy(controller) {
    this.abort = controller;
    byId("chat-stop").hidden = controller === null;
    byId("chat-send").hidden = controller !== null;
  }

  /** Keep the end in sight, unless the reader scrolled up. */
  follow() {
    const gap = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight;
    if (gap < 160 || !this.abort) this.log.scrollTop = this.log.scrollHeight;
  }
}
