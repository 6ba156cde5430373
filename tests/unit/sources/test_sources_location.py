# SPDX-License-Identifier: Apache-2.0
"""What people write for a place, and what is no place."""

from __future__ import annotations

from pathlib import Path

import pytest

from serverlessllm.errors import CheckpointFormatError, InvalidRequestError
from serverlessllm.sources.access import Access
from serverlessllm.sources.http_connection import HttpAccess
from serverlessllm.sources.location import Location, list_files, open_source
from serverlessllm.sources.url_policy import UrlPolicy

ACCESS = Access(HttpAccess(UrlPolicy()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/models/llama", Location("path", "/models/llama")),
        ("./llama", Location("path", "./llama")),
        ("llama.gguf", Location("path", "llama.gguf")),
        ("https://host/dir/?token=1", Location("http", "https://host/dir/?token=1")),
        ("s3://bucket", Location("s3", "bucket")),
        ("s3://bucket/a/b/", Location("s3", "bucket", "a/b")),
        ("hf://org/name", Location("hub", "org/name")),
        ("hf://org/name@refs/pr/3", Location("hub", "org/name", revision="refs/pr/3")),
        ("hf://org/name/sub/x.gguf", Location("hub", "org/name", "sub/x.gguf")),
        ("org/name", Location("hub", "org/name")),
        ("org/name@main", Location("hub", "org/name", revision="main")),
        ("org/name/more", Location("path", "org/name/more")),
    ],
)
def test_place_is_understood(text: str, expected: Location) -> None:
    assert Location.parse(text) == expected


def test_existing_path_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert Location.parse("org/name").kind == "path"


@pytest.mark.parametrize(
    "text",
    ["ftp://host/x", "hf://name", "hf://org/name@", "hf://../name", "hf://org/name@a b", "hf://org/na me"],
)
def test_what_is_no_place_says_what_to_write(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="write"):
        Location.parse(text)


@pytest.mark.parametrize("text", ["s3://bucket/../other", "s3://bucket/a//b", "hf://org/name/../x"])
def test_place_that_leaves_its_root_is_refused(text: str) -> None:
    with pytest.raises(CheckpointFormatError, match="leaves its directory"):
        Location.parse(text)


@pytest.mark.parametrize("text", ["s3://B", "s3://", "s3://a_b/c"])
def test_what_is_no_bucket_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="bucket name"):
        Location.parse(text)


@pytest.mark.parametrize(
    "text", ["https://user:secret@host/m", "http://host:99999/", "https:///m", "http://[x/"]
)
def test_what_is_no_url_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="not a URL that can be fetched") as caught:
        Location.parse(text)
    assert "secret" not in caught.value.message


def test_name_shows_no_query() -> None:
    assert Location.parse("https://host/m.tar?X-Amz-Signature=1").name == "https://host/m.tar"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://host/llama-3.2", None),
        ("https://host/dir/", None),
        ("https://host/m%20x.tar.gz?token=1", "m x.tar.gz"),
        ("s3://bucket/a/m.gguf", "m.gguf"),
        ("hf://org/name.gguf", None),
    ],
)
def test_ending_tells_a_file_from_a_directory(text: str, expected: str | None) -> None:
    assert Location.parse(text).file_name == expected


def test_url_of_a_file_below_keeps_the_query() -> None:
    location = Location.parse("https://host/rev?token=1")
    assert location.url("model 1.bin") == "https://host/rev/model%201.bin?token=1"


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "a\\b", "a\nb", "x" * 300])
def test_name_that_leaves_the_location_is_refused(name: str) -> None:
    for text in ("https://host/rev", "s3://bucket/rev", "/models"):
        with pytest.raises(CheckpointFormatError, match="refusing the file name"):
            open_source(Location.parse(text), name, ACCESS)


def test_files_of_a_path_are_listed_with_sizes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.bin").write_bytes(b"123")
    (tmp_path / "sub" / "a.bin").write_bytes(b"1")
    found = list_files(Location.parse(str(tmp_path)), ACCESS)
    assert [(file.name, file.size_bytes) for file in found] == [("b.bin", 3), ("sub/a.bin", 1)]
