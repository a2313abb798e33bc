"""Built-in learning-rate schedules."""

from __future__ import annotations

from mtk import Register, hookimpl


@hookimpl
def register_schedulers(register: Register) -> None:
    register("constant", "mtk_schedulers.constant:Constant", "the full learning rate, after an optional warm-up")
    register("linear", "mtk_schedulers.linear:Linear", "linear warm-up, then linear decay to a floor")
