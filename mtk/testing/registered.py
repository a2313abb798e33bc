"""The check of a plugin as a user reaches it: by kind and name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mtk import plugins
from mtk.errors import PluginError
from mtk.testing.commands import check_command
from mtk.testing.modules import check_encoder, check_head
from mtk.testing.results import check_exporter, check_recipe, check_report
from mtk.testing.rows import check_augmentation, check_task
from mtk.testing.search import check_executor, check_tuner
from mtk.testing.training import check_combiner, check_mixer, check_scheduler

CHECKS: dict[str, Callable[..., None]] = {
    "task": check_task,
    "head": check_head,
    "encoder": check_encoder,
    "combiner": check_combiner,
    "scheduler": check_scheduler,
    "mixer": check_mixer,
    "augmentation": check_augmentation,
    "tuner": check_tuner,
    "executor": check_executor,
    "exporter": check_exporter,
    "recipe": check_recipe,
    "report": check_report,
}


def check_registered(kind: str, name: str, **options: Any) -> None:
    """Builds a registered plugin with these options and runs its kind's check; a command's name is its path.

    Its options must have type hints and its constructor a docstring. Raises AssertionError, and MTKError where it
    cannot be built.
    """
    if kind == "command":
        check_command(name)
        return
    described = plugins.describe(kind, name)
    assert described.doc, f"{kind} '{name}': what it builds has no docstring"
    for option in described.options:
        assert option.hint is not Any, f"{kind} '{name}': option '{option.name}' has no type hint"
    unknown = "no_such_option"
    try:
        plugins.build(kind, name, **{**options, unknown: 1})
    except PluginError as error:
        assert unknown in str(error), f"{kind} '{name}': an unknown option is not named: {error}"
    else:
        raise AssertionError(f"{kind} '{name}': it takes any option, so a misspelt one goes unnoticed")
    CHECKS[kind](partial(plugins.build, kind, name, **options))
