# SPDX-License-Identifier: Apache-2.0
"""What a cleaning chooses: asked-for kinds, then for room the readiest sacrifice first, never what is in use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serverlessllm.loader.disk.cleaning import choose_cleaning
from serverlessllm.wire.disk import CleanDisk, CopyKind, DiskCopy


def copy(
    path: str, kind: CopyKind = "artifact", nbytes: int = 100, used_s: float = 0.0, **more: object
) -> DiskCopy:
    fields: dict[str, object] = {"revision": path, "models": ["m"], **more}
    return DiskCopy(path=path, kind=kind, nbytes=nbytes, last_used_s=used_s, **fields)  # type: ignore[arg-type]


DISK = [
    copy("used", is_in_use=True, models=[]),
    copy("registered"),
    copy("published", origins=["s3://b/r"], used_s=5.0),
    copy("published-older", origins=["s3://b/r"], used_s=4.0),
    copy("orphan", models=[]),
    copy("part", "fetching"),
    copy("part-in-use", "fetching", is_in_use=True),
    copy("source", "source", used_s=-1.0),
    copy("bad", "quarantined"),
    copy("tmp", "leftover"),
    copy("tmp-in-use", "leftover", is_in_use=True),
]


def paths(wish: CleanDisk, disk: list[DiskCopy] = DISK) -> list[str]:
    return [one.path for one in choose_cleaning(disk, wish)]


def test_quarantine_and_leftovers_go_by_themselves() -> None:
    assert paths(CleanDisk()) == ["bad", "tmp"]


def test_more_goes_only_when_it_is_asked_for() -> None:
    assert paths(CleanDisk(fetched=True)) == ["part", "source", "bad", "tmp"]
    assert paths(CleanDisk(artifacts=True)) == ["orphan", "bad", "tmp"]


def test_room_is_made_in_the_order_of_what_is_missed_least() -> None:
    order = ["bad", "tmp", "source", "part", "orphan", "published-older", "published"]
    assert paths(CleanDisk(to_bytes=0)) == order
    assert paths(CleanDisk(to_bytes=700)) == order[:4]
    assert paths(CleanDisk(to_bytes=5000)) == order[:2]


def test_artifacts_stay_where_it_is_not_known_who_uses_them() -> None:
    assert paths(CleanDisk(artifacts=True, to_bytes=0), [copy("unknown", models=None)]) == []


@given(
    wish=st.builds(
        CleanDisk,
        fetched=st.booleans(),
        artifacts=st.booleans(),
        to_bytes=st.none() | st.integers(0, 2000),
    ),
    sizes=st.lists(st.integers(0, 300), min_size=len(DISK), max_size=len(DISK)),
)
def test_nothing_in_use_and_no_lone_registered_artifact_ever_goes(wish: CleanDisk, sizes: list[int]) -> None:
    disk = [
        copy(
            one.path,
            one.kind,
            nbytes,
            one.last_used_s,
            models=one.models,
            origins=one.origins,
            is_in_use=one.is_in_use,
        )
        for one, nbytes in zip(DISK, sizes, strict=True)
    ]
    chosen = choose_cleaning(disk, wish)
    assert len({one.path for one in chosen}) == len(chosen)
    assert not any(one.is_in_use or one.path == "registered" for one in chosen)
