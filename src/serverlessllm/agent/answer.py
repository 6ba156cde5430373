# SPDX-License-Identifier: Apache-2.0
"""From sampled ids to the pieces of one answer: whole characters, ended at the first stop string.

Pure but for its own state. Knows no HTTP and no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serverlessllm.agent.logprobs import SpelledChoice, spell
from serverlessllm.text.detokenizer import Detokenizer
from serverlessllm.text.stop_strings import StopStrings
from serverlessllm.text.tool_calls import CallDelta, Parsed, ToolCallParser
from serverlessllm.types import AnswerFinish
from serverlessllm.wire.worker import TokenEvent


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk carries. `seq` = ids sampled so far, over all choices.

    `token_ids`: those of this choice since its previous piece. `text` may be empty: at the first id (headers leave
    with it) and at the end. `logprobs`: of `token_ids`, but for a stop id; None unless asked for. `calls`: what calls
    of functions gained.
    """

    text: str
    token_ids: list[int]
    seq: int
    finish: AnswerFinish | None
    choice: int = 0
    logprobs: list[SpelledChoice] | None = None
    calls: tuple[CallDelta, ...] = ()


@dataclass(frozen=True, slots=True)
class CallReader:
    """What finds calls in an answer. `markers` are control tokens that belong to a call's syntax, id → text.

    `is_single`: the answer ends with its first call.
    """

    parser: ToolCallParser
    markers: Mapping[int, str]
    is_single: bool = False


class Answer:
    """One choice. Ensures: every pushed id is in exactly one piece, and all text of the answer in some piece."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: StopStrings,
        choice: int = 0,
        token_bytes: Callable[[int], bytes] | None = None,
        calls: CallReader | None = None,
    ) -> None:
        """`token_bytes` spells the tokens of log-probabilities, where they are asked for."""
        self._detokenizer = detokenizer
        self._stops = stops
        self._choice = choice
        self._token_bytes = token_bytes
        self._calls = calls
        self._held_ids: list[int] = []
        self._held_logprobs: list[SpelledChoice] | None = None if token_bytes is None else []
        self.num_tokens = 0
        self.finish: AnswerFinish | None = None

    def push(self, event: TokenEvent, seq: int) -> Piece | None:
        """Add one id, the `seq`-th of all choices; None while its text is held back.

        `finish` is set once a stop id, string or limit, or the one call, ended it.
        """
        self.num_tokens += 1
        self._held_ids.append(event.token_id)
        self._note_logprobs(event)
        text, is_stopped = self._stops.push(self._new_text(event))
        if is_stopped:
            self.finish = "stop"
        elif event.finish is not None:
            self.finish = event.finish
            text += self._stops.flush()
        parsed = self._read_calls(text)
        if not parsed.text and not parsed.calls and self.finish is None and self.num_tokens > 1:
            return None
        token_ids, self._held_ids = self._held_ids, []
        logprobs = self._held_logprobs
        if logprobs is not None:
            self._held_logprobs = []
        return Piece(parsed.text, token_ids, seq, self.finish, self._choice, logprobs, tuple(parsed.calls))

    def replay(self, token_ids: Sequence[int]) -> list[Piece]:
        """Take ids that were delivered before, as if they were sampled now: the same pieces, without numbers and
        log-probabilities. Afterwards no id is held back."""
        pieces = []
        for token_id in token_ids:
            piece = self.push(TokenEvent("", token_id), 0)
            if piece is not None:
                pieces.append(piece)
            if self.finish is not None:
                break
        self._held_ids = []
        return pieces

    def _read_calls(self, text: str) -> Parsed:
        """Part calls from text; they decide how the answer finishes."""
        if self._calls is None:
            return Parsed(text)
        parser = self._calls.parser
        parsed = parser.push(text)
        if self._calls.is_single and parser.num_finished:
            self.finish = "stop"
        elif self.finish is not None:
            rest = parser.flush()
            parsed = Parsed(parsed.text + rest.text, parsed.calls + rest.calls)
        if self.finish == "stop" and parser.num_calls:
            self.finish = "tool_calls"
        return parsed

    def _note_logprobs(self, event: TokenEvent) -> None:
        if self._token_bytes is None or self._held_logprobs is None or event.logprobs is None:
            return
        if event.finish != "stop":
            self._held_logprobs.append(spell(event.token_id, event.logprobs, self._token_bytes))

    def _new_text(self, event: TokenEvent) -> str:
        """A stop id is no text; the last event also releases half characters."""
        marker = None if self._calls is None else self._calls.markers.get(event.token_id)
        if event.finish == "stop":
            text = ""
        elif marker is not None:
            text = self._detokenizer.flush() + marker
        else:
            text = self._detokenizer.push(event.token_id)
        return text if event.finish is None else text + self._detokenizer.flush()
