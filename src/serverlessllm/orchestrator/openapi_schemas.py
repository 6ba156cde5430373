# SPDX-License-Identifier: Apache-2.0
"""The schemas of `/openapi.json`, made from the wire structs: what they accept is what is documented.

Pure. Knows no operation.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from serverlessllm.types import MAX_MODEL_NAME_BYTES
from serverlessllm.wire import admin, disk, embeddings, field_bounds, messages, moves, openai, scheduler

Schema = dict[str, Any]
"""A JSON schema: a tree of JSON values, which has no narrower type."""

MODEL_NAME: Final[Schema] = {
    "type": "string",
    "maxLength": MAX_MODEL_NAME_BYTES,
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*(:[A-Za-z0-9][A-Za-z0-9._-]*)?$",
}
_ERROR: Final[Schema] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "source": {"type": "string"},
                "retryable": {"type": "boolean"},
            },
        }
    },
}
_MODEL: Final[Schema] = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
    },
}
_MODELS: Final[Schema] = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
    },
}
_COMPLETION: Final[Schema] = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices"],
    "properties": {
        "id": {"type": "string"},
        "object": {"enum": ["chat.completion", "text_completion"]},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
        "usage": {"$ref": "#/components/schemas/Usage"},
    },
}
_STATUS: Final[Schema] = {"type": "object", "properties": {"status": {"type": "string"}}}

STRUCTS: Final = (
    openai.ChatRequest,
    openai.CompletionRequest,
    openai.Usage,
    embeddings.EmbeddingRequest,
    embeddings.EmbeddingList,
    admin.AddModel,
    admin.ModelView,
    admin.ModelList,
    admin.StopModel,
    admin.Stopped,
    admin.Deleted,
    admin.AgentView,
    admin.AgentList,
    disk.DiskView,
    disk.CleanDisk,
    disk.CleanedView,
    admin.RequestList,
    admin.RequestDetail,
    admin.CreateKey,
    admin.DrainAgent,
    moves.MoveRequest,
    moves.MoveView,
    moves.Evacuate,
    moves.Evacuated,
    admin.KeyList,
    admin.KeyCreated,
    scheduler.ScoreWeights,
)
_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_IDS: Final[Schema] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "minItems": 1,
}
_PROMPT: Final[Schema] = {
    "anyOf": [_TEXT, _IDS, {"type": "array", "items": {"anyOf": [_TEXT, _IDS]}, "minItems": 1, "maxItems": 1}]
}
_INPUT: Final[Schema] = {
    "anyOf": [
        _TEXT,
        _IDS,
        *(
            {"type": "array", "items": each, "minItems": 1, "maxItems": embeddings.MAX_INPUTS}
            for each in (_TEXT, _IDS)
        ),
    ]
}


def schemas() -> Schema:
    """Every component by name; bounds that the structs cannot say are added."""
    _, found = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    components: Schema = dict(found)
    for name in ("ChatRequest", "CompletionRequest"):
        _refine_generation(components[name]["properties"])
    components["ChatRequest"]["properties"]["messages"] |= {"minItems": 1, "maxItems": messages.MAX_MESSAGES}
    vectors = components["EmbeddingRequest"]["properties"]
    vectors["model"] = MODEL_NAME
    vectors["input"] = _INPUT
    vectors["dimensions"] |= {"minimum": 1, "maximum": embeddings.MAX_DIMENSIONS}
    components["AddModel"]["properties"]["name"] = MODEL_NAME
    components["AddModel"]["properties"]["source"] |= {
        "pattern": "^(/|hf://|s3://|https?://)",
        "maxLength": admin.MAX_SOURCE_BYTES,
    }
    components["AddModel"]["properties"]["keep_alive_s"] |= {"minimum": 0}
    components["AddModel"]["properties"]["min_replicas"] |= {"minimum": 0, "maximum": admin.MAX_REPLICAS}
    components["AddModel"]["properties"]["max_replicas"] |= {"minimum": 1, "maximum": admin.MAX_REPLICAS}
    components["CompletionRequest"]["properties"]["prompt"] = _PROMPT
    components["CompletionRequest"]["properties"]["logprobs"] |= {
        "minimum": 0,
        "maximum": openai.MAX_COMPLETION_LOGPROBS,
    }
    components["CleanDisk"]["properties"]["to_bytes"] |= {"minimum": 0}
    for factor in components["ScoreWeights"]["properties"].values():
        factor |= {"minimum": 0}
    components["CreateKey"]["properties"]["name"] |= {
        "pattern": "^[ -~]+$",
        "maxLength": admin.MAX_KEY_NAME_BYTES,
    }
    components |= {
        "Error": _ERROR,
        "Model": _MODEL,
        "Models": _MODELS,
        "Completion": _COMPLETION,
        "Status": _STATUS,
    }
    return components


def _refine_generation(properties: Schema) -> None:
    """Add what `wire/openai.py` checks beyond types: bounds, and fields that may only say "off"."""
    properties["model"] = MODEL_NAME
    for name, (low, high) in field_bounds.BOUNDS.items():
        if name in properties:
            properties[name] |= {"minimum": low, "maximum": high}
    properties["top_p"] |= {"exclusiveMinimum": 0}
    stop: Schema = {"type": "string", "minLength": 1}
    stops: Schema = {"type": "array", "items": stop, "maxItems": openai.MAX_STOPS}
    properties["stop"] = {"anyOf": [{"type": "null"}, stop, stops], "default": None}
    for name, neutral in field_bounds.NEUTRAL.items():
        if name in properties:
            properties[name] = {"enum": [None, *neutral]}
