# SPDX-License-Identifier: Apache-2.0
"""Several processes' metrics as those of one: what Prometheus reads of a front with several workers.

Counters and histograms add up. Of gauges those add up that count what each process has (`ADDED`); others are the same
for all, or a state, and the largest value is shown. Pure: text in, text out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

ADDED: Final = frozenset(
    {
        "sllm_streams",
        "sllm_held_requests",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    }
)
_Key = tuple[str, tuple[tuple[str, str], ...]]


class _Merged(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        return iter(self._families)


def merge_metrics(texts: list[bytes]) -> bytes:
    """Each of Prometheus' text format, with the same declarations."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[_Key, float]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text.decode()):
            families.setdefault(family.name, family)
            merged = values.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                merged[key] = _merge(family, sample, merged.get(key))
    registry = CollectorRegistry(auto_describe=False)
    for name, family in families.items():
        family.samples = [Sample(key[0], dict(key[1]), value) for key, value in values[name].items()]
    registry.register(_Merged(list(families.values())))
    return generate_latest(registry)


def _merge(family: Metric, sample: Sample, known: float | None) -> float:
    if known is None:
        return sample.value
    if family.name.endswith("_created"):
        return min(known, sample.value)
    if family.type != "gauge" or family.name in ADDED:
        return known + sample.value
    return max(known, sample.value)
