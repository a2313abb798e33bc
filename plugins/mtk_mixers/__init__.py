"""Built-in mixers: how many rows each task gives to an epoch."""

from __future__ import annotations

from mtk import Register, hookimpl


@hookimpl
def register_mixers(register: Register) -> None:
    register("all", "mtk_mixers.all:All", "every row of every task once an epoch")
    register(
        "capped",
        "mtk_mixers.capped:Capped",
        "at most so many rows of a task an epoch, drawn afresh",
        paper="BERT and Learnie (CS224N 2023)",
    )
