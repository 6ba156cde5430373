# SPDX-License-Identifier: Apache-2.0
"""Which models are somewhere on each node, as one padded matrix: a row per node, a model index or -1 per place.

So that what lies on all nodes is looked at in one step. Adding and removing are O(1).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from serverlessllm.orchestrator.placement.arrays import Bools, Ints

EMPTY: Final = -1


class Places:
    """`models[row, place]` are model indexes, `marks[row, place]` a flag of each (e.g. in use)."""

    def __init__(self, num_rows: int = 8, num_places: int = 8) -> None:
        self.models: Ints = np.full((num_rows, num_places), EMPTY, dtype=np.int64)
        self.marks: Bools = np.zeros((num_rows, num_places), dtype=np.bool_)
        self._at: list[dict[int, int]] = [{} for _ in range(num_rows)]

    def put(self, row: int, model: int, *, mark: bool = False) -> bool:
        """Add the model, or change its mark; whether it was not there before."""
        if row >= len(self._at):
            self._grow(rows=row + 1)
        at = self._at[row]
        place = at.get(model)
        is_new = place is None
        if place is None:
            place = len(at)
            if place >= self.models.shape[1]:
                self._grow(places=place + 1)
            at[model] = place
            self.models[row, place] = model
        self.marks[row, place] = mark
        return is_new

    def remove(self, row: int, model: int) -> bool:
        """Whether it was there. The last one takes its place."""
        at = self._at[row] if row < len(self._at) else {}
        place = at.pop(model, None)
        if place is None:
            return False
        last = len(at)
        moved = int(self.models[row, last])
        if place != last:
            self.models[row, place], self.marks[row, place] = moved, self.marks[row, last]
            at[moved] = place
        self.models[row, last], self.marks[row, last] = EMPTY, False
        return True

    def of(self, row: int) -> list[int]:
        """The models of a row."""
        return list(self._at[row]) if row < len(self._at) else []

    def has(self, row: int, model: int) -> bool:
        """Whether the model is there."""
        return row < len(self._at) and model in self._at[row]

    def _grow(self, *, rows: int = 0, places: int = 0) -> None:
        old_rows, old_places = self.models.shape
        num_rows = old_rows if rows <= old_rows else max(rows, 2 * old_rows)
        num_places = old_places if places <= old_places else max(places, 2 * old_places)
        models = np.full((num_rows, num_places), EMPTY, dtype=np.int64)
        marks = np.zeros((num_rows, num_places), dtype=np.bool_)
        models[:old_rows, :old_places], marks[:old_rows, :old_places] = self.models, self.marks
        self.models, self.marks = models, marks
        self._at += [{} for _ in range(num_rows - old_rows)]
