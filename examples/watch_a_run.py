"""Every event of a run, as it happens, for a logger or a plot of your own: `python examples/watch_a_run.py`."""

import mtk
from mtk.training import EpochDone, StepDone

losses: list[float] = []


def watch(event: object) -> None:
    if isinstance(event, StepDone):
        losses.append(sum(event.losses.values()))
    elif isinstance(event, EpochDone):
        print(f"epoch {event.epoch + 1}: loss {sum(losses) / len(losses):.3f}, dev {event.scores.aggregate:.4f}")
        losses.clear()


mtk.train(["sst", "sts"], sample="always", epochs=2, quiet=True, watch=watch, out="runs/example-watched")
