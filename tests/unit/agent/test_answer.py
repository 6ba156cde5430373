# SPDX-License-Identifier: Apache-2.0
"""Pieces of an answer: every id once, whole characters, stops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.agent.answer import Answer, Piece
from serverlessllm.text.stop_strings import StopStrings
from serverlessllm.text.tokenizer import TextModel
from serverlessllm.types import FinishReason
from serverlessllm.wire.worker import TokenEvent, TokenLogprobs
from support.memory_source import MemorySource
from support.tiny_tokenizer import IM_END_ID

TEXT = TextModel.load(MemorySource())


def pieces_of(ids: list[int], *, stops: tuple[str, ...] = (), finish: FinishReason = "length") -> list[Piece]:
    """Push ids until the answer is finished; the last one carries `finish`."""
    answer = Answer(TEXT.detokenizer(), StopStrings(stops))
    pieces = []
    for index, token_id in enumerate(ids):
        is_last = index == len(ids) - 1
        piece = answer.push(TokenEvent("r", token_id, finish=finish if is_last else None), index + 1)
        if piece is not None:
            pieces.append(piece)
        if answer.finish is not None:
            break
    return pieces


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def ids_of(pieces: list[Piece]) -> list[int]:
    return [token_id for piece in pieces for token_id in piece.token_ids]


def test_first_id_makes_a_piece_even_when_it_is_half_a_character() -> None:
    ids = TEXT.encode("好")
    assert len(ids) > 1
    pieces = pieces_of(ids)
    assert (pieces[0].text, pieces[0].token_ids) == ("", ids[:1])
    assert text_of(pieces) == "好"


def test_half_characters_are_never_shown() -> None:
    pieces = pieces_of(TEXT.encode("naïve 🙂🚀 你好"))
    assert all("\ufffd" not in piece.text for piece in pieces)
    assert text_of(pieces) == "naïve 🙂🚀 你好"


def test_stop_id_counts_and_is_not_text() -> None:
    ids = [*TEXT.encode("Hello"), IM_END_ID]
    pieces = pieces_of(ids, finish="stop")
    assert (text_of(pieces), ids_of(pieces)) == ("Hello", ids)
    assert (pieces[-1].finish, pieces[-1].seq) == ("stop", len(ids))


def test_stop_string_ends_the_answer_and_keeps_all_ids_sampled_until_then() -> None:
    ids = TEXT.encode("one two END three")
    pieces = pieces_of(ids, stops=(" END",))
    assert text_of(pieces) == "one two"
    assert pieces[-1].finish == "stop"
    assert ids_of(pieces) == ids[: pieces[-1].seq]


def test_prefix_of_a_stop_string_is_shown_at_the_end() -> None:
    pieces = pieces_of(TEXT.encode("ends with EN"), stops=("END",))
    assert text_of(pieces) == "ends with EN"
    assert pieces[-1].finish == "length"


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_finish_is_on_the_last_piece_only(finish: FinishReason) -> None:
    pieces = pieces_of([*TEXT.encode("a b c"), IM_END_ID], finish=finish)
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish == finish


@given(st.lists(st.integers(3, 700), min_size=1, max_size=40))
def test_pieces_carry_every_id_once_and_all_text(ids: list[int]) -> None:
    pieces = pieces_of(ids)
    detokenizer = TEXT.detokenizer()
    assert ids_of(pieces) == ids
    assert text_of(pieces) == "".join(map(detokenizer.push, ids)) + detokenizer.flush()
    assert [piece.seq for piece in pieces] == sorted({piece.seq for piece in pieces})


def test_logprobs_come_with_their_ids_but_for_the_stop_id() -> None:
    ids = TEXT.encode("naïve 🙂")
    answer = Answer(TEXT.detokenizer(), StopStrings(()), 2, TEXT.token_bytes)
    spelled: list[bytes] = []
    for seq, token_id in enumerate([*ids, IM_END_ID], 1):
        finish: FinishReason | None = "stop" if token_id == IM_END_ID else None
        event = TokenEvent("r", token_id, 2, finish, logprobs=TokenLogprobs(-1.0, [token_id], [-1.0]))
        piece = answer.push(event, seq)
        if piece is not None:
            assert piece.choice == 2
            spelled += [choice.token.spelling for choice in piece.logprobs or ()]
    assert b"".join(spelled).decode() == "naïve 🙂"
    assert len(spelled) == len(ids)


@given(st.text(max_size=60), st.integers(0, 200), st.sampled_from([(), ("ab",), ("a", "好b")]))
def test_replayed_answer_goes_on_as_if_it_had_not_been_cut(
    text: str, cut: int, stops: tuple[str, ...]
) -> None:
    ids = [*TEXT.encode(text + "x"), IM_END_ID]
    uncut = pieces_of(ids, stops=stops, finish="stop")
    before, after = uncut[: cut % len(uncut)], uncut[cut % len(uncut) :]
    answer = Answer(TEXT.detokenizer(), StopStrings(stops))
    assert text_of(answer.replay(ids_of(before))) == text_of(before)
    rest = []
    for index, token_id in enumerate(ids_of(after), start=len(ids_of(before)) + 1):
        finish: FinishReason | None = "stop" if index == len(ids) else None
        piece = answer.push(TokenEvent("r", token_id, finish=finish), index)
        rest += [] if piece is None else [piece]
    assert rest == after
