# SPDX-License-Identifier: Apache-2.0
"""An answer that was begun elsewhere: what its reader has, brought back into fresh answers of this agent.

Detokenizer, stop strings, calls and roles are functions of the ids, so the ids are pushed through them again. What
the reader has of the text must be a beginning of what comes out; the little that may come out beyond it goes to him
first. Pure but for the answers; knows no engine and no HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence

from serverlessllm.agent.answer import Answer, Piece
from serverlessllm.errors import CannotResumeError
from serverlessllm.wire.resume import ResumeHead


class Continuation:
    """Of one request. `ended` choices are whole, `begun` ones have ids; `generated` are the ids of each choice.

    `told` is what its reader has, as far as it could be written again: all of a single choice that goes on.
    """

    def __init__(self, head: ResumeHead, num_choices: int) -> None:
        """Raises CannotResumeError when the head tells of other choices than the request asks for."""
        if len(head.choices) != num_choices:
            raise CannotResumeError(
                f"the cut stream has {len(head.choices)} choices, the request asks for {num_choices}",
                source="agent",
            )
        self.head = head
        self.generated = [choice.token_ids for choice in head.choices]
        self.ended = {index for index, choice in enumerate(head.choices) if choice.finish is not None}
        self.begun = {index for index, choice in enumerate(head.choices) if choice.token_ids}
        self.told: list[Piece] = []

    def check_prompt(self, digest: str) -> None:
        """Raises CannotResumeError when the prompt is not the one that was answered."""
        expected = self.head.prompt_digest
        if expected and expected != digest:
            raise CannotResumeError(
                "the prompt has other ids here than where the answer began: another tokenizer or chat template; "
                "continue it on an agent of the same revision",
                source="agent",
            )

    def replay(self, answers: Sequence[Answer]) -> dict[int, list[Piece]]:
        """Bring `answers` to where the reader is; returns the pieces of each choice that goes on.

        Raises CannotResumeError when the reader has text that does not come out here.
        """
        return {
            index: answers[index].replay(self.generated[index]) for index in sorted(self.begun - self.ended)
        }

    def missing(self, index: int, pieces: Sequence[Piece]) -> Piece | None:
        """What the replayed `pieces` of a choice have beyond its reader's; None where he has all.

        Raises CannotResumeError when he has more.
        """
        choice = self.head.choices[index]
        num_calls = sum(len(delta.arguments) for piece in pieces for delta in piece.calls)
        text = "".join(piece.text for piece in pieces)
        num_delivered = choice.num_characters - num_calls
        finish = pieces[-1].finish if pieces else None
        if not 0 <= num_delivered <= len(text):
            raise CannotResumeError(
                f"choice {index}: its reader has {choice.num_characters} characters, of which "
                f"{len(text) + num_calls} come out here",
                source="agent",
            )
        if num_delivered == len(text) and finish is None:
            return None
        return Piece(text[num_delivered:], [], self.head.seq, finish, index)
