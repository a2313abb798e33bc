"""The combiner `loudest`. This module is imported by every `mtk` command, so it imports nothing heavy."""

from mtk import Register, hookimpl


@hookimpl
def register_combiners(register: Register) -> None:
    register("loudest", "mtk_loudest.loudest:Loudest", "turn down the tasks whose gradients are the longest")
