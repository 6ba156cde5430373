# SPDX-License-Identifier: Apache-2.0
"""The load format `sllm`: a model's parameters from a manifest's region. Opens no checkpoint file.

`--model-loader-extra-config '{"manifest": "path"}'` names the manifest. While it does not exist the engine waits for
a model of this architecture: its parameters are dummies, and `reload_weights` fills them once the manifest is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vllm.config import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

from serverlessllm_vllm.manifest import Manifest, ManifestError
from serverlessllm_vllm.region import tensors

if TYPE_CHECKING:
    import torch
    from vllm.config import ModelConfig


class FillableModel(Protocol):
    """What vLLM's models can."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> object:
        """Copy each into the parameter that it belongs to."""


class SllmModelLoader(BaseModelLoader):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """What vLLM asks of a loader; knows one key of the extra config."""

    def __init__(self, load_config: LoadConfig) -> None:
        """Raises ManifestError when the extra config does not name a manifest."""
        super().__init__(load_config)
        extra = dict(load_config.model_loader_extra_config or {})
        path = extra.pop("manifest", None)
        if not isinstance(path, str) or extra:
            raise ManifestError('load format sllm: the extra config is {"manifest": PATH} and nothing else')
        self._path = Path(path)

    def download_model(self, model_config: ModelConfig) -> None:
        """Nothing to download: the bytes are in memory."""

    def load_weights(self, model: FillableModel, model_config: ModelConfig) -> None:
        """Fill the parameters, or make them dummies while there is no manifest."""
        if self._path.exists():
            model.load_weights(self.get_all_weights(model_config, model))
        else:
            DummyModelLoader(LoadConfig(load_format="dummy")).load_weights(model, model_config)

    def get_all_weights(
        self, model_config: ModelConfig, model: FillableModel
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors, views of the region; what `reload_weights` asks for. A tied name is vLLM's to tie."""
        del model
        is_tied = bool(getattr(model_config.hf_config, "tie_word_embeddings", False))
        return tensors(Manifest.read(self._path), with_aliases=not is_tied)
