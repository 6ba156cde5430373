# SPDX-License-Identifier: Apache-2.0
"""Answers of a real model, cut and continued: penalties, grammars, calls and noise go on where they were.

The oracle: equal ids, or the first difference lies where the uncut answer's margin between its two likeliest ids is
< 1e-3 in float32 (greedy ones). The number of such near ties is printed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.ingest.convert import convert
from serverlessllm.orchestrator.stream_record import StreamRecord
from serverlessllm.wire import sse
from support.model_dirs import write_tiny_llama
from support.running_agent import AgentClient, Reply, running_agent
from support.tool_templates import HERMES_TEMPLATE

MARGIN = 1e-3
NUM_CUTS = 6
CITY = {"type": "string", "enum": ["Rome", "Bern"]}
SCHEMA = {
    "type": "object",
    "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
BODIES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "logprobs": True, "top_logprobs": 2},
    "sampled": {"temperature": 1.2, "seed": 11, "top_p": 0.95, "n": 2},
    "penalties": {"temperature": 0.8, "seed": 4, "frequency_penalty": 0.7, "repetition_penalty": 1.3},
    "schema": {"temperature": 1.0, "seed": 8, "response_format": FORMAT},
    "calls": {"seed": 21, "tools": [WEATHER], "tool_choice": "required"},
    "stops": {"temperature": 1.0, "seed": 2, "stop": ["zoo", "e q"]},
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    home = tmp_path_factory.mktemp("model")
    source = write_tiny_llama(home / "source")
    (source / "chat_template.jinja").write_text(HERMES_TEMPLATE)
    return Artifact.open(Path(convert(source, home / "artifacts").directory))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[AgentClient]:
    async with running_agent(tmp_path, engines=["torch"]) as client:
        yield client


def read(*parts: bytes) -> dict[int, dict[str, Any]]:
    """Of each choice what all of its chunks come to."""
    reply = Reply(200)
    for line in b"".join(parts).decode().split("\n"):
        reply.add_line(line)
    found: dict[int, dict[str, Any]] = {}
    for choice in (choice for event in reply.events for choice in event["choices"]):
        empty: dict[str, Any] = {
            "ids": [],
            "text": "",
            "calls": [],
            "arguments": "",
            "margins": [],
            "role": "",
        }
        kept = found.setdefault(choice["index"], empty)
        kept["ids"] += choice["token_ids"]
        kept["text"] += choice["delta"].get("content") or ""
        kept["role"] += choice["delta"].get("role", "")
        kept["finish"] = choice["finish_reason"]
        for call in choice["delta"].get("tool_calls", []):
            kept["calls"] += [(call["id"], call["function"]["name"])] if "id" in call else []
            kept["arguments"] += call["function"]["arguments"]
        for token in (choice["logprobs"] or {}).get("content", []):
            first, second = (top["logprob"] for top in token["top_logprobs"])
            kept["margins"].append(first - second)
    return found


def num_near_ties(got: dict[int, dict[str, Any]], uncut: dict[int, dict[str, Any]]) -> int:
    """0 for the same answer, 1 for one that parts from it at a near tie; anything else fails."""
    for index, wanted in uncut.items():
        ids = zip(got[index]["ids"], wanted["ids"], strict=False)
        parted = next((place for place, (one, other) in enumerate(ids) if one != other), None)
        if parted is not None:
            assert wanted["margins"][parted : parted + 1] and wanted["margins"][parted] < MARGIN
            return 1
        assert {**got[index], "margins": []} == {**wanted, "margins": []}
    return 0


@pytest.mark.parametrize("kind", BODIES)
async def test_real_answer_goes_on_as_if_uncut(node: AgentClient, artifact: Artifact, kind: str) -> None:
    await node.loaded(artifact, dtype="float32")
    body = {"stream": True, "max_tokens": 120} | BODIES[kind]
    whole = await node.raw(artifact, body)
    uncut, events = read(whole), whole.partition(b"\n")[2].split(sse.END)[:-2]
    if kind in ("schema", "calls"):
        first, _ = json.JSONDecoder().raw_decode(uncut[0]["arguments"] or uncut[0]["text"])
        assert 1 <= first["days"] <= 99
    near_ties = 0
    for hop, cut in enumerate(range(1, len(events), max(1, len(events) // NUM_CUTS)), start=1):
        relay, record = sse.StreamRelay(), StreamRecord(body.get("n", 1))
        passed = relay.feed(whole.partition(b"\n")[0] + b"\n" + sse.END.join([*events[:cut], b""]))
        record.keep(passed)
        record.seq, record.prompt_digest = relay.seq, relay.prompt_digest or ""
        rest = await node.resume_raw(artifact, record.head(), body, hop=hop)
        assert rest.endswith(sse.DONE), rest
        near_ties += num_near_ties(read(passed, rest), uncut)
    print(f"{kind}: {len(events)} events, {near_ties} near ties")  # noqa: T201  # the oracle's count
