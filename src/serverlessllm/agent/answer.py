# SPDX-License-Identifier: Apache-2.0
"""From sampled ids to the pieces of one answer: whole characters, ended at the first stop string.

Pure but for its own state. Knows no HTTP and no engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from serverlessllm.text.detokenizer import Detokenizer
from serverlessllm.text.stop_strings import StopStrings
from serverlessllm.types import FinishReason
from serverlessllm.wire.worker import TokenEvent


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk carries. `seq` = ids sampled so far; `token_ids` those since the previous piece.

    `text` may be empty: at the first id (headers leave with it) and at the end.
    """

    text: str
    token_ids: list[int]
    seq: int
    finish: FinishReason | None


class Answer:
    """One choice. Ensures: every pushed id is in exactly one piece, and all text of the answer in some piece."""

    def __init__(self, detokenizer: Detokenizer, stops: StopStrings) -> None:
        self._detokenizer = detokenizer
        self._stops = stops
        self._held_ids: list[int] = []
        self.num_tokens = 0
        self.finish: FinishReason | None = None

    def push(self, event: TokenEvent) -> Piece | None:
        """Add one id; None while its text is held back. `finish` is set once a stop id, string or limit ended it."""
        self.num_tokens += 1
        self._held_ids.append(event.token_id)
        text, is_stopped = self._stops.push(self._new_text(event))
        if is_stopped:
            self.finish = "stop"
        elif event.finish is not None:
            self.finish = event.finish
            text += self._stops.flush()
        if not text and self.finish is None and self.num_tokens > 1:
            return None
        token_ids, self._held_ids = self._held_ids, []
        return Piece(text, token_ids, self.num_tokens, self.finish)

    def _new_text(self, event: TokenEvent) -> str:
        """A stop id is no text; the last event also releases half characters."""
        text = "" if event.finish == "stop" else self._detokenizer.push(event.token_id)
        return text if event.finish is None else text + self._detokenizer.flush()
