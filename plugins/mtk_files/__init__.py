"""Tasks on rows of your own: files, or a data set of the Hub. The kind of task is the kind of label."""

from __future__ import annotations

from mtk import Register, RegisterCommand, hookimpl

KINDS = {
    "auto": ("mtk_files.auto:auto", "rows of your own files or the Hub; what kind of label they have is guessed"),
    "classes": ("mtk_files.kinds:ClassesTask", "your own rows: one of several classes"),
    "range": ("mtk_files.kinds:RangeTask", "your own rows: a number between two bounds"),
    "number": ("mtk_files.kinds:NumberTask", "your own rows: a number without bounds"),
    "ordinal": ("mtk_files.kinds:OrdinalTask", "your own rows: one of several classes in ascending order"),
    "multilabel": ("mtk_files.kinds:MultiLabelTask", "your own rows: any number of labels"),
    "tags": ("mtk_files.kinds:TagsTask", "your own rows: a tag a word"),
    "ranking": ("mtk_files.kinds:RankingTask", "your own pairs of texts that belong together"),
}


@hookimpl
def register_tasks(register: Register) -> None:
    for name, (build, summary) in KINDS.items():
        register(name, build, summary)


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    from mtk_files.init_command import init_command

    register("task init", init_command, "Write a task file after a look at the data, and say what was guessed.")
