# SPDX-License-Identifier: Apache-2.0
"""The install page, word for word: its blocks are one script, run in an empty directory."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from support.helm_chart import REPOSITORY
from support.metadata_servers import free_port

URL = "https://github.com/serverlessllm/serverlessllm"


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_install_page_works_word_for_word_in_an_empty_directory(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "install.md").read_text()
    script = "set -euo pipefail\n" + "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S))
    port = str(free_port())
    env = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")},
        # The page's address is answered by this checkout, and its port by one that is free.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{REPOSITORY}.insteadOf",
        "GIT_CONFIG_VALUE_0": URL,
        "SLLM_ORCHESTRATOR_PORT": port,
        "SLLM_URL": f"http://127.0.0.1:{port}",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    log = tmp_path / "serve.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    assert "first token after" in done.stdout + done.stderr or done.stdout.strip(), done.stderr
