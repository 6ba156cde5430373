# SPDX-License-Identifier: Apache-2.0
"""How far the choices of a running answer are: their ids, and what of them went out. What a move takes along."""

from __future__ import annotations

from collections.abc import Sequence

from serverlessllm.agent.answer import Piece
from serverlessllm.types import AnswerFinish


class ChoiceProgress:
    """One choice. `token_ids` were sampled, `num_delivered` of them are in pieces, as `num_characters`."""

    __slots__ = ("finish", "num_characters", "num_delivered", "token_ids")

    def __init__(
        self,
        token_ids: Sequence[int] = (),
        num_characters: int = 0,
        finish: AnswerFinish | None = None,
    ) -> None:
        """`token_ids` were delivered before."""
        self.token_ids = list(token_ids)
        self.num_delivered = len(self.token_ids)
        self.num_characters = num_characters
        self.finish: AnswerFinish | None = finish

    def deliver(self, piece: Piece) -> None:
        """A piece goes out."""
        self.num_delivered += len(piece.token_ids)
        self.num_characters += num_characters(piece)
        self.finish = piece.finish


def num_characters(piece: Piece) -> int:
    """Of its text and of its calls' arguments."""
    return len(piece.text) + sum(len(delta.arguments) for delta in piece.calls)
