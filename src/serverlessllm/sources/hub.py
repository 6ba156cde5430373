# SPDX-License-Identifier: Apache-2.0
"""Repositories of the Hugging Face hub, or of what speaks its protocol.

`huggingface_hub` asks what there is; the files come through our own range reader. A branch or tag is pinned to its
commit when it is first asked about, so that all files are of one state. Knows names of files; not their formats.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote

from serverlessllm.errors import (
    ConfigError,
    CorruptDataError,
    ModelLoadError,
    PermissionDeniedError,
    UnreachableError,
)
from serverlessllm.sources.access import Access
from serverlessllm.sources.base import RemoteFile
from serverlessllm.sources.http import HttpSource
from serverlessllm.sources.hub_files import needed_files
from serverlessllm.sources.safe_name import safe_name

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
PUBLIC_HUB: Final = "https://huggingface.co"


class HubRepository:
    """One model repository at one commit."""

    def __init__(self, repository: str, revision: str | None, access: Access) -> None:
        """Asks nobody. Raises: ConfigError without huggingface_hub."""
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise ConfigError("hf:// needs huggingface_hub; pip install 'serverlessllm[hub]'") from error
        if access.ca_file is not None:
            _believe(access.http.tls)
        self.name = repository
        self._endpoint = access.environment.get("HF_ENDPOINT", PUBLIC_HUB).rstrip("/")
        # False, not None: None would let the library look for a token that nobody handed to us.
        self._token = access.environment.get("HF_TOKEN")
        self._api = HfApi(endpoint=self._endpoint, token=self._token or False, library_name="serverlessllm")
        self._asked = revision
        self._timeout_s = access.http.stall_timeout_s
        self._http = access.trusting(self._endpoint) if self._endpoint != PUBLIC_HUB else access.http
        self._lock = threading.Lock()
        self._commit = revision if revision is not None and _COMMIT.fullmatch(revision) else None

    @property
    def commit(self) -> str:
        """The commit, 40 hex digits, that the revision stood for when it was first asked about."""
        with self._lock:
            if self._commit is None:
                with self._translated():
                    info = self._api.model_info(self.name, revision=self._asked, timeout=self._timeout_s)
                if not info.sha:
                    raise ModelLoadError(f"{self._where}: the hub does not tell the commit", source="ingest")
                self._commit = info.sha
            return self._commit

    def list(self, path: str = "") -> list[RemoteFile]:
        """What a conversion needs of the repository, or of `path` in it (a folder, or one file), sorted.

        LFS files carry their SHA-256. Raises: CorruptDataError when nothing is to be had there;
        PermissionDeniedError for a gated or private repository without a token that opens it; UnreachableError.
        """
        from huggingface_hub.hf_api import RepoFile

        with self._translated():
            entries = list(self._api.list_repo_tree(self.name, recursive=True, revision=self.commit))
        found: list[RemoteFile] = []
        for entry in entries:
            if not isinstance(entry, RepoFile) or not _is_below(entry.path, path):
                continue
            # A file that was asked for itself goes by its last name.
            name = (
                entry.path.rpartition("/")[2] if entry.path == path else entry.path.removeprefix(f"{path}/")
            )
            sha256 = entry.lfs.sha256 if entry.lfs is not None else None
            found.append(RemoteFile(safe_name(name, where=self._where), entry.size, sha256))
        return needed_files(found, where=self._where, wanted=path.rpartition("/")[2])

    def source(self, path: str) -> HttpSource:
        """The file `path` of the pinned commit. Nothing is asked before it is read."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return HttpSource(lambda: self._url(path), self._http, name=f"{self._where}/{path}", headers=headers)

    def _url(self, path: str) -> str:
        return f"{self._endpoint}/{self.name}/resolve/{self.commit}/{quote(path)}"

    @property
    def _where(self) -> str:
        return f"hf://{self.name}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the hub's errors into ours."""
        import httpx2
        from huggingface_hub import errors

        what = self._where + (f" at {self._asked}" if self._asked else "")
        try:
            yield
        except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
            raise PermissionDeniedError(
                f"{what} does not exist, or is gated or private: accept its terms and set HF_TOKEN",
                param="source",
            ) from error
        except errors.RevisionNotFoundError as error:
            raise CorruptDataError(f"{what}: there is no such revision", param="source") from error
        except errors.HFValidationError as error:
            raise CorruptDataError(f"{what}: {error}", param="source") from error
        except errors.HfHubHTTPError as error:
            raise UnreachableError(f"{what}: {_first_line(error)}", source="ingest") from error
        except (httpx2.HTTPError, OSError) as error:
            raise UnreachableError(f"{self._endpoint}: {_first_line(error)}", source="ingest") from error


def _believe(tls: ssl.SSLContext) -> None:
    """Make the library's own calls trust whom we trust: it takes no such setting, but a client for the process."""
    import httpx2
    from huggingface_hub import set_client_factory

    set_client_factory(lambda: httpx2.Client(verify=tls, follow_redirects=True, timeout=None))


def _is_below(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}/")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
