# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from serverlessllm.engine.llama.batch import DecodeRow, Prompt, build_batch, padded_rows


def test_prompts_follow_decoded_rows_and_ask_for_their_last_row() -> None:
    batch = build_batch([DecodeRow(0, 7, 4)], [Prompt(1, [3, 5]), Prompt(3, [9])], torch.float32)
    assert batch.token_ids.tolist() == [7, 3, 5, 9]
    assert batch.positions.tolist() == [4, 0, 1, 0]
    assert batch.slots.tolist() == [0, 1, 1, 3]
    assert batch.last_rows is not None
    assert batch.last_rows.tolist() == [0, 2, 3]
    assert [(run.start, run.end) for run in batch.prompt_runs] == [(1, 3), (3, 4)]


def test_decoded_rows_split_where_slots_are_not_adjacent() -> None:
    rows = [DecodeRow(slot, 1, 9) for slot in (0, 1, 4)]
    batch = build_batch(rows, [], torch.float32)
    assert [(run.start, run.end, run.slot) for run in batch.decode_runs] == [(0, 2, 0), (2, 3, 4)]
    assert batch.last_rows is None


def test_window_is_exact_and_unmasked_where_lengths_are_equal() -> None:
    (run,) = build_batch([DecodeRow(0, 1, 9), DecodeRow(1, 1, 9)], [], torch.float32).decode_runs
    assert (run.window_tokens, run.mask) == (10, None)


def test_window_is_rounded_and_masked_where_lengths_differ() -> None:
    (run,) = build_batch([DecodeRow(0, 1, 2), DecodeRow(1, 1, 70)], [], torch.float32).decode_runs
    assert run.window_tokens == 128
    assert run.mask is not None
    assert (run.mask == 0).sum(dim=-1).flatten().tolist() == [3, 71]


def test_padding_is_bounded_and_absent_from_small_batches() -> None:
    assert [padded_rows(rows) for rows in (1, 37, 64, 65, 255, 257)] == [1, 37, 64, 72, 256, 288]
    assert all(padded_rows(rows) - rows < rows / 8 for rows in range(1, 2000))
