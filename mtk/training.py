"""One visible loop, which yields what happened; displays, run folders and tuners consume it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mtk import plugins
from mtk.assembly import Parts
from mtk.checkpoint import unsaved
from mtk.data import MicroBatch, Step, TaskRows, draw_rows, fuse, generator
from mtk.device import rng_state, set_rng_state
from mtk.errors import CheckpointError, ConfigError, MTKError, NonFiniteError
from mtk.evaluation import Scores, evaluate
from mtk.gradients import GradientEngine, GradientReport
from mtk.interfaces import Progress, StepInfo
from mtk.model import layer_groups
from mtk.optimizer import make_optimizer

Reason = Literal["epochs", "patience", "max_steps", "stopped"]


@dataclass(frozen=True)
class StepDone:
    """One optimizer step, the epoch's `step`-th of `steps`; `done` of the run's `total` are behind us.

    epoch: counted from 0.
    losses: means over the step's labelled items, times the task's weight.
    left_out: tasks that sat this step out, because their loss or gradient was not finite.
    """

    epoch: int
    step: int
    steps: int
    done: int
    total: int
    losses: dict[str, float]
    lr: float
    rows: int
    report: GradientReport
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class EpochDone:
    """An epoch (or the part of one that max_steps left) and the dev scores after it.

    epoch: counted from 0. selected: the score that decides which epoch is the best.
    coverage: the share of each task's training rows that were drawn at least once since the run began.
    train_scores: of `train.score_train` training rows a task, the same ones every epoch, without dropout.
    """

    epoch: int
    done: int
    losses: dict[str, float]
    scores: Scores
    selected: float
    is_best: bool
    rows: int
    seconds: float
    coverage: dict[str, float]
    train_scores: Scores | None = None


@dataclass(frozen=True)
class Finished:
    """Why training ended. `stopped`: somebody asked; the position can be resumed."""

    reason: Reason


Event = StepDone | EpochDone | Finished


@dataclass
class Position:
    """Where a run stands: the epoch, steps done in it and in all, and what early stopping remembers.

    best: the highest score; gained: the score that the next one is to exceed by `min_gain`.
    """

    epoch: int = 0
    step: int = 0
    done: int = 0
    best: float | None = None
    best_epoch: int | None = None
    gained: float | None = None
    bad_epochs: int = 0
    rows: int = 0
    ended: Reason | None = None
    loss_sums: dict[str, list[float]] = field(default_factory=dict)  # task -> [sum of step losses, steps]


def exceeds(score: float, before: float | None, gain: float = 0.0) -> bool:
    """Whether a score is above an earlier one by more than `gain`. Any is above none, and any number above NaN."""
    if before is None or math.isnan(before):
        return before is None or not math.isnan(score)
    return score > before + gain


class Training:
    """A run's parts, its optimizer and its position. `run()` goes on from the position to the end."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.config = parts.config
        self.position = Position()
        self.optimizer = make_optimizer(parts)
        self._encoder = [p for p in parts.model.encoder.parameters() if p.requires_grad]
        self.resting = False
        self._rest_or_train()
        self.generator = generator(self.config.train.seed, "combiner")
        self.stop_requested = False
        epochs = range(self.config.train.epochs)
        parts.plan.check(parts.train)
        self.total = sum(parts.plan.step_count(parts.train, epoch) for epoch in epochs)
        if self.config.train.max_steps is not None:
            self.total = min(self.total, self.config.train.max_steps)
        self._engine: GradientEngine | None = None
        self.slow_parameters: list[str] = []
        self.engine()

    def engine(self) -> GradientEngine:
        """The gradient engine; a new one, checked on a few rows, where something froze or thawed.

        `slow_parameters` names the shared ones whose per-task gradients take a backward pass a task.
        """
        parts, shared = self.parts, self.parts.model.shared_parameters()
        if self._engine is None or set(shared) != set(self._engine.shared):
            groups = layer_groups(parts.model, shared) if self.config.train.diagnose == "layers" else {}
            self._engine = GradientEngine(shared, parts.combiner, parts.model.head_parameters(), groups)
            train = self.config.train
            buffered = parts.combiner.needs == "losses" and train.accumulate > 1
            if not self._engine.by_task and not buffered and train.diagnose == "none":
                return self._engine  # no step will ever take gradients by task
            few = {name: np.unique([0, len(rows) - 1]) for name, rows in parts.train.items()}
            batch = fuse(parts.train, few, parts.model.encoder.tokenizer.pad_id).to(parts.hardware.torch_device)
            rng = rng_state(parts.hardware.device)
            parts.model.train()

            def losses() -> dict[str, Tensor]:
                set_rng_state(parts.hardware.device, rng)
                return parts.model.losses(batch, parts.model(batch))

            with unmoved(parts.model):
                slow = self._engine.check(losses, batch.ranges)
            set_rng_state(parts.hardware.device, rng)
            names = {p: name for name, p in parts.model.named_parameters()}
            self.slow_parameters = sorted(names[p] for p in slow)
        return self._engine

    def _rest_or_train(self) -> None:
        """The encoder rests in the epochs of `model.head_warmup`; what somebody else froze since is left alone."""
        resting = self.position.epoch < self.config.model.head_warmup
        if resting != self.resting:
            self.resting = resting
            for parameter in self._encoder:
                parameter.requires_grad_(not resting)

    def run(self) -> Iterator[Event]:
        """The loop. Raises MTKError when a loss is no longer finite; the model is then as after the last step."""
        at = self.position
        while at.ended is None:
            if self._asked_to_stop():
                yield Finished("stopped")
                return
            start = time.perf_counter()
            self._rest_or_train()
            engine = self.engine()
            self.parts.model.train()
            steps = self.parts.plan.steps(self.parts.train, at.epoch)
            while at.step < len(steps) and at.done < self.total:
                with self.parts.hardware.computing():
                    done = self._step(engine, steps[at.step], len(steps))
                yield done
                if self._asked_to_stop():
                    yield Finished("stopped")
                    return
            yield self._end_epoch(start)
        yield Finished(at.ended)

    def _asked_to_stop(self) -> bool:
        return self.stop_requested  # by whoever consumes the events, between two of them

    def _step(self, engine: GradientEngine, step: Step, steps: int) -> StepDone:
        at, parts, optim = self.position, self.parts, self.config.optim
        before = self._draws()
        left_out: list[str] = []
        shown: dict[str, float] = {}
        while True:
            rows = {name: chosen for name, chosen in step.rows.items() if name not in left_out}
            batches = Step(rows).micro_batches(
                parts.train, parts.model.encoder.tokenizer.pad_id, self.config.train.accumulate
            )
            batches = [batch.to(parts.hardware.torch_device) for batch in batches]
            counts = label_counts(batches)
            info = StepInfo(tuple(counts), at.done, at.epoch, self.generator)
            if not rows:  # nothing is left to learn from
                report = GradientReport((), torch.zeros(0, dtype=torch.float64))
                break
            try:
                shown, report = self._gradients(engine, batches, counts, info)
                break
            except NonFiniteError as error:
                self._draw_again(before)
                left_out += self._sits_out(error, batches, counts)
                self.optimizer.zero_grad(set_to_none=True)
                self._draw_again(before)
        factor = parts.scheduler.factor(Progress(at.done, self.total))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        if rows:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if rows and parts.combiner.looks_again:
            after = rng_state(parts.hardware.device)
            set_rng_state(parts.hardware.device, before["rng"])
            with torch.no_grad():
                second = self._losses(batches, counts, None)
            set_rng_state(parts.hardware.device, after)
            parts.combiner.after_step(torch.stack([second[name] for name in counts]), info)

        at.step += 1
        at.done += 1
        for name, value in shown.items():
            sums = at.loss_sums.setdefault(name, [0.0, 0])
            sums[0] += value
            sums[1] += 1
        seen = sum(map(len, rows.values()))
        at.rows += seen
        return StepDone(
            at.epoch, at.step, steps, at.done, self.total, shown, optim.lr * factor, seen, report, tuple(left_out)
        )

    def _gradients(
        self, engine: GradientEngine, batches: list[MicroBatch], counts: Mapping[str, int], info: StepInfo
    ) -> tuple[dict[str, float], GradientReport]:
        """One combined gradient in `.grad`. Raises NonFiniteError, with the names of the tasks where they are known."""
        train = self.config.train
        sampled = train.diagnose != "none" and info.step % train.diagnose_every == 0 and len(info.tasks) > 1
        engine.start(info, len(batches), diagnose=sampled)
        losses = self._losses(batches, counts, engine)
        values = torch.stack([losses[name] for name in counts])
        try:
            report = engine.finish(self.config.optim.max_norm or None)
            finite = report.norm is None or math.isfinite(report.norm)
        except NonFiniteError as error:
            report, finite, bad = None, False, error.tasks
        shown = dict(zip(counts, values.tolist(), strict=True))  # a GPU is waited for here
        if wrong := [name for name, value in shown.items() if not math.isfinite(value)]:
            raise NonFiniteError(wrong, info.step, "loss")
        if report is None or not finite:
            raise NonFiniteError(bad if report is None else (), info.step)
        return shown, report

    def _sits_out(self, error: NonFiniteError, batches: list[MicroBatch], counts: Mapping[str, int]) -> tuple[str, ...]:
        """The tasks whose loss or gradient is not finite; all of the step where only their sum is not.

        Raises MTKError where such a task stops the run.
        """
        bad = error.tasks
        if not bad:
            found = []
            parameters = [p for p in self.parts.model.parameters() if p.requires_grad]
            with unmoved(self.parts.model):
                for batch in batches:
                    with self.parts.hardware.autocast():
                        sums = self.parts.model.losses(batch, self.parts.model(batch))
                    for name, loss in sums.items():
                        if loss.requires_grad:
                            grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
                            if not all(bool(g.isfinite().all()) for g in grads if g is not None):
                                found.append(name)
            bad = tuple(dict.fromkeys(found))
        if self.config.train.nonfinite == "skip":
            return bad or tuple(counts)
        whose = f"of task {', '.join(bad)}" if bad else "of all tasks together"
        raise MTKError(
            f"the {error.what} {whose} is not finite at step {self.position.done + 1} (epoch "
            f"{self.position.epoch + 1}); try a lower --lr (now {self.config.optim.lr:g}) or --precision fp32 (now "
            f"{self.parts.hardware.precision}), look at the labels and the head, or go on without: --nonfinite skip"
        )

    def _draws(self) -> dict[str, Any]:
        """All that a step draws from or moves before the optimizer does."""
        return {
            "rng": rng_state(self.parts.hardware.device),
            "generator": self.generator.get_state(),
            "combiner": copy.deepcopy(self._combiner_state()),
            "buffers": [buffer.clone() for buffer in self.parts.model.buffers()],
        }

    def _draw_again(self, before: Mapping[str, Any]) -> None:
        set_rng_state(self.parts.hardware.device, before["rng"])
        self.generator.set_state(before["generator"])
        self.parts.combiner.load_state_dict(copy.deepcopy(before["combiner"]))
        for buffer, old in zip(self.parts.model.buffers(), before["buffers"], strict=True):
            buffer.copy_(old)

    def _losses(
        self, batches: list[MicroBatch], counts: Mapping[str, int], engine: GradientEngine | None
    ) -> dict[str, Tensor]:
        """The step's mean loss by task, weighted; sends each micro-batch's share backward where there is an engine."""
        losses: dict[str, Tensor] = {}
        for batch in batches:
            watched = nullcontext() if engine is None else engine.watch(batch.ranges)
            with watched, self.parts.hardware.autocast():
                sums = self.parts.model.losses(batch, self.parts.model(batch))
            shares = {n: total * (self.parts.weight(n) / max(1, counts[n])) for n, total in sums.items()}
            if engine is not None:
                engine.backward(shares)
            for name, share in shares.items():
                losses[name] = losses[name] + share.detach() if name in losses else share.detach()
        return losses

    def _end_epoch(self, start: float) -> EpochDone:
        at, parts = self.position, self.parts
        scores = evaluate(parts.model, parts.tasks, parts.dev, parts.hardware)
        selected = scores.pick(self.config.train.select_on)
        is_best = exceeds(selected, at.best)
        if is_best:
            at.best, at.best_epoch = selected, at.epoch
        if exceeds(selected, at.gained, self.config.train.min_gain):
            at.gained, at.bad_epochs = selected, 0
        elif not self.resting:  # or a run could end before its encoder ever trained
            at.bad_epochs += 1
        some = self._some_training_rows()
        train_scores = evaluate(parts.model, parts.tasks, some, parts.hardware) if some else None
        means = {name: total / count for name, (total, count) in at.loss_sums.items()}
        losses = {name: means[name] for name in parts.train if name in means}
        coverage = parts.plan.coverage(parts.train, at.epoch, at.step)
        seconds = time.perf_counter() - start
        event = EpochDone(
            at.epoch, at.done, losses, scores, selected, is_best, at.rows, seconds, coverage, train_scores
        )
        at.epoch += 1
        at.step, at.rows, at.loss_sums = 0, 0, {}
        train = self.config.train
        if at.epoch >= train.epochs:
            at.ended = "epochs"
        elif at.done >= self.total:
            at.ended = "max_steps"
        elif train.patience and at.bad_epochs >= train.patience:
            at.ended = "patience"
        return event

    def _some_training_rows(self) -> dict[str, TaskRows]:
        """The labelled training rows that are scored after every epoch: `train.score_train` of each task at most."""
        train, found = self.config.train, {}
        for name, rows in self.parts.train.items() if train.score_train else ():
            labelled = np.flatnonzero([example.label is not None for example in rows.examples])
            order = draw_rows(len(labelled), len(labelled), generator(train.seed, "score_train", name))
            chosen = np.sort(labelled[order[: train.score_train]])
            if len(chosen):
                found[name] = rows.take(chosen)
        return found

    # ------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All that an exact resume needs beside the weights: moments by parameter name, position, generators."""
        names = {id(p): name for name, p in self.parts.model.named_parameters()}
        moments = {names[id(p)]: dict(state) for p, state in self.optimizer.state.items()}
        return {
            "position": asdict(self.position),
            "moments": moments,
            "combiner": self._combiner_state(),
            "generator": self.generator.get_state(),
            "rng": rng_state(self.parts.hardware.device),
            "total": self.total,
        }

    def _combiner_state(self) -> dict[str, Any]:
        """Raises PluginError where a checkpoint could not hold it."""
        combiner, found = self.parts.combiner, self.parts.combiner.state_dict()
        odd = unsaved(found) if isinstance(found, Mapping) else found
        if odd is not None or found is None:
            expected = "a mapping of tensors, numbers, texts, lists and mappings"
            raise plugins.wrong(combiner, "state_dict", expected, type(odd).__name__)
        return dict(found)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave: the run goes on bit for bit."""
        self.position = position_of(state)
        self._rest_or_train()
        self._load_all_moments(state["moments"])
        self.parts.combiner.load_state_dict(state["combiner"])
        self.generator.set_state(state["generator"])
        set_rng_state(self.parts.hardware.device, state["rng"])

    def turn_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from the run's own epoch end, under settings that change there: moments, epoch, the fraction of the
        schedule and what early stopping remembers are taken over; combiner state and generators start fresh, the latter
        seeded by the epoch. A turned state that is turned again stays the same."""
        old, seed = position_of(state), self.config.train.seed
        done = self._done_before(old.epoch, Progress(old.done, int(state["total"])))
        self.position = replace(old, done=min(done, self.total - 1))
        self._rest_or_train()
        self._load_all_moments(state["moments"])
        self.generator = generator(seed, "combiner", old.epoch)
        torch.manual_seed(generator(seed, "turn", old.epoch).initial_seed())

    def _load_all_moments(self, moments: Mapping[str, Mapping[str, Tensor]]) -> None:
        if lost := set(moments) - self.load_moments(moments):
            raise CheckpointError(f"the optimizer's state does not fit the model: {', '.join(sorted(lost)[:5])}")

    def load_moments(self, moments: Mapping[str, Mapping[str, Tensor]]) -> set[str]:
        """Optimizer moments by parameter name, where the shapes agree. Returns the names that found their place."""
        loaded, learning = set(), {p for group in self.optimizer.param_groups for p in group["params"]}
        for name, p in self.parts.model.named_parameters():
            state = moments.get(name)
            if p in learning and state and all(t.dim() == 0 or t.shape == p.shape for t in state.values()):
                self.optimizer.state[p] = {k: v.to(p.device).clone() for k, v in state.items()}
                loaded.add(name)
        return loaded

    def fork_state(self, state: Mapping[str, Any], fresh: Sequence[str] = ()) -> None:
        """Goes on from another run's epoch end under this run's settings: moments, epoch and schedule fraction are
        taken over; generators, combiner state and what early stopping remembers start fresh.

        fresh: what `load_matching` left fresh, and so has no moments to take over.
        Raises ConfigError where this run has no step left after the checkpoint's epoch.
        """
        old, train = Position(**state["position"]), self.config.train
        done = self._done_before(old.epoch, Progress(old.done, int(state["total"])))
        if old.epoch >= train.epochs or done >= self.total:
            raise ConfigError(
                f"the checkpoint stands after epoch {old.epoch}, and a run of {train.epochs} epochs and {self.total} "
                "steps has nothing left to train; give more --epochs or --max-steps"
            )
        self.position = Position(epoch=old.epoch, done=done)
        self._rest_or_train()
        others = tuple(f"{part.replace('head ', 'heads.')}." for part in fresh)  # their parameters' names begin so
        self.load_moments({name: moment for name, moment in state["moments"].items() if not name.startswith(others)})

    def _done_before(self, epoch: int, progress: Progress) -> int:
        """The steps that these settings would have made until an epoch; with `max_steps`, those of equal progress."""
        if self.config.train.max_steps is None:
            return sum(self.parts.plan.step_count(self.parts.train, number) for number in range(epoch))
        return round(progress.fraction * self.total)


def position_of(state: Mapping[str, Any]) -> Position:
    """The position that `state_dict` holds."""
    position = state["position"]
    return Position(**{"gained": position["best"], **position})  # a state from before `min_gain`


@contextmanager
def unmoved(model: nn.Module) -> Iterator[None]:
    """Leaves buffers, such as a batch norm's statistics, as they were: a forward that is no step moves nothing."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, old in zip(model.buffers(), before, strict=True):
            buffer.copy_(old)


def label_counts(batches: list[MicroBatch]) -> dict[str, int]:
    """Labelled items of a step's present tasks, over all its micro-batches."""
    counts: dict[str, int] = {}
    for batch in batches:
        for name, part in batch.slices.items():
            counts[name] = counts.get(name, 0) + part.targets.count
    return counts
