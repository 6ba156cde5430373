# SPDX-License-Identifier: Apache-2.0
"""Parsed tokenizers and templates, kept per revision.

Parsing a vocabulary of 49k takes ~85 ms and ~30 MB, so it happens in a thread, once, before a request needs it, and
revisions whose `tokenizer.json` is the same (fine-tunes, variants) share one parse.
Knows no arena and no engine; engines see ids only.

Only `Tokenizer.encode` is called, never a batch call: the library's own thread pool is therefore never started,
`TOKENIZERS_PARALLELISM` has no effect here, and nothing in this process forks (workers come from the zygote,
a process of its own).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from blake3 import blake3
from tokenizers import Encoding, Tokenizer

from serverlessllm.errors import CheckpointFormatError, InvalidRequestError, UnsupportedCheckpointError
from serverlessllm.text.chat_template import ChatTemplate
from serverlessllm.text.detokenizer import Detokenizer, Vocabulary
from serverlessllm.text.embedding_recipe import EmbeddingRecipe
from serverlessllm.text.source import TextSource, read_optional
from serverlessllm.text.special_tokens import stop_token_ids
from serverlessllm.text.token_bytes import TokenBytes
from serverlessllm.text.tool_syntax import ToolSyntax
from serverlessllm.wire.worker import Spellings

TOKENIZER_FILE: Final = "tokenizer.json"
INLINE_CHARS: Final = 4096
"""Longer prompts are encoded in a thread: at ~1 MB/s this many characters take the event loop 4 ms."""


class ParsedTokenizer:
    """One parsed `tokenizer.json`. Immutable; safe to use from several threads and revisions."""

    def __init__(self, data: bytes) -> None:
        """Truncation and padding, where the file asks for them, are turned off.

        Raises: CheckpointFormatError.
        """
        try:
            self.tokenizer = Tokenizer.from_buffer(data)
        except ValueError as error:
            raise CheckpointFormatError(f"{TOKENIZER_FILE}: {error}", param=TOKENIZER_FILE) from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.vocabulary = Vocabulary(self.tokenizer)
        self.token_bytes = TokenBytes(self.tokenizer)

    @cached_property
    def spellings(self) -> list[bytes]:
        """The bytes of every id, in order: ~70 ms per 50,000 ids, once."""
        size = self.tokenizer.get_vocab_size(with_added_tokens=True)
        return [self.token_bytes.of(token_id) for token_id in range(size)]


ParsedTokenizers = WeakValueDictionary[str, ParsedTokenizer]
"""Digest of `tokenizer.json` → its parse, as long as a `TextModel` uses it."""


class AlignedPrompt(NamedTuple):
    """A prompt's ids, its text as the template wrote it, and where in that text (characters) each id ends.

    A prompt that came as ids has no text.
    """

    ids: list[int]
    text: str = ""
    char_ends: Sequence[int] = ()


class TextModel:
    """Tokenizer, chat template and embedding recipe of one revision. Immutable; safe to use from several threads."""

    def __init__(
        self,
        parsed: ParsedTokenizer,
        template: ChatTemplate,
        stops: tuple[int, ...],
        recipe: EmbeddingRecipe,
    ) -> None:
        self._parsed = parsed
        self._tokenizer = parsed.tokenizer
        self._template = template
        self._stop_token_ids = stops
        self.recipe = recipe

    @classmethod
    def load(cls, source: TextSource, parsed: ParsedTokenizers | None = None) -> TextModel:
        """Parse the artifact's text files. Blocks for ~85 ms: call it in a thread.

        `parsed`: tokenizers that are here already, and where a new one is put.

        Raises: UnsupportedCheckpointError without a `tokenizer.json`; CheckpointFormatError naming a bad file.
        """
        data = read_optional(source, TOKENIZER_FILE)
        if data is None:
            raise UnsupportedCheckpointError(
                f"revision {source.revision} has no {TOKENIZER_FILE}; add one beside the weights and convert again",
                param=TOKENIZER_FILE,
            )
        digest = blake3(data).hexdigest()
        known = parsed.get(digest) if parsed is not None else None
        tokenizer = known or ParsedTokenizer(data)
        if parsed is not None:
            parsed[digest] = tokenizer
        stops = stop_token_ids(source, tokenizer.tokenizer)
        return cls(tokenizer, ChatTemplate.load(source), stops, EmbeddingRecipe.load(source))

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, ascending; may be empty."""
        return self._stop_token_ids

    @property
    def tool_syntax(self) -> ToolSyntax | None:
        """How this model writes calls of functions; None where it cannot be given any."""
        return self._template.tool_syntax

    def special_id(self, text: str) -> int | None:
        """The id of a control token, which leaves no trace in an answer's text; None for all other text."""
        token_id: int | None = self._tokenizer.token_to_id(text)
        return token_id if token_id in self._parsed.vocabulary.special_ids else None

    @property
    def vocab_size(self) -> int:
        """Number of ids that stand for a token; embeddings may have more rows."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    async def spellings(self) -> Spellings:
        """What an engine needs to know of the ids to hold answers to a grammar; made in a thread.

        Raises: InvalidRequestError naming `response_format` for a model that cannot end an answer by itself.
        """
        spellings = await asyncio.to_thread(lambda: self._parsed.spellings)
        stop_token_ids = [token_id for token_id in self._stop_token_ids if token_id < len(spellings)]
        if not stop_token_ids:
            raise InvalidRequestError(
                "response_format: this model declares no token that ends an answer (eos_token_id), which formats and "
                "enforced calls need",
                param="response_format",
            )
        return Spellings(spellings, sorted(self._parsed.vocabulary.special_ids), stop_token_ids)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, with the special tokens that the tokenizer itself adds (often a BOS).

        Raises: InvalidRequestError naming `prompt` when the text holds lone surrogates.
        """
        return self._encode(text, param="prompt", add_special_tokens=True)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Ids of a conversation; special tokens are those that the template writes.

        Raises: InvalidRequestError, UnsupportedFieldError naming `messages` (see `ChatTemplate.render`).
        """
        text = self._template.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        return self._encode(text, param="messages", add_special_tokens=False)

    def align(self, text: str) -> AlignedPrompt:
        """`encode`, with where each id ends."""
        return self._align(text, param="prompt", add_special_tokens=True)

    def align_chat(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
    ) -> AlignedPrompt:
        """`encode_chat`, with the text and where each id ends."""
        text = self._template.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        return self._align(text, param="messages", add_special_tokens=False)

    async def align_off_loop(self, text: str) -> AlignedPrompt:
        """`align`, in a thread where the text is long enough to hold up the event loop."""
        if len(text) <= INLINE_CHARS:
            return self.align(text)
        return await asyncio.to_thread(self.align, text)

    async def align_chat_off_loop(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
    ) -> AlignedPrompt:
        """`align_chat` in a thread: a template may take long whatever the size of its messages."""
        return await asyncio.to_thread(self.align_chat, messages, tools, add_generation_prompt)

    async def encode_off_loop(self, text: str) -> list[int]:
        """`encode`, in a thread where the text is long enough to hold up the event loop."""
        if len(text) <= INLINE_CHARS:
            return self.encode(text)
        return await asyncio.to_thread(self.encode, text)

    def detokenizer(self, prompt_ids: Sequence[int] = ()) -> Detokenizer:
        """A fresh detokenizer for one choice that continues `prompt_ids`."""
        return Detokenizer(self._parsed.vocabulary, prompt_ids)

    def token_bytes(self, token_id: int) -> bytes:
        """How the vocabulary spells one id; perhaps not whole characters."""
        return self._parsed.token_bytes.of(token_id)

    def _encode(self, text: str, *, param: str, add_special_tokens: bool) -> list[int]:
        return self._encoding(text, param=param, add_special_tokens=add_special_tokens).ids

    def _align(self, text: str, *, param: str, add_special_tokens: bool) -> AlignedPrompt:
        encoding = self._encoding(text, param=param, add_special_tokens=add_special_tokens)
        return AlignedPrompt(encoding.ids, text, [end for _, end in encoding.offsets])

    def _encoding(self, text: str, *, param: str, add_special_tokens: bool) -> Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        except TypeError as error:
            raise InvalidRequestError(
                f"{param}: not valid Unicode (a lone surrogate)", param=param
            ) from error


class TextCache:
    """The most recently used `TextModel`s. For one event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._models: OrderedDict[str, TextModel] = OrderedDict()
        self._parsing: dict[str, asyncio.Task[TextModel]] = {}
        self._tokenizers: ParsedTokenizers = WeakValueDictionary()

    async def get(self, source: TextSource) -> TextModel:
        """The revision's model, parsed in a thread when it is not here.

        Concurrent calls for one revision share one parse; a caller that is cancelled does not stop it for the
        others. A failure is not kept: the next call tries again. Raises as `TextModel.load`.
        """
        revision = source.revision
        model = self._models.get(revision)
        if model is not None:
            self._models.move_to_end(revision)
            return model
        task = self._parsing.get(revision)
        if task is None:
            task = asyncio.create_task(
                asyncio.to_thread(TextModel.load, source, self._tokenizers), name=f"tokenizer-{revision}"
            )
            self._parsing[revision] = task
            task.add_done_callback(lambda done: self._parsed(revision, done))
        return await asyncio.shield(task)

    def _parsed(self, revision: str, task: asyncio.Task[TextModel]) -> None:
        del self._parsing[revision]
        if task.cancelled() or task.exception() is not None:
            return
        self._models[revision] = task.result()
        while len(self._models) > self._size:
            self._models.popitem(last=False)
