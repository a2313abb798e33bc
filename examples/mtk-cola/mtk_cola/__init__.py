"""The task `cola` and the head `attend`. Every `mtk` command imports this module, so it imports nothing heavy."""

from mtk import Register, hookimpl

MTK_API = 1  # the version of mtk's plugin interface that this package is written for


@hookimpl
def register_tasks(register: Register) -> None:
    register(
        "cola",
        "mtk_cola.task:CoLA",
        "is a sentence acceptable English? Matthews correlation",
        paper="Warstadt, Singh and Bowman, TACL 2019, arXiv 1805.12471",
    )


@hookimpl
def register_heads(register: Register) -> None:
    register("attend", "mtk_cola.head:Attend", "a learned weight for each token, then linear")
