# SPDX-License-Identifier: Apache-2.0
"""The events of `POST /admin/models/{name}/pull`, line by line: the model's view at each step, then an end.

Pure: text in, views out.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from serverlessllm.errors import ModelLoadError, UnreachableError, WireError, from_openai
from serverlessllm.wire.admin import ModelView

_DATA: Final = "data: "
_DONE: Final = "[DONE]"
_event: Final[msgspec.json.Decoder[dict[str, Any]]] = msgspec.json.Decoder(dict[str, Any])


class PullEvents:
    """`feed` it every line; then `end`, which raises unless the stream was whole."""

    def __init__(self) -> None:
        self.is_done = False

    def feed(self, line: str) -> ModelView | None:
        """The view that the line carries, if it does. Raises: the error that it carries; WireError."""
        if not line.startswith(_DATA):
            return None
        data = line.removeprefix(_DATA)
        if data == _DONE:
            self.is_done = True
            return None
        try:
            event = _event.decode(data)
            if isinstance(event.get("error"), dict):  # a view's own error is a text
                raise from_openai(event, status=ModelLoadError.http_status)
            return msgspec.convert(event, ModelView)
        except msgspec.MsgspecError as error:
            raise WireError(f"malformed event of a pull: {error}", source="client") from error

    def end(self) -> None:
        """Raises UnreachableError when the stream was cut."""
        if not self.is_done:
            raise UnreachableError(
                "the server ended the pull early; what arrived is kept, pull again", source="client"
            )
