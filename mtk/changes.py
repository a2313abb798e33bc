"""Settings that change in the middle of a run, at an epoch's start.

[[changes]]
after = 2                        # epochs: in force from the third on
[changes.settings]               # in the keys of config.toml, laid on what was in force until then
optim.lr = 3e-5
combiner = "cagrad:c=0.4"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

_CHANGEABLE = re.compile(
    r"optim\..+|model\.(encoder_)?dropout|encoder\.dropout|train\.(batch_size|accumulate|nonfinite)"
    r"|(combiner|mixer|scheduler)(\..+)?|tasks\.[^.]+\.(weight|batch_size|head\.(dropout|rdrop))"
)
CAN_CHANGE = "optim, dropouts, rdrop, batch sizes, loss weights, combiner, mixer, scheduler"  # the same in words


def changeable(key: str) -> bool:
    """Whether a run may go on from its checkpoint under another value of this dotted key."""
    return _CHANGEABLE.fullmatch(key) is not None


class Change(BaseModel):
    """What is set anew after `after` epochs. settings: a tree in the keys of config.toml."""

    model_config = ConfigDict(extra="forbid")
    after: int = Field(ge=1, strict=True)
    settings: dict[str, Any]

    @field_validator("settings")
    @classmethod
    def _writable(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """TOML has no None: an option that is None is the text that plugins read as None."""
        if not any(True for _ in leaves(settings)):
            raise PydanticCustomError("nothing", "Expected a table of settings that change")
        return _without_none(settings)

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Dotted keys and values."""
        return leaves(self.settings)


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in a tree: dotted keys and values."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _without_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else "none" if value is None else value
        for key, value in tree.items()
    }
