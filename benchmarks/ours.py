"""The mtk side: trainings that are stepped one by one, with real tokens counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from harness import synchronise
from plain import source

from mtk import session
from mtk.settings import configure
from mtk.training import Event, StepDone, Training


def start(spec: dict[str, Any], tasks: Sequence[str], **flat: Any) -> Training:
    """A training with a side's settings that no epoch count, patience or step limit will end."""
    settings = source(spec["data"]) | {key: spec[key] for key in ("threads", "device", "encoder")}
    return session.start(configure(tasks=list(tasks), epochs=200, patience=0, **{**settings, **flat}), None).training


class Stepper:
    """Takes a training forward step by step. Evaluations between epochs are not in the times."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.device = training.parts.hardware.device
        self.events: Iterator[Event] = training.run()
        self.done: list[StepDone] = []

    def step(self) -> float:
        """One step; seconds, with the device at rest before and after."""
        while True:
            synchronise(self.device)
            begin = time.perf_counter()
            event = next(self.events)
            if isinstance(event, StepDone):
                synchronise(self.device)
                self.done.append(event)
                return time.perf_counter() - begin

    def run(self, steps: int) -> float:
        """Seconds of several steps on end; the device is waited for after the last one only."""
        synchronise(self.device)
        seconds, left = 0.0, steps
        while left:
            begin = time.perf_counter()
            event = next(self.events)
            if isinstance(event, StepDone):
                self.done.append(event)
                left -= 1
                if not left:
                    synchronise(self.device)
                seconds += time.perf_counter() - begin
        return seconds

    def rows(self, step: StepDone) -> dict[str, list[int]]:
        """The numbers of the step's rows, by task."""
        parts = self.training.parts
        chosen = parts.plan.steps(parts.train, step.epoch)[step.step - 1]
        return {task: rows.tolist() for task, rows in chosen.rows.items()}

    def tokens(self, steps: Sequence[StepDone]) -> int:
        """Real tokens of these steps: padding is not counted."""
        train, total = self.training.parts.train, 0
        plans = {step.epoch: self.training.parts.plan.steps(train, step.epoch) for step in steps}
        for step in steps:
            for task, rows in plans[step.epoch][step.step - 1].rows.items():
                total += sum(int(part.lengths[rows].sum()) for part in train[task].parts)
        return total

    def shared_bytes(self) -> int:
        """P: the bytes of the shared parameters in float32."""
        return 4 * sum(p.numel() for p in self.training.parts.model.shared_parameters())
