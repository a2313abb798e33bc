"""The whole extension surface. A hook registers a name, a one-line summary and a way to build, and no more.

A plugin is a module named by an entry point of the group `mtk`. It marks its hooks with `mtk.hookimpl`:

    MTK_API = 1

    @mtk.hookimpl
    def register_combiners(register):
        register("pcgrad", "mtk_combiners.pcgrad:PCGrad", "project away conflicts", paper="arXiv 2001.06782")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pluggy

API_VERSION = 1  # of hooks and kinds; a plugin that says another MTK_API is refused
hookspec = pluggy.HookspecMarker("mtk")
hookimpl = pluggy.HookimplMarker("mtk")


class Register(Protocol):
    """Announces one plugin of the hook's kind.

    name: lower-case, unique within the kind. build: a class or function, best as a string "module:attribute", which is
    imported at first use. paper: its source. aliases: other names for it. accepts: for names that nobody registered
    (a folder, `owner/name`, `./task.toml`): the options to build this plugin with, or None to decline.
    """

    def __call__(
        self,
        name: str,
        build: str | Callable[..., Any],
        summary: str,
        *,
        paper: str = "",
        aliases: Sequence[str] = (),
        accepts: Callable[[str], Mapping[str, Any] | None] | None = None,
    ) -> None: ...


class RegisterCommand(Protocol):
    """Adds a function as the command `mtk PATH` (`"data fetch"`); its parameters are Typer's."""

    def __call__(self, path: str, command: Callable[..., Any], summary: str) -> None: ...


@hookspec
def register_tasks(register: Register) -> None:
    """Tasks; built with (TaskContext)."""


@hookspec
def register_heads(register: Register) -> None:
    """Heads; built with (hidden_size, target)."""


@hookspec
def register_encoders(register: Register) -> None:
    """Encoders; built with ()."""


@hookspec
def register_combiners(register: Register) -> None:
    """Gradient combiners; built with ()."""


@hookspec
def register_schedulers(register: Register) -> None:
    """Learning-rate schedules; built with ()."""


@hookspec
def register_mixers(register: Register) -> None:
    """Mixers, rows per task and epoch; built with ()."""


@hookspec
def register_augmentations(register: Register) -> None:
    """Augmentations of training rows; built with ()."""


@hookspec
def register_tuners(register: Register) -> None:
    """Tuners; built with ()."""


@hookspec
def register_executors(register: Register) -> None:
    """Executors, where a search's trials are trained; built with ()."""


@hookspec
def register_exporters(register: Register) -> None:
    """Writers of prediction files; built with (), called with (model, folder, data), and answer [mtk.Exported]."""


@hookspec
def register_recipes(register: Register) -> None:
    """Recipes, named NAME or GROUP/NAME; functions built with () that give a TOML file's Path (see mtk.recipes)."""


@hookspec
def register_reports(register: Register) -> None:
    """Writers of score tables and searches; functions built with (), called with (record, folder) -> Path."""


@hookspec
def register_commands(register: RegisterCommand) -> None:
    """Further `mtk` commands; register(path, function, summary)."""
