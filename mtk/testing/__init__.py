"""Conformance checks for plugin authors: each builds a plugin, tries what the core will do with it, and asserts.

    def test_mine() -> None:
        mtk.testing.check_combiner(MyCombiner)  # a class, or a function that builds one
        mtk.testing.check_registered("combiner", "mine", c=0.4)  # as a user reaches it

A check that fails raises AssertionError that says what was expected.
"""

from __future__ import annotations

from mtk.testing.commands import check_command
from mtk.testing.modules import check_encoder, check_head
from mtk.testing.registered import check_registered
from mtk.testing.results import check_exporter, check_recipe, check_report
from mtk.testing.rows import check_augmentation, check_task
from mtk.testing.search import check_executor, check_tuner
from mtk.testing.training import check_combiner, check_mixer, check_scheduler

__all__ = [
    "check_augmentation",
    "check_combiner",
    "check_command",
    "check_encoder",
    "check_executor",
    "check_exporter",
    "check_head",
    "check_mixer",
    "check_recipe",
    "check_registered",
    "check_report",
    "check_scheduler",
    "check_task",
    "check_tuner",
]
