# SPDX-License-Identifier: Apache-2.0
"""One request's share of what is told of cached prompt chunks: its prompt when it starts, its answers as they end.

Joins the canonical text, the tokens and the blocks; each is worked out elsewhere (`chunk_spans.py`, `kv_chunks.py`,
`engine/llama/block_chain.py`). Knows no HTTP and no worker.
"""

from __future__ import annotations

from serverlessllm.agent.answer import Piece
from serverlessllm.agent.chunk_spans import Stretch, answer_ends, id_ends, prompt_ends
from serverlessllm.agent.kv_chunks import KvChunks
from serverlessllm.engine.llama.block_chain import BlockChain
from serverlessllm.text.tokenizer import AlignedPrompt
from serverlessllm.wire.openai import ChatRequest, CompletionRequest
from serverlessllm.wire.prompt_chunks import Part, answer_part, canonical_text, chunk_names, parts_of


class _Answer:
    """One choice so far: its text in stretches, and its ids."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.stretches: list[Stretch] = []

    def push(self, piece: Piece) -> None:
        before_bytes = self.stretches[-1].end_bytes if self.stretches else 0
        self.token_ids += piece.token_ids
        self.texts.append(piece.text)
        self.stretches.append(Stretch(before_bytes + len(piece.text.encode()), len(self.token_ids)))


class KvRequest:
    """Made when the prompt is about to be computed; `push` every piece of the answers.

    `salt` is the request's own; `block_tokens` the engine's.
    """

    def __init__(
        self,
        chunks: KvChunks,
        block_tokens: int,
        salt: str,
        request: ChatRequest | CompletionRequest,
        prompt: AlignedPrompt,
    ) -> None:
        self._chunks = chunks
        self._block_tokens = block_tokens
        self._salt = salt
        self._prompt_ids = prompt.ids
        self._is_chat = isinstance(request, ChatRequest)
        self._text = canonical_text(request)
        self._names = chunk_names(self._text, salt)
        parts = parts_of(request)
        self._ends = prompt_ends(parts, prompt.text, prompt.char_ends) if parts else id_ends(len(prompt.ids))
        self._is_mapped = bool(parts) and len(self._ends) == len(self._names)
        self._answers: dict[int, _Answer] = {}
        if self._ends:
            self._add(self._names, self._ends, self._prompt_ids)

    def push(self, piece: Piece) -> None:
        """A piece of an answer; with the last one, the next turn's prompt is known up to there."""
        if not self._is_mapped:
            return
        answer = self._answers.setdefault(piece.choice, _Answer())
        answer.push(piece)
        if piece.finish is not None:
            self._end(self._answers.pop(piece.choice))

    def _end(self, answer: _Answer) -> None:
        text = "".join(answer.texts)
        part = answer_part(text) if self._is_chat else Part("", text)
        names = chunk_names(self._text + part.encode(), self._salt)
        if len(names) == len(self._names):
            return
        head_bytes = len(part.head.encode())
        own_ends = answer_ends(len(self._text), len(self._prompt_ids), head_bytes, answer.stretches)
        self._add(names, self._ends + own_ends, self._prompt_ids + answer.token_ids)

    def _add(self, names: list[int], ends: list[int], token_ids: list[int]) -> None:
        chain = BlockChain(self._salt)
        chain.extend(token_ids)
        self._chunks.add(names, [end // self._block_tokens for end in ends], chain.digests)
