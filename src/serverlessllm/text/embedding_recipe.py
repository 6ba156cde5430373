# SPDX-License-Identifier: Apache-2.0
"""How a model makes embeddings, as sentence-transformers files in its artifact declare it. Knows no engine.

`modules.json` lists the stages: a transformer, a pooling, and perhaps a normalisation. What cannot be followed to the
letter (other stages, other poolings) is a reason to refuse, never to make other vectors.
Source: the files that sentence-transformers writes (`modules.json`, `<n>_Pooling/config.json`,
`config_sentence_transformers.json`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from serverlessllm.text.source import TextSource, read_json, read_optional
from serverlessllm.types import Pooling

MODULES_FILE: Final = "modules.json"
POOLING_FILE: Final = "pooling_config.json"
"""`<n>_Pooling/config.json`, under the plain name that an artifact gives it."""
PROMPTS_FILE: Final = "config_sentence_transformers.json"
_POOLINGS: Final[dict[str, Pooling]] = {"mean_tokens": "mean", "mean": "mean", "lasttoken": "last"}
_FLAG: Final = "pooling_mode_"


@dataclass(frozen=True, slots=True)
class EmbeddingRecipe:
    """`problem` says why there are no embeddings; empty where there are. `prompt` goes before every text."""

    problem: str = ""
    pooling: Pooling = "mean"
    normalizes: bool = False
    prompt: str = ""

    @classmethod
    def load(cls, source: TextSource) -> EmbeddingRecipe:
        """What the artifact declares. Raises: CheckpointFormatError naming a file that is no JSON."""
        data = read_optional(source, MODULES_FILE)
        if data is None:
            return cls("it declares none (no modules.json of sentence-transformers beside its weights)")
        kinds = _module_kinds(data)
        if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
            return cls(
                f"its modules.json asks for {', '.join(kinds) or 'nothing'}; Transformer, Pooling and "
                "Normalize are followed"
            )
        pooling_config = read_json(source, POOLING_FILE)
        modes = _modes(pooling_config)
        pooling = _POOLINGS.get(modes[0]) if len(modes) == 1 else None
        if pooling is None:
            found = " and ".join(modes) or "not declared"
            return cls(f"its pooling is {found}; mean_tokens and lasttoken are followed")
        prompt = _default_prompt(read_json(source, PROMPTS_FILE))
        if prompt and pooling == "mean" and pooling_config.get("include_prompt") is False:
            return cls("its pooling leaves the default prompt out, which is not followed")
        return cls(pooling=pooling, normalizes="Normalize" in kinds, prompt=prompt)


def _module_kinds(data: bytes) -> list[str]:
    """The stages' class names, in order; empty for what is no such list."""
    try:
        modules = json.loads(data)
    except (ValueError, RecursionError):
        return []
    entries = modules if isinstance(modules, list) else []
    return [str(each.get("type", "")).rpartition(".")[2] for each in entries if isinstance(each, dict)]


def _modes(config: dict[str, object]) -> list[str]:
    """The poolings that are switched on."""
    named = config.get("pooling_mode")
    if isinstance(named, str):
        return [named]
    return [
        key.removeprefix(_FLAG) for key, value in config.items() if key.startswith(_FLAG) and value is True
    ]


def _default_prompt(config: dict[str, object]) -> str:
    prompts, name = config.get("prompts"), config.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, dict) else None
    return prompt if isinstance(prompt, str) else ""
