# SPDX-License-Identifier: Apache-2.0
"""Answers that follow a grammar: which ids may come next. Pure functions of the ids; knows no model and no text.

The state of an answer is made from its generated ids alone, so that a sequence which is continued elsewhere has the
same masks. Bytes that the grammar leaves no choice in are cut into tokens longest first.

Source: llguidance (Moskal et al., 2024): an Earley parser over lexemes, and the vocabulary as a trie.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serverlessllm.errors import EngineError, InvalidRequestError
from serverlessllm.wire.grammar import PARSER_LIMITS
from serverlessllm.wire.worker import Spellings

_KEPT_GRAMMARS: Final = 16
"""Compiled grammars kept for the next choice or request: the same few come again and again."""


class AnswerGrammar:
    """How far one answer has come in its grammar."""

    def __init__(self, matcher: LLMatcher, stop_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._stop_ids = stop_ids

    def observe(self, token_id: int) -> None:
        """Take the id that was sampled; a stop id ends the answer and is none of it."""
        if token_id not in self._stop_ids:
            self._matcher.consume_token(token_id)

    def restrict(self, logits: npt.NDArray[np.float32]) -> None:
        """Set what may not come next to -inf in `logits` (vocab,); stop ids may come where the grammar can end.

        Raises: EngineError when the grammar needs more time or memory than it may.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n<non-verbose/>")[0]
            raise EngineError(f"the answer's format takes too much to follow: {reason}", source="engine")
        allowed = np.unpackbits(bits, bitorder="little")[: logits.size].view(np.bool_)
        logits[allowed.size :] = -np.inf
        logits[: allowed.size][~allowed] = -np.inf


class GrammarCompiler:
    """Compiles grammars for one spellings. Making it takes ~0.1 s per 50,000 ids."""

    def __init__(self, spellings: Spellings) -> None:
        """Raises: EngineError when no id of it ends an answer: a grammar could not end either."""
        known = len(spellings.tokens)
        self._stop_ids = [token_id for token_id in spellings.stop_token_ids if token_id < known]
        if not self._stop_ids:
            raise EngineError("the vocabulary has no id that ends an answer")
        wrapped = _Wrapped(spellings, self._stop_ids[0])
        self._tokenizer = LLTokenizer(TokenizerWrapper(wrapped), eos_token=self._stop_ids)
        wrapped.tokenizer = self._tokenizer
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()

    def begin(self, grammar: str, generated_ids: Sequence[int]) -> AnswerGrammar:
        """The state after `generated_ids`.

        Raises: InvalidRequestError when the grammar does not compile, or the ids do not follow it.
        """
        fresh = self._kept.get(grammar)
        if fresh is None:
            fresh = LLMatcher(self._tokenizer, grammar, log_level=0, limits=PARSER_LIMITS)
            if fresh.is_error():
                raise InvalidRequestError(f"the grammar of the answer: {fresh.get_error()}", param="grammar")
            self._kept[grammar] = fresh
        self._kept.move_to_end(grammar)
        while len(self._kept) > _KEPT_GRAMMARS:
            self._kept.popitem(last=False)
        matcher = fresh.deep_copy()
        if generated_ids and not matcher.consume_tokens(list(generated_ids)):
            raise InvalidRequestError("generated_ids: do not follow the grammar", param="generated_ids")
        return AnswerGrammar(matcher, frozenset(self._stop_ids))


class _Wrapped:
    """The vocabulary as llguidance asks for it."""

    bos_token_id = None

    def __init__(self, spellings: Spellings, eos_token_id: int) -> None:
        self.eos_token_id = eos_token_id
        self.tokens = spellings.tokens
        self.special_token_ids = spellings.special_ids
        self.tokenizer: LLTokenizer | None = None

    def __call__(self, text: bytes) -> list[int]:
        """Ids of `text`, the longest first; none while the tokenizer is being made of this."""
        return [] if self.tokenizer is None else self.tokenizer.greedy_tokenize(text.decode())
