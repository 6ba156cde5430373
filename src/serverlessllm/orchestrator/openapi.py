# SPDX-License-Identifier: Apache-2.0
"""`/openapi.json`: every operation and every status that it answers. The schemas are in `openapi_schemas.py`.

Pure: no server, no request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serverlessllm import __version__
from serverlessllm.orchestrator.openapi_schemas import MODEL_NAME, Schema, schemas

REASONS: Final = {
    400: "A field is malformed or not supported; `param` names it.",
    401: "No API key, or an unknown one.",
    403: "The key's role, the Host or the Origin does not allow this call.",
    404: "The model, request, key or path does not exist.",
    409: "The name is taken, or another writer was faster.",
    410: "The rest of the stream that `Last-Event-ID` asks for is not kept any more.",
    413: "The body is above its bound.",
    415: "State changes take application/json only.",
    429: "A queue is full; Retry-After says when to come again.",
    500: "The engine failed.",
    502: "The model could not be loaded, or its worker was lost before the first token.",
    503: "No agent was alive for the hold deadline, or the service is not ready.",
    504: "The model did not wake within the hold deadline.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `errors` beside those that its kind implies; `answer` names a schema or media type."""

    method: str
    path: str
    summary: str
    answer: str = ""
    status: int = 200
    body: str | None = None
    errors: tuple[int, ...] = ()
    needs_key: bool = True
    media_types: tuple[str, ...] = ("application/json",)
    parameters: tuple[tuple[str, str, Schema], ...] = ()

    @property
    def all_errors(self) -> list[int]:
        """Every status of 4xx and 5xx that may come back."""
        implied = {403} | ({401} if self.needs_key else set()) | ({400, 413, 415} if self.body else set())
        return sorted(implied | set(self.errors))


_IN_NAME: Final = ("name", "path", MODEL_NAME)
_IN_ID: Final = ("id", "path", {"type": "string", "minLength": 1})
_GENERATE_ERRORS: Final = (404, 429, 500, 502, 503, 504)
_GENERATE_TYPES: Final = ("application/json", "text/event-stream")

OPERATIONS: Final = (
    Operation("get", "/v1/models", "Models that may be called", "Models"),
    Operation("get", "/v1/models/{name}", "One model", "Model", errors=(404,), parameters=(_IN_NAME,)),
    Operation(
        "post",
        "/v1/chat/completions",
        "Answer a chat; a sleeping model is woken",
        "Completion",
        body="ChatRequest",
        errors=(*_GENERATE_ERRORS, 410),
        media_types=_GENERATE_TYPES,
    ),
    Operation(
        "post",
        "/v1/completions",
        "Continue a prompt; a sleeping model is woken",
        "Completion",
        body="CompletionRequest",
        errors=(*_GENERATE_ERRORS, 410),
        media_types=_GENERATE_TYPES,
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "Vectors of texts; a sleeping model is woken",
        "EmbeddingList",
        body="EmbeddingRequest",
        errors=_GENERATE_ERRORS,
    ),
    Operation("get", "/admin/models", "Registered models and where they are", "ModelList"),
    Operation(
        "post",
        "/admin/models",
        "Register a model",
        "ModelView",
        201,
        body="AddModel",
        errors=(404, 409, 500, 502, 503),
    ),
    Operation("get", "/admin/models/{name}", "One model", "ModelView", errors=(404,), parameters=(_IN_NAME,)),
    Operation(
        "delete",
        "/admin/models/{name}",
        "Remove a model",
        "Deleted",
        errors=(404, 503),
        parameters=(_IN_NAME,),
    ),
    Operation(
        "post",
        "/admin/models/{name}/stop",
        "Unbind a model's replicas",
        "Stopped",
        body="StopModel",
        errors=(404, 503),
        parameters=(_IN_NAME,),
    ),
    Operation(
        "post",
        "/admin/models/{name}/pull",
        "Bring a remote model's bytes here; events tell how far it is",
        "ModelView",
        errors=(404, 415),
        media_types=("text/event-stream",),
        parameters=(_IN_NAME,),
    ),
    Operation("get", "/admin/agents", "Nodes", "AgentList"),
    Operation("get", "/admin/agents/{id}", "One node", "AgentView", errors=(404,), parameters=(_IN_ID,)),
    Operation("get", "/admin/disk", "What lies on the nodes' disks", "DiskView", errors=(503,)),
    Operation(
        "post",
        "/admin/disk/clean",
        "Remove what nobody needs from the nodes' disks",
        "CleanedView",
        body="CleanDisk",
        errors=(409, 503),
    ),
    Operation(
        "post",
        "/admin/agents/{id}/drain",
        "Let a node take nothing new, or again",
        "AgentView",
        body="DrainAgent",
        errors=(404, 503),
        parameters=(_IN_ID,),
    ),
    Operation(
        "post",
        "/admin/agents/{id}/evacuate",
        "Drain a node, and move the streams that run there to others",
        "Evacuated",
        body="Evacuate",
        errors=(404, 503),
        parameters=(_IN_ID,),
    ),
    Operation(
        "post",
        "/admin/requests/{id}/migrate",
        "Move a running stream to another node",
        "MoveView",
        body="MoveRequest",
        errors=(404, 409, 503),
        parameters=(_IN_ID,),
    ),
    Operation(
        "get",
        "/admin/requests",
        "Live and recent requests, the newest first",
        "RequestList",
        errors=(400,),
        parameters=(("limit", "query", {"type": "integer", "minimum": 1, "maximum": 10_000}),),
    ),
    Operation(
        "get",
        "/admin/requests/{id}",
        "One request's timeline and placement",
        "RequestDetail",
        errors=(404,),
        parameters=(_IN_ID,),
    ),
    Operation(
        "get",
        "/admin/decisions",
        "Recent placement decisions as JSON lines, the newest last",
        "PlacementDecision",
        errors=(400,),
        media_types=("application/x-ndjson",),
        parameters=(("limit", "query", {"type": "integer", "minimum": 1, "maximum": 10_000}),),
    ),
    Operation("get", "/admin/scheduler/weights", "How much each term of a placement counts", "ScoreWeights"),
    Operation(
        "put",
        "/admin/scheduler/weights",
        "Change how placement weighs its terms, everywhere",
        "ScoreWeights",
        body="ScoreWeights",
        errors=(409, 503),
    ),
    Operation("get", "/admin/keys", "API keys", "KeyList"),
    Operation(
        "post", "/admin/keys", "Make an API key", "KeyCreated", 201, body="CreateKey", errors=(409, 503)
    ),
    Operation(
        "delete",
        "/admin/keys/{id}",
        "Revoke an API key",
        "Deleted",
        errors=(404, 409, 503),
        parameters=(_IN_ID,),
    ),
    Operation("get", "/healthz", "The process answers", "Status", needs_key=False),
    Operation("get", "/readyz", "An agent is alive", "Status", needs_key=False, errors=(503,)),
    Operation("get", "/metrics", "Prometheus metrics", media_types=("text/plain",)),
)
"""Every operation with JSON answers of bounded length; `/admin/events` and the console's files are left out."""


def document() -> Schema:
    """The OpenAPI 3.1 document."""
    paths: Schema = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ServerlessLLM", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> Schema:
    responses: Schema = {str(status): _error(status) for status in operation.all_errors}
    if operation.status:
        responses[str(operation.status)] = _success(operation)
    result: Schema = {"summary": operation.summary, "responses": responses}
    if operation.needs_key:
        result["security"] = [{"key": []}, {}]
    if operation.parameters:
        result["parameters"] = [
            {"name": name, "in": place, "required": place == "path", "schema": schema}
            for name, place, schema in operation.parameters
        ]
    if operation.body is not None:
        result["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{operation.body}"}}},
        }
    return result


def _success(operation: Operation) -> Schema:
    content: Schema = {}
    for media_type in operation.media_types:
        is_json = media_type == "application/json"
        schema = {"$ref": f"#/components/schemas/{operation.answer}"} if is_json else {"type": "string"}
        content[media_type] = {"schema": schema}
    return {"description": operation.summary, "content": content}


def _error(status: int) -> Schema:
    described: Schema = {
        "description": REASONS[status],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status == 429:
        described["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return described
