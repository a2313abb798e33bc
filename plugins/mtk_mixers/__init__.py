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
    register(
        "proportional",
        "mtk_mixers.proportional:Proportional",
        "shares in proportion to the tasks' sizes",
        paper="arXiv 1902.02671",
    )
    register(
        "sqrt",
        "mtk_mixers.sqrt:Sqrt",
        "shares in proportion to the square roots of the sizes",
        paper="arXiv 1902.02671",
    )
    register(
        "temperature",
        "mtk_mixers.temperature:Temperature",
        "shares in proportion to the sizes' roots of a degree of your choice",
        paper="arXiv 1910.10683",
    )
    register(
        "annealed",
        "mtk_mixers.annealed:Annealed",
        "shares in proportion to the sizes at first, nearly equal at the end",
        paper="arXiv 1902.02671",
    )
