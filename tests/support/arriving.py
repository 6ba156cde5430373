# SPDX-License-Identifier: Apache-2.0
"""Weights that arrive shard by shard, in memory: what is not there yet reads as garbage."""

from __future__ import annotations

from collections.abc import Sequence

from serverlessllm.checkpoint.arrange import TensorSpec, arrange
from serverlessllm.engine.base import EngineLimits, Weights
from serverlessllm.engine.llama.engine import LlamaEngine, create
from serverlessllm.wire.worker import ModelLayout, TensorGroup, TensorSlice, TokenEvent

GARBAGE = 0xFF
"""A NaN in every float format: what is computed with it shows."""
ARRIVAL = ("block", "embed", "final")


class Arriving:
    """A float32 engine whose region fills from `source`, one shard after the other."""

    def __init__(self, source: Weights, *, order: Sequence[int] | None = None, max_num_seqs: int = 4) -> None:
        """`source` as `in_shards` makes it. `order` permutes its shards; by default blocks come first."""
        self._source = source
        self._region = bytearray([GARBAGE]) * len(source.region)
        numbers = range(len(source.shards)) if order is None else order
        self.shards = [source.shards[number] for number in numbers]
        self.num_arrived = 0
        weights = Weights(memoryview(self._region), source.layout, self.shards, 0)
        self.engine: LlamaEngine = create("float32", 2)
        self.engine.attach_weights(weights, EngineLimits(max_num_seqs, 0), {})

    @property
    def is_whole(self) -> bool:
        return self.num_arrived == len(self.shards)

    def is_waiting(self) -> bool:
        """Whether nothing can be computed with what is there."""
        return not self.engine.has_work

    def arrive(self) -> None:
        """The next shard."""
        start, nbytes = self.shards[self.num_arrived]
        self._region[start : start + nbytes] = self._source.region[start : start + nbytes]
        self.num_arrived += 1
        self.engine.shards_arrived(self.num_arrived)

    def grant(self, *, is_right: bool = True) -> int:
        """Give what the engine wants; returns the bytes. Wrong ones have the bits of their first byte flipped."""
        wanted = self.engine.take_wanted()
        for offset, nbytes in wanted:
            data = bytearray(self._source.region[offset : offset + nbytes])
            if not is_right:
                data[0] ^= 0xFF
            self.engine.take_early(offset, bytes(data))
        return sum(nbytes for _, nbytes in wanted)

    def run(self) -> list[TokenEvent]:
        """Step as long as there is something to do."""
        events: list[TokenEvent] = []
        while self.engine.has_work:
            events += self.engine.step()
        return events

    def finish(self) -> list[TokenEvent]:
        """Let everything arrive, and run to the end."""
        events = self.run()
        while not self.is_whole:
            self.arrive()
            events += self.run()
        return events


def in_shards(weights: Weights) -> Weights:
    """The same tensors as an artifact lays them out; `shards` in order of arrival, all of them whole."""
    kept = {tensor.name: tensor for tensor in weights.layout.tensors}
    arranged = arrange(TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in kept.values())
    starts = {shard.id: shard.offset for shard in arranged.shards}
    region = bytearray(max(shard.offset + shard.nbytes for shard in arranged.shards))
    slices = []
    for entry in arranged.tensors:
        start, old = starts[entry.shard] + entry.offset, kept[entry.name]
        region[start : start + entry.nbytes] = weights.region[old.offset : old.offset + old.nbytes]
        slices.append(TensorSlice(entry.name, entry.dtype, entry.shape, start, entry.nbytes))
    groups = [
        TensorGroup(group.kind, group.members, starts[group.shard] + group.offset, group.nbytes)
        for group in arranged.groups
    ]
    layout = ModelLayout(weights.layout.architecture, slices, groups, weights.layout.aliases)
    shards = sorted(arranged.shards, key=lambda shard: ARRIVAL.index(shard.kind))
    places = [(shard.offset, shard.nbytes) for shard in shards]
    return Weights(memoryview(bytes(region)), layout, places, len(places))
