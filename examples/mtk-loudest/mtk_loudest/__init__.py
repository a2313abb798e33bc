"""The combiner `loudest`. This module is imported by every `mtk` command, so it imports nothing heavy."""

from mtk import Register, hookimpl

MTK_API = 1  # the version of mtk's plugin interface that this package is written for


@hookimpl
def register_combiners(register: Register) -> None:
    register("loudest", "mtk_loudest.loudest:Loudest", "turn down the tasks whose gradients are the longest")
