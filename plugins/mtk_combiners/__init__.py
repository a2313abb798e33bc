"""The built-in gradient combiners: one paper, one file, imported at first use."""

from mtk import Register, hookimpl


@hookimpl
def register_combiners(register: Register) -> None:
    register("sum", "mtk_combiners.sum:Sum", "the plain sum of the tasks' losses")
    register("mean", "mtk_combiners.mean:Mean", "the mean of the losses of the tasks present in a step")
    register("pcgrad", "mtk_combiners.pcgrad:PCGrad", "project conflicting gradients", paper="arXiv 2001.06782")
