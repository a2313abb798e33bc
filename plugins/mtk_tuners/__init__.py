"""Built-in tuners, which decide what settings a search tries and how long, and where its trials are trained."""

from __future__ import annotations

from mtk import Register, hookimpl


@hookimpl
def register_tuners(register: Register) -> None:
    register("random", "mtk_tuners.random:Random", "independent draws, each trained to the end")
    register("grid", "mtk_tuners.grid:Grid", "every combination of the space's values")
    register(
        "asha",
        "mtk_tuners.asha:ASHA",
        "many trials for an epoch, the best of them for more: pauses and promotes",
        paper="Li et al., MLSys 2020, arXiv 1810.05934",
    )
    register(
        "ray-asha",
        "mtk_tuners.ray_asha:RayASHA",
        "stops what is not among the best so far, by the rule of Ray Tune's ASHAScheduler",
        paper="Li et al., MLSys 2020, arXiv 1810.05934",
    )
    register(
        "pbt",
        "mtk_tuners.pbt:PBT",
        "a population trains side by side; the worst go on from the weights of the best, under changed settings",
        paper="Jaderberg et al. 2017, arXiv 1711.09846",
    )
    register(
        "optuna",
        "mtk_tuners.optuna_:Optuna",
        "draws from a model of what scored well, and can stop what does not",
        paper="Akiba et al., KDD 2019, arXiv 1907.10902",
    )


@hookimpl
def register_executors(register: Register) -> None:
    register("local", "mtk_tuners.local:Local", "worker processes on this machine")
