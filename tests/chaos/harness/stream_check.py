# SPDX-License-Identifier: Apache-2.0
"""Checks a client stream event by event against the right answer, over as many connections as it takes.

Every event: the grammar of `docs/stream.md`, `seq` = ids so far (of several choices some may be held back, and are
counted already), each id the next of its choice. At the end: text, usage, finish reasons, one `[DONE]`. What differs
is an AssertionError that says where.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from chaos.harness.ask import Ask, Right

_EVENT: Final = re.compile(rb"(?:id: (\d+)\n)?data: ([^\n]*)\n\n")
_COMMENT: Final = re.compile(rb": [^\n]*\n")
_CONSTANT: Final = ("id", "created", "model", "object")


class StreamCheck:
    """`feed` what arrives, `cut` when a connection broke, `check_whole` at the end."""

    def __init__(self, ask: Ask, right: Right) -> None:
        self._ask = ask
        self._right = right
        self._tail = b""
        self._ids: list[list[int]] = [[] for _ in right.ids]
        self._texts = ["" for _ in right.ids]
        self._finishes: list[str | None] = [None for _ in right.ids]
        self._usage: dict[str, Any] | None = None
        self._envelope: dict[str, Any] = {}
        self._is_other = [False for _ in right.ids]
        self.last_seq = 0
        self.num_near_ties = 0
        self.comments: list[str] = []
        self.is_done = False

    @property
    def num_ids(self) -> int:
        """Ids delivered so far, over all choices."""
        return sum(map(len, self._ids))

    def feed(self, data: bytes) -> None:
        """Bytes of the current connection."""
        self._tail += data
        at = 0
        while match := _COMMENT.match(self._tail, at) or _EVENT.match(self._tail, at):
            assert not self.is_done, f"bytes after [DONE]: {self._tail[at:]!r}"
            at = match.end()
            if match.re is _COMMENT:
                self.comments.append(match[0][2:-1].decode())
            else:
                self._take(match[1], match[2])
        self._tail = self._tail[at:]
        assert b"\n\n" not in self._tail, f"neither comment nor event: {self._tail!r}"

    def cut(self) -> None:
        """The connection broke: the half event that came is nothing."""
        self._tail = b""

    def check_whole(self) -> None:
        """The stream ended."""
        assert self.is_done, f"ended without [DONE] after {self.num_ids} ids"
        assert not self._tail, f"bytes after [DONE]: {self._tail!r}"
        assert [len(ids) for ids in self._ids] == [self._ask.max_tokens] * len(self._ids), "ids are missing"
        assert self._texts == [self._right_text(index) for index in range(len(self._ids))]
        assert self._finishes == ["length"] * len(self._ids)
        assert self._usage is not None, "no usage"
        counts = {name: self._usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        num_prompt = self._right.num_prompt_tokens
        assert counts == {
            "prompt_tokens": num_prompt,
            "completion_tokens": self.num_ids,
            "total_tokens": num_prompt + self.num_ids,
        }

    def _take(self, seq: bytes | None, payload: bytes) -> None:
        if payload == b"[DONE]":
            self.is_done = True
            return
        event = json.loads(payload)
        assert "error" not in event, f"after {self.num_ids} ids: {event['error']}"
        envelope = {name: event[name] for name in _CONSTANT}
        assert self._envelope in ({}, envelope), (self._envelope, envelope)
        self._envelope = envelope
        for choice in event["choices"]:
            self._take_choice(choice)
        if event.get("usage") is not None:
            self._usage = event["usage"]
        assert seq is not None, "an event without an id"
        is_right = (
            int(seq) == self.num_ids if len(self._ids) == 1 else int(seq) >= max(self.num_ids, self.last_seq)
        )
        assert is_right, f"seq {int(seq)} after {self.num_ids} ids and seq {self.last_seq}"
        self.last_seq = int(seq)

    def _take_choice(self, choice: dict[str, Any]) -> None:
        index = choice["index"]
        assert self._finishes[index] is None, f"choice {index} goes on after its end"
        ids = self._ids[index]
        start = len(ids)
        ids += choice["token_ids"]
        self._compare(index, start)
        if self._ask.endpoint == "chat":
            self._texts[index] += choice["delta"].get("content") or ""
            assert ("role" in choice["delta"]) == (start == 0), f"the role comes first, and once: {choice}"
        else:
            self._texts[index] += choice["text"]
        self._finishes[index] = choice["finish_reason"]

    def _compare(self, index: int, start: int) -> None:
        """The ids of a choice from `start` on with the right ones; after a near tie nothing is known of them."""
        ids, right, doubt = self._ids[index], self._right.ids[index], self._right.doubt
        for at in range(start, len(ids)):
            if self._is_other[index] or (at < len(right) and ids[at] == right[at]):
                continue
            is_tie = (
                doubt is not None
                and at < len(right)
                and doubt.is_near_tie(index, ids[:at], ids[at], right[at])
            )
            assert is_tie, f"choice {index}, id {at}: {ids[at:]} came for {right[at : len(ids)]}"
            self._is_other[index] = True
            self.num_near_ties += 1

    def _right_text(self, index: int) -> str:
        doubt = self._right.doubt
        is_other = self._is_other[index] and doubt is not None
        return doubt.read(self._ids[index]) if is_other and doubt else self._right.texts[index]
