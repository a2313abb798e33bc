"""Is `pcgrad` better than `sum` here? Paired over seeds: `python examples/compare_two_settings.py`."""

import mtk

SEEDS = (1, 2, 3)


def scores(combiner: str) -> list[float]:
    """The best dev aggregate of each seed."""
    settings = {"sample": "always", "combiner": combiner, "quiet": True}
    runs = [mtk.train(["sst", "sts"], seed=seed, out=f"runs/{combiner}-{seed}", **settings) for seed in SEEDS]
    return [run.scores["aggregate"] for run in runs]


first, second = (dict(zip(SEEDS, scores(combiner), strict=True)) for combiner in ("sum", "pcgrad"))
print("sum   ", first)
print("pcgrad", second)
print("pcgrad - sum:", mtk.paired_difference(second, first))
