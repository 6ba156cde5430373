# SPDX-License-Identifier: Apache-2.0
"""The vllm engine: the Protocol of engine/base.py over a server of vLLM's own environment.

Weights: vLLM copies them from the mapped arena into parameters of its own; no checkpoint file is opened. A cold start
is a full start of the server. Requests are its business from `add` on: it batches, and `step` gives what has come.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from serverlessllm.engine.base import BindReport, EngineLimits, Weights
from serverlessllm.engine.vllm_server.client import ServerClient
from serverlessllm.engine.vllm_server.command import (
    MANIFEST_NAME,
    MODEL_DIRECTORY,
    server_arguments,
    server_environment,
)
from serverlessllm.engine.vllm_server.environment import VARIABLE, find_environment
from serverlessllm.engine.vllm_server.manifest import write_manifest
from serverlessllm.engine.vllm_server.server import ServerProcess
from serverlessllm.errors import ContextLengthError, EngineError, InvalidRequestError
from serverlessllm.wire.worker import Failed, Generate, TokenEvent

CALL_TIMEOUT_S: Final = 30.0


class _ModelCard(msgspec.Struct):
    max_model_len: int


class _Models(msgspec.Struct):
    data: list[_ModelCard]


class VllmEngine:
    """One server in `directory`, which only this worker uses."""

    name = "vllm"

    def __init__(self, dtype: str, num_threads: int, directory: Path) -> None:
        self.dtype = dtype
        self._num_threads = num_threads
        self._directory = directory
        self._server: ServerProcess | None = None
        self._client: ServerClient | None = None
        self._max_len_tokens = 0
        self._failures: list[Failed] = []

    def prime(self) -> None:
        """Nothing is warm before the architecture is known."""

    @property
    def server_pid(self) -> int | None:
        """The server's process, while there is one."""
        return None if self._server is None else self._server.pid

    @property
    def ready_fd(self) -> int | None:
        """Readable when `step` has something."""
        return None if self._client is None else self._client.ready_fd

    def attach_weights(self, weights: Weights, limits: EngineLimits, options: dict[str, float]) -> BindReport:
        """Start the server on these weights and wait until it answers.

        Raises: ConfigError without a usable environment, EngineError with the end of the server's log.
        """
        environment = find_environment(os.environ.get(VARIABLE, ""))
        arguments = server_arguments(environment, limits, self.dtype, options, os.getpid())
        self._write_model(weights)
        variables = server_environment(os.environ, limits, self._num_threads, options)
        self._server = ServerProcess(self._directory, arguments, variables)
        self._client = ServerClient(str(self._server.socket_path))
        self._server.wait_ready(self._client)
        self._client.watch(self._server.pid)
        models = msgspec.json.decode(self._client.get("/v1/models", CALL_TIMEOUT_S), type=_Models)
        self._max_len_tokens = models.data[0].max_model_len
        return BindReport(self._max_len_tokens, copied_bytes=sum(t.nbytes for t in weights.layout.tensors))

    def detach_weights(self) -> None:
        """End the server: it owns its copy of the weights."""
        self._attached()
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.stop()
        self._client = self._server = None
        self._failures.clear()

    def quiesce(self) -> None:
        """Let nothing run until `resume`; requests are kept."""
        self._attached().post("/pause?mode=keep", None, CALL_TIMEOUT_S)

    def resume(self) -> None:
        """Run again."""
        self._attached().post("/resume", None, CALL_TIMEOUT_S)

    def add(self, request: Generate) -> None:
        """Send a request. Raises InvalidRequestError, ContextLengthError; then nothing was sent."""
        client = self._attached()
        if not request.prompt_ids:
            raise InvalidRequestError("prompt: holds no tokens", param="prompt")
        if request.max_tokens <= len(request.generated_ids):
            raise InvalidRequestError(
                f"max_tokens: {request.max_tokens} leaves nothing to generate after "
                f"{len(request.generated_ids)} tokens",
                param="max_tokens",
            )
        num_tokens = len(request.prompt_ids) + request.max_tokens
        if num_tokens > self._max_len_tokens:
            raise ContextLengthError(
                f"prompt of {len(request.prompt_ids)} tokens plus max_tokens {request.max_tokens} exceed the "
                f"model's context of {self._max_len_tokens} tokens",
                param="max_tokens",
            )
        client.start(request)

    def cancel(self, request_id: str, choice: int | None = None) -> None:
        """Close its streams; vLLM aborts."""
        self._attached().cancel(request_id, choice)

    @property
    def has_work(self) -> bool:
        """Whether ids have come."""
        return self._client is not None and self._client.has_arrived

    def step(self) -> list[TokenEvent]:
        """What has come. Raises ServerGoneError: the worker then ends, and its requests with it."""
        events: list[TokenEvent] = []
        for item in self._attached().take():
            if isinstance(item, Failed):
                self._failures.append(item)
            else:
                events.append(item)
        return events

    def take_failures(self) -> list[Failed]:
        """See ServerEngine."""
        failed, self._failures = self._failures, []
        return failed

    def _attached(self) -> ServerClient:
        if self._client is None:
            raise EngineError("the vllm engine has no model attached; attach one first")
        return self._client

    def _write_model(self, weights: Weights) -> None:
        """All that vLLM finds of the model: its config, and where its weights lie."""
        model = self._directory / MODEL_DIRECTORY
        model.mkdir(exist_ok=True)
        (model / "config.json").write_bytes(msgspec.json.encode(weights.layout.architecture))
        write_manifest(self._directory / MANIFEST_NAME, weights.layout, weights.file)


def create(dtype: str, num_threads: int, device: str = "cpu", arena_path: str = "") -> VllmEngine:
    """The factory of kind `vllm`; a worker's working directory is its own. Its environment decides on the device."""
    del device, arena_path
    return VllmEngine(dtype, num_threads, Path.cwd())
