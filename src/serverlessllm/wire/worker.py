# SPDX-License-Identifier: Apache-2.0
"""Agent ⇄ engine worker: frames on a unix socket.

Frame = 4-byte little-endian length, then one msgpack map tagged by `type`. Both sides speak ids, never text.
Order: the worker sends `Hello`; the agent sends `Attach` (with the arena's descriptor as SCM_RIGHTS ancillary
data of the frame's first byte); the worker answers `Attached` or `Failed`; then any number of `Generate`, `Embed` and
`Cancel` one way, `Tokens`, `Blocks`, `Embedded` and `Failed` the other; `Spellings` once before the first `Generate`
with a grammar. A worker ends when the agent closes the connection.

Where the weights are still arriving (`Attach.shards`), `Arrived` tells how far they are, and a worker may ask for
some of the bytes early: `Wanted` one way, `Early` the other. `wire/standby.py` has what moves requests.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from serverlessllm.errors import WireError
from serverlessllm.types import FinishReason, Pooling
from serverlessllm.wire.standby import BlocksPut, BlocksTaken, Extend, PutBlocks, Standing, TakeBlocks

MAX_FRAME_BYTES: Final = 64 << 20
_LENGTH: Final = struct.Struct("<I")


class TensorSlice(msgspec.Struct, frozen=True, array_like=True):
    """Where one tensor lies in the attached region. `shape` is row-major, `(out_features, in_features)`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class TensorGroup(msgspec.Struct, frozen=True, array_like=True):
    """Members that lie back to back: their fused matrix is one view. `kind`: qkv, gate_up, …"""

    kind: str
    members: tuple[str, ...]
    offset: int
    nbytes: int


class ModelLayout(msgspec.Struct, frozen=True):
    """All that an engine needs to build its views: config and where the tensors lie.

    `architecture` is the checkpoint's `config.json`. `aliases` maps a tied tensor's name to its target.
    """

    architecture: dict[str, object]
    tensors: list[TensorSlice]
    groups: list[TensorGroup]
    aliases: dict[str, str]


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Worker → agent, once: who answers, and that it is primed."""

    wire_version: int
    pid: int
    engine: str
    dtype: str
    primed_ms: float
    streams: bool = False
    """Whether it takes weights that are still arriving."""
    stands_by: bool = False
    """Whether it prepares requests that run elsewhere (`Generate.is_standby`)."""
    copies_blocks: bool = False
    """Whether it gives and takes blocks of keys and values."""


class Attach(msgspec.Struct, frozen=True, tag="attach"):
    """Agent → worker, once: bind this revision.

    `extents` are (file offset, nbytes) in the arena file whose descriptor came along; mapped back to back
    they are the region in which `layout` counts its offsets. No extents: no weights (`simulated`).
    `kv_cache_bytes` bounds the blocks of keys and values; 0 = the engine's choice.
    `shards` are (offset, nbytes) in the region, in order of arrival, of which the first `num_ready` are whole: none
    of the others may be read yet. No shards: all is there.
    `packs_weights`: a copy of them in the order of the engine's kernels may be made later.
    """

    revision: str
    layout: ModelLayout
    extents: list[tuple[int, int]]
    max_num_seqs: int
    max_model_len_tokens: int
    options: dict[str, float] = {}
    kv_cache_bytes: int = 0
    shards: list[tuple[int, int]] = []
    num_ready: int = 0
    packs_weights: bool = False


class Attached(msgspec.Struct, frozen=True, tag="attached"):
    """Worker → agent: the model answers now. `copied_bytes` > 0: the dtype forced a copy.

    `block_tokens`: ids per block of keys and values, where the worker tells of them (`Blocks`); 0 = it does not.
    """

    map_ms: float
    bind_ms: float
    max_model_len_tokens: int
    copied_bytes: int = 0
    block_tokens: int = 0


class SamplingParams(msgspec.Struct, frozen=True):
    """Temperature 0 = greedy; top_k 0 = all; top_p 1 and min_p 0 = off; penalties 1, 0, 0 = off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    """Agent → worker: decode one choice. `generated_ids` were sampled before and are continued.

    Choices of one `request_id` with the same ids compute them once. Keys and values are shared between requests of
    one `cache_salt` only. `logprobs`: how many of the most likely ids come with each id; -1 = no log-probabilities.
    `adapter`: computed with it, if not empty; it was loaded before. `traceparent` (W3C): for an engine that traces.
    `grammar` (llguidance's language, within `wire/grammar.py`'s limits): ids are sampled among those that follow it.
    `is_standby`: it still runs elsewhere; its ids are computed, and none is sampled until the last `Extend`.
    """

    request_id: str
    prompt_ids: list[int]
    max_tokens: int
    sampling: SamplingParams
    stop_token_ids: list[int]
    choice: int = 0
    generated_ids: list[int] = []
    cache_salt: str = ""
    logprobs: int = -1
    grammar: str = ""
    adapter: str = ""
    traceparent: str = ""
    is_standby: bool = False


class LoadAdapter(msgspec.Struct, frozen=True, tag="load_adapter"):
    """Agent → worker: bind a LoRA adapter, `adapter` (its revision), beside the attached model.

    `extents` lie in the arena file whose descriptor came with `Attach`; the agent holds the pin as long as the worker
    lives. Answered by `AdapterLoaded`, or `Failed` with the adapter as `request_id`.
    """

    adapter: str
    layout: ModelLayout
    extents: list[tuple[int, int]]


class AdapterLoaded(msgspec.Struct, frozen=True, tag="adapter_loaded"):
    """Worker → agent: requests may name the adapter now."""

    adapter: str


class Spellings(msgspec.Struct, frozen=True, tag="spellings"):
    """Agent → worker, at most once: how ids are spelled, for grammars. `tokens[id]` may be no whole characters.

    `special_ids` are control tokens, which no text of a grammar can spell; `stop_token_ids` end an answer.
    """

    tokens: list[bytes]
    special_ids: list[int]
    stop_token_ids: list[int]


class Embed(msgspec.Struct, frozen=True, tag="embed"):
    """Agent → worker: one vector for each of `inputs`, pooled from the last layer's normed states.

    `pooling`: `last` takes the last id's state, `mean` the mean of all.
    """

    request_id: str
    inputs: list[list[int]]
    pooling: Pooling


class Embedded(msgspec.Struct, frozen=True, tag="embedded"):
    """Worker → agent: the vectors, each little-endian float32, in the order of the inputs."""

    request_id: str
    vectors: list[bytes]


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Agent → worker: forget this choice of a request, or (None) all of them; an unknown one is no error."""

    request_id: str
    choice: int | None = None


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural logarithms of probabilities: the sampled id's, and those of the most likely ids, falling."""

    logprob: float
    top_ids: list[int]
    top_logprobs: list[float]


class TokenEvent(msgspec.Struct, frozen=True, array_like=True):
    """One sampled id. A stop id is sent too, with `finish`. Timings are set on the first event only,
    `cached_tokens` (of the prompt: not computed again) there or on the last, `logprobs` only when asked for.
    `stall_ms`: what of the time between admission and the first id went by waiting for weights; `prefill_ms` is the
    rest of it."""

    request_id: str
    token_id: int
    choice: int = 0
    finish: FinishReason | None = None
    wait_ms: float = 0.0
    prefill_ms: float = 0.0
    cached_tokens: int = 0
    logprobs: TokenLogprobs | None = None
    stall_ms: float = 0.0


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """Worker → agent: all ids of one engine step."""

    events: list[TokenEvent]


class Blocks(msgspec.Struct, frozen=True, tag="blocks"):
    """Worker → agent: which blocks of keys and values a later request finds, and no longer finds.

    Named as in `engine/llama/block_chain.py`. Sent before the `Tokens` of the step in which that changed.
    """

    stored: list[bytes]
    removed: list[bytes]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Worker → agent: a request failed (`request_id`) or the attach did (None); `code`, `param` as in errors.py."""

    message: str
    code: str = "engine_error"
    request_id: str | None = None
    param: str | None = None


class Arrived(msgspec.Struct, frozen=True, tag="arrived"):
    """Agent → worker: the first `num_shards` of the attach's shards are whole."""

    num_shards: int


class Wanted(msgspec.Struct, frozen=True, tag="wanted"):
    """Worker → agent: these (offset, nbytes) of the region would help before their shard's turn."""

    ranges: list[tuple[int, int]]


class Early(msgspec.Struct, frozen=True, tag="early"):
    """Agent → worker: (offset in the region, bytes) that were wanted, as their source gave them: unverified.

    May be left out: the shard comes anyway.
    """

    parts: list[tuple[int, bytes]]


class Advance(msgspec.Struct, frozen=True, tag="advance"):
    """Rank 0 → the other ranks of its group: compute the next step beside me. Never between agent and worker."""


ToWorker = (
    Attach
    | LoadAdapter
    | Spellings
    | Generate
    | Embed
    | Cancel
    | Arrived
    | Early
    | Extend
    | TakeBlocks
    | PutBlocks
    | Advance
)
FromWorker = (
    Hello
    | Attached
    | AdapterLoaded
    | Tokens
    | Blocks
    | Embedded
    | Failed
    | Wanted
    | Standing
    | BlocksTaken
    | BlocksPut
)

_encoder: Final = msgspec.msgpack.Encoder()
_to_worker: Final[msgspec.msgpack.Decoder[ToWorker]] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: Final[msgspec.msgpack.Decoder[FromWorker]] = msgspec.msgpack.Decoder(FromWorker)


def encode_frame(message: ToWorker | FromWorker) -> bytes:
    """The message as one frame, length included."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameSplitter:
    """Cut a byte stream into frames; keeps the unfinished tail. Raises WireError on an absurd length."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes, return the bodies of all complete frames."""
        self._buffer += data
        bodies: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise WireError(f"frame of {length} bytes exceeds {MAX_FRAME_BYTES}", source="engine")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return bodies


def decode_to_worker(body: bytes) -> ToWorker:
    """Raises WireError for anything but a known message."""
    try:
        return _to_worker.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(f"malformed message to a worker: {error}", source="agent") from error


def decode_from_worker(body: bytes) -> FromWorker:
    """Raises WireError for anything but a known message."""
    try:
        return _from_worker.decode(body)
    except msgspec.MsgspecError as error:
        raise WireError(f"malformed message from a worker: {error}", source="engine") from error
