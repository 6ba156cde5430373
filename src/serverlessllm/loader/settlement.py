# SPDX-License-Identifier: Apache-2.0
"""Fetched bytes on their last step: from the whole region, and what is staged beside, to files of the artifact.

Done aside, while the model answers already. Knows no origins to fetch from: the region has every byte.
"""

from __future__ import annotations

from collections.abc import Sequence

from serverlessllm.arena.mapping import map_extents
from serverlessllm.arena.pin import Pin
from serverlessllm.arena.region import Region
from serverlessllm.loader.disk.staged_copy import StagedCopy
from serverlessllm.loader.disk.tier import NvmeTier
from serverlessllm.loader.plan import LoadableArtifact


class Settlement:
    """`run` once. Owns `staged`, and `pin`, by which the region stays until its bytes are on the disk."""

    def __init__(
        self,
        artifact: LoadableArtifact,
        origins: Sequence[str],
        nvme: NvmeTier,
        staged: StagedCopy,
        region: Region,
        pin: Pin,
    ) -> None:
        self._artifact = artifact
        self._origins = origins
        self._nvme = nvme
        self._staged = staged
        self._region = region
        self._pin = pin

    def run(self) -> None:
        """Turn what was fetched into files of the artifact, replacing wrong ones. Blocks.

        Raises: DiskFullError, ModelLoadError, OSError; then a later load goes on from what is there.
        """
        try:
            with self._pin as pin:
                mapping = map_extents(pin.fd, self._region.extents, writable=False)
                self._staged.settle(mapping.view, self._artifact.small_files())
        finally:
            self._staged.close()
        self._nvme.note_use(self._artifact.revision, self._origins)
