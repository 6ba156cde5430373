# SPDX-License-Identifier: Apache-2.0
"""Whether weights in int8 (weight only, one scale per output channel) pay on this CPU. See `int8.md`.

usage: python -m benchmarks.engine.int8_weights ARTIFACT_DIR

Kernels: torch's `_weight_int8pack_mm` beside the bf16 product, over all matrices of the model, too many
for the caches, interleaved, best of seven. Error: the matrices rounded to int8 and back, computed in float32.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import linear

from benchmarks._harness.report import Report, machine
from serverlessllm.checkpoint.reader import Artifact
from serverlessllm.engine.base import Weights
from serverlessllm.engine.llama.batch import ForwardBatch, Prompt, build_batch
from serverlessllm.engine.llama.config import LlamaConfig
from serverlessllm.engine.llama.kv_cache import KvCache
from serverlessllm.engine.llama.matrices import Matrix, Stack
from serverlessllm.engine.llama.model import LlamaModel
from serverlessllm.engine.llama.region import RegionTensors
from serverlessllm.engine.llama.rope import RopeTable
from serverlessllm.engine.llama.weights import LayerWeights, LlamaWeights, read_weights

ROWS = (1, 4, 8, 16, 32, 256)
NUM_REPEATS = 7
NUM_THREADS = 2
PROMPT_TOKENS = 256


def quantised(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 values and one bf16 scale per row (output channel), symmetric."""
    scales = (matrix.float().abs().amax(dim=1) / 127).clamp_min(1e-12).to(torch.bfloat16)
    values = (matrix.float() / scales.float().unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
    return values, scales


def rounded(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix after int8, in its own dtype."""
    values, scales = quantised(matrix)
    return (values.float() * scales.float().unsqueeze(1)).to(matrix.dtype)


def matrices_of(weights: LlamaWeights) -> list[torch.Tensor]:
    """Every matrix of the blocks and the head, (out_features, in_features)."""
    found = [weights.head.whole]
    for layer in weights.layers:
        found += [layer.qkv.whole, layer.o.transposed.t(), layer.gate_up.whole, layer.down.transposed.t()]
    return found


def seconds(work: Callable[[], object]) -> float:
    """One run."""
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def kernel_figures(weights: LlamaWeights) -> dict[str, float]:
    """All products of one forward pass, in ms, by number of rows."""
    matrices = [matrix.contiguous() for matrix in matrices_of(weights)]
    packed = [quantised(matrix) for matrix in matrices]
    figures: dict[str, float] = {}
    for num_rows in ROWS:
        rows = {
            size: torch.randn(num_rows, size, dtype=torch.bfloat16) for size in {m.shape[1] for m in matrices}
        }

        def in_bf16(rows: dict[int, torch.Tensor] = rows) -> None:
            for matrix in matrices:
                linear(rows[matrix.shape[1]], matrix)

        def in_int8(rows: dict[int, torch.Tensor] = rows) -> None:
            for values, scales in packed:
                torch._weight_int8pack_mm(rows[values.shape[1]], values, scales)

        pairs = [(seconds(in_bf16), seconds(in_int8)) for _ in range(NUM_REPEATS + 1)][1:]
        figures[f"bf16_rows_{num_rows}_ms"] = min(pair[0] for pair in pairs) * 1e3
        figures[f"int8_rows_{num_rows}_ms"] = min(pair[1] for pair in pairs) * 1e3
    return figures


def rounded_layer(layer: LayerWeights) -> LayerWeights:
    """The block with its matrices rounded."""
    return replace(
        layer,
        qkv=Stack((rounded(layer.qkv.whole),), layer.qkv.biases),
        o=Matrix(rounded(layer.o.transposed.t()).t()),
        gate_up=Stack((rounded(layer.gate_up.whole),)),
        down=Matrix(rounded(layer.down.transposed.t()).t()),
    )


def error_figures(config: LlamaConfig, weights: LlamaWeights) -> dict[str, float]:
    """What rounding does to the logits of every position of a prompt of random ids, in float32."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(config.vocab_size, (PROMPT_TOKENS,), generator=generator).tolist()
    batch = replace(build_batch([], [Prompt(0, prompt)], torch.float32), last_rows=None)
    coarse = replace(
        weights, layers=tuple(map(rounded_layer, weights.layers)), head=Stack((rounded(weights.head.whole),))
    )
    exact, inexact = (_logits(config, each, batch) for each in (weights, coarse))
    difference = (exact - inexact).abs()
    return {
        "logit_error_mean": float(difference.mean()),
        "logit_error_max": float(difference.max()),
        "logit_std": float(exact.std(dim=1).mean()),
        "same_first_choice": float((exact.argmax(1) == inexact.argmax(1)).float().mean()),
    }


def _logits(config: LlamaConfig, weights: LlamaWeights, batch: ForwardBatch) -> torch.Tensor:
    cache = KvCache(config, 1, PROMPT_TOKENS, torch.float32)
    rope = RopeTable(config.rope, config.head_dim, PROMPT_TOKENS, torch.float32)
    return LlamaModel(config, weights, cache, rope).forward(batch)


@torch.inference_mode()
def main() -> None:
    """Measure both, print the report."""
    torch.set_num_threads(NUM_THREADS)
    artifact = Artifact.open(Path(sys.argv[1]))
    source = Weights(artifact.weights("model.bin"), artifact.layout())
    config = LlamaConfig.parse(artifact.config())
    figures = kernel_figures(read_weights(config, RegionTensors(source, torch.bfloat16)))
    figures |= error_figures(config, read_weights(config, RegionTensors(source, torch.float32)))
    conditions = machine(("torch",)) | {"threads": NUM_THREADS, "n": NUM_REPEATS, "layers": config.num_layers}
    Report("Do int8 weights pay on this CPU?", conditions, figures, {}).print()


if __name__ == "__main__":
    main()
