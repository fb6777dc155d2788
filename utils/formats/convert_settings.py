"""Settings of a copy of the labels in another format."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from utils.runtime.setting_types import Section


class ConvertConfig(Section):
    """A copy of the labels in another format; each kind of task has a `format` beside it."""

    folder: str = Field(description="where to write; empty, or a copy made earlier")
    layout: Literal["annotations", "folders"] = Field(
        "annotations", description="coco: annotations/ and images/, or train/ and valid/ with JPEGImages each"
    )

    def how(self) -> dict[str, str]:
        """How the copy is laid out: arguments of `convert_labels`.

        Examples
        --------
        >>> ConvertConfig(folder="copy", layout="folders").how()
        {'layout': 'folders'}
        """
        return self.model_dump(exclude={"format", "folder"})
