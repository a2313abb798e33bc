"""Built-in learning-rate schedules."""

from __future__ import annotations

from mtk import Register, hookimpl


@hookimpl
def register_schedulers(register: Register) -> None:
    register("constant", "mtk_schedulers.constant:Constant", "the full learning rate, after an optional warm-up")
    register("linear", "mtk_schedulers.linear:Linear", "linear warm-up, then linear decay to a floor")
    register(
        "step",
        "mtk_schedulers.step:Step",
        "cuts by the same factor at even distances",
        paper="BERT and Learnie (CS224N 2023)",
    )
    register("cyclic", "mtk_schedulers.cyclic:Cyclic", "triangular cycles between two bounds", paper="arXiv 1506.01186")
    register(
        "cosine",
        "mtk_schedulers.cosine:Cosine",
        "linear warm-up, then half a cosine down to a floor",
        paper="arXiv 1608.03983",
    )
    register(
        "inverse-sqrt",
        "mtk_schedulers.inverse_sqrt:InverseSqrt",
        "linear warm-up, then decay with the inverse square root of the step",
        paper="arXiv 1706.03762",
    )
