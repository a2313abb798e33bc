"""From a configuration to the parts of a run: tasks, rows, encoder, heads, combiner, schedule and mixer."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mtk import plugins
from mtk.config import Choice, RunConfig, TaskConfig, spell_out, spell_out_changes
from mtk.data import EpochPlan, TaskRows, draw_rows, generator, tokenise
from mtk.datacheck import Leak, leaks_between
from mtk.device import Hardware
from mtk.errors import ConfigError, DataError, MTKError, did_you_mean
from mtk.interfaces import (
    Encoder,
    Example,
    GradientCombiner,
    Head,
    Mixer,
    Prediction,
    Progress,
    Scheduler,
    Task,
    TaskContext,
)
from mtk.model import MultitaskModel, Projection
from mtk.options import check_options
from mtk.rows import checked_rows, examples_of


@dataclass
class Parts:
    """What a run is made of. `train` holds the trained tasks' rows, `dev` every task's."""

    config: RunConfig
    hardware: Hardware
    tasks: dict[str, Task]
    model: MultitaskModel
    train: dict[str, TaskRows]
    dev: dict[str, TaskRows]
    combiner: GradientCombiner
    scheduler: Scheduler
    plan: EpochPlan

    def weight(self, task: str) -> float:
        return loss_weight(self.config, self.tasks[task])

    @cached_property
    def leaks(self) -> list[Leak]:
        """The dev rows whose texts another task is trained on."""
        train, dev = ({name: own.examples for name, own in part.items()} for part in (self.train, self.dev))
        return leaks_between(train, dev)


def assemble(config: RunConfig, hardware: Hardware, encoder: Encoder | None = None) -> Parts:
    """Builds everything a run needs, cheap and fallible things first. Raises MTKError children.

    encoder: an encoder already loaded (a resumed or warm-started run's); else the configuration's is built.
    """
    torch.manual_seed(config.train.seed)
    combiner, scheduler, mixer = build_methods(config)
    tasks = build_tasks(config)
    trained = [name for name, task in tasks.items() if is_trained(config, task)]
    if not trained:
        raise ConfigError("no task is trained: expected at least one task with trained = true")
    if config.train.step == "one" and config.train.diagnose == "layers":
        raise ConfigError(
            "--diagnose layers with --step one: a step of one task has no gradients to compare; leave out one of them"
        )
    examples = {name: examples_of(tasks[name], "train") for name in trained}
    dev = {name: examples_of(task, "dev") for name, task in tasks.items()}
    check_dev(tasks, dev)
    check_select_on(config, tasks, dev)
    encoder = encoder or build_encoder(config)
    freeze(config, encoder)
    projection = build_projection(config, encoder.hidden_size)
    heads = build_heads(config, tasks, head_inputs(config, encoder.hidden_size))
    check_changes(config, tasks, encoder)
    examples = {name: _limited(config, tasks[name], rows) for name, rows in examples.items()}
    for number, choice in enumerate(config.augment):
        examples = _augmented(config.train.seed, number, choice, tasks, examples)
    for name, rows in examples.items():
        heads[name].target.fit([row.label for row in rows if row.label is not None])
    length = config.data.max_length
    train_rows = {n: tokenise(encoder, heads[n], tasks[n].paired, rows, length) for n, rows in examples.items()}
    dev_rows = {n: tokenise(encoder, heads[n], tasks[n].paired, rows, length) for n, rows in dev.items()}
    plan = make_plan(config, mixer, trained)
    model = MultitaskModel(encoder, heads, projection).to(hardware.torch_device)
    config = complete(config, tasks)
    return Parts(config, hardware, tasks, model, train_rows, dev_rows, combiner, scheduler, plan)


def build_methods(config: RunConfig) -> tuple[GradientCombiner, Scheduler, Mixer]:
    """Raises MTKError children; ConfigError where a step has nothing that the combiner could combine."""
    combiner: GradientCombiner = plugins.build("combiner", config.combiner.name, **config.combiner.options)
    scheduler: Scheduler = plugins.build("scheduler", config.scheduler.name, **config.scheduler.options)
    mixer: Mixer = plugins.build("mixer", config.mixer.name, **config.mixer.options)
    for step in range(3):
        factor: Any = scheduler.factor(Progress(step, 2))
        if not isinstance(factor, int | float) or not 0 <= factor < math.inf:
            raise plugins.wrong(scheduler, f"factor after {step} of 2 steps", "a number from 0 up", factor)
    if config.train.step == "one" and combiner.needs in ("gram", "gradients"):
        raise ConfigError(
            f"combiner '{config.combiner.name}' with --step one: a step holds one task, so there is nothing to "
            "combine; use --step all or --combiner sum"
        )
    return combiner, scheduler, mixer


def make_plan(config: RunConfig, mixer: Mixer, trained: Sequence[str]) -> EpochPlan:
    sizes, train = {name: config.batch_size(name) for name in trained}, config.train
    return EpochPlan(mixer, sizes, train.step, train.epochs, train.seed)


def plans_before(config: RunConfig, epoch: int, trained: Sequence[str]) -> list[EpochPlan]:
    """The plan of each epoch before `epoch`, under the settings that were in force in it."""
    return [make_plan(one, build_methods(one)[2], trained) for one in map(config.at, range(epoch))]


def check_changes(config: RunConfig, tasks: Mapping[str, Task], encoder: Encoder) -> None:
    """Refuses before anything is trained what a plugin would refuse in the middle of the run. Raises MTKError."""
    for place, change in enumerate(config.changes):
        then = config.at(change.after)
        try:
            with torch.random.fork_rng():
                build_methods(then)
                build_heads(then, tasks, head_inputs(then, encoder.hidden_size))
            if (dropout := encoder_dropout(then)) != encoder_dropout(config):
                name = encoder.spec[0]  # as checkpoints are loaded
                known = {one.name: one for one in plugins.options("encoder", name) if not one.required}
                found = check_options(known, {"dropout": dropout}, f"encoder '{name}'")["dropout"]
                if found is not None and not 0 <= found < 1:
                    raise ConfigError(
                        f"encoder.dropout: expected a number from 0 up to, not including, 1, found {found}"
                    )
        except MTKError as error:
            raise type(error)(f"changes[{place}] (after epoch {change.after}): {error}") from error


def complete(config: RunConfig, tasks: Mapping[str, Task]) -> RunConfig:
    """The configuration with all spelled out that another default, place or environment could change: heads, plugin
    options (dropouts apart, which `model` sets) and where the rows were found."""
    heads = {name: config.tasks[name].head or Choice(name=task.default_head) for name, task in tasks.items()}
    own = {name: spell_out("task", _spelt(config.tasks[name], task)) for name, task in tasks.items()}
    update: dict[str, Any] = {
        "tasks": {n: own[n].model_copy(update={"head": spell_out("head", heads[n])}) for n in tasks},
        "augment": [spell_out("augmentation", choice) for choice in config.augment],
        "changes": spell_out_changes(config),
        "data": config.data.model_copy(update=_found_data(config, tasks)),
    }
    for kind in ("encoder", "combiner", "scheduler", "mixer"):
        update[kind] = spell_out(kind, getattr(config, kind))
    return config.model_copy(update=update)


def _spelt(choice: TaskConfig, task: Task) -> TaskConfig:
    """The choice with what the task found out about itself."""
    if task.spec is None:
        return choice
    kind, options = task.spec
    fields = choice.model_dump(exclude_none=True, by_alias=True, exclude=set(choice.options))
    return TaskConfig.model_validate({**fields, "kind": kind, **options})


def _found_data(config: RunConfig, tasks: Mapping[str, Task]) -> dict[str, Any]:
    sources = [task.source for task in tasks.values()]
    if all(source.sample for source in sources):
        return {"sample": "always"}
    folders = {file.resolve().parent for source in sources for file in source.files.values()}
    if config.data.folder is None and len(folders) == 1 and not any(source.sample for source in sources):
        return {"sample": "never", "folder": str(folders.pop())}
    return {}


def is_trained(config: RunConfig, task: Task) -> bool:
    chosen = config.tasks[task.name].trained
    return task.trained if chosen is None else chosen


def loss_weight(config: RunConfig, task: Task) -> float:
    """What the task's loss counts beside the others'."""
    chosen = config.tasks[task.name].weight
    return task.weight if chosen is None else chosen


def build_tasks(config: RunConfig) -> dict[str, Task]:
    data = Path(config.data.folder) if config.data.folder else None
    return {
        name: plugins.build("task", choice.name, TaskContext(name, data, config.data.sample), **choice.options)
        for name, choice in config.tasks.items()
    }


def build_encoder(config: RunConfig) -> Encoder:
    options = dict(config.encoder.options)
    if config.model.encoder_dropout is not None:
        options.setdefault("dropout", config.model.encoder_dropout)
    encoder: Encoder = plugins.build("encoder", config.encoder.name, **options)
    match getattr(encoder, "spec", None):
        case (str(), Mapping()):
            return encoder
        case found:
            raise plugins.wrong(encoder, "spec", "a registered name and a mapping of options", repr(found))


def encoder_dropout(config: RunConfig) -> Any:
    """The encoder dropout that this run asks for; None keeps the checkpoint's."""
    return config.encoder.options.get("dropout", config.model.encoder_dropout)


def head_inputs(config: RunConfig, hidden_size: int) -> int:
    """The size of the features that heads read."""
    units = config.model.projection
    return units if isinstance(units, int) else hidden_size


def build_projection(config: RunConfig, hidden_size: int) -> Projection | None:
    """The linear layer between encoder and heads, where the configuration has one; its weights have their own seed."""
    if config.model.projection is None:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(generator(config.train.seed, "projection").initial_seed())
        return Projection(hidden_size, head_inputs(config, hidden_size), config.model.dropout)


def freeze(config: RunConfig, encoder: Encoder) -> None:
    """Freezes what `model.freeze` names. Raises ConfigError where the encoder has no such layer."""
    wanted = config.model.freeze
    if wanted is None:
        return
    if isinstance(wanted, int) and wanted > encoder.layer_count:
        raise ConfigError(
            f"--freeze {wanted}: expected at most the encoder's {encoder.layer_count} layers, or encoder for all of it"
        )
    depths = encoder.depths()
    for name, parameter in encoder.named_parameters():
        if wanted == "encoder" or depths[name] <= (0 if wanted == "embeddings" else wanted):
            parameter.requires_grad_(False)


def build_heads(config: RunConfig, tasks: Mapping[str, Task], hidden_size: int) -> dict[str, Head]:
    """A head a task, each initialised from its own seed, so that adding a task changes no other head."""
    heads = {}
    for name, task in tasks.items():
        if hasattr(torch.nn.ModuleDict(), name):
            raise ConfigError(f"task '{name}': PyTorch keeps this name for itself; name the task apart: my-{name}")
        choice = config.tasks[name].head or Choice(name=task.default_head)
        options = dict(choice.options)
        if "dropout" in {option.name for option in plugins.options("head", choice.name)}:
            options.setdefault("dropout", config.model.dropout)
        with torch.random.fork_rng():
            torch.manual_seed(generator(config.train.seed, "head", name).initial_seed())
            target = copy.deepcopy(task.target) if isinstance(task.target, torch.nn.Module) else task.target
            head: Head = plugins.build("head", choice.name, hidden_size, target, **options)
        if head.pairs_only and not task.paired:
            raise ConfigError(
                f"head '{choice.name}' compares two texts, but task '{name}' has one; use --head {name}=linear"
            )
        heads[name] = head
    return heads


def _limited(config: RunConfig, task: Task, rows: Sequence[Example]) -> Sequence[Example]:
    """The training rows, or `max_train_rows` of them drawn at random."""
    if not rows:
        raise DataError(f"task '{task.name}': its train split has no rows ({task.source.origin})")
    seed, limit = config.train.seed, config.data.max_train_rows
    if limit is not None and limit < len(rows):
        keep = sorted(draw_rows(len(rows), limit, generator(seed, "max_train_rows", task.name)).tolist())
        rows = [rows[i] for i in keep]
    return rows


def _augmented(
    seed: int, number: int, choice: Choice, tasks: Mapping[str, Task], examples: Mapping[str, Sequence[Example]]
) -> dict[str, Sequence[Example]]:
    """Every task's rows after one augmentation. Raises ConfigError where it serves none of them."""
    out = {}
    for name, rows in examples.items():
        augment = plugins.build("augmentation", choice.name, **choice.options)
        given = augment(tasks[name], rows, generator(seed, "augment", number, name))
        out[name] = checked_rows(given, tasks[name], augment, f"rows of task '{name}'")
        if not out[name]:
            raise DataError(f"task '{name}': augmentation '{choice.name}' left none of its training rows")
    if all(list(out[name]) == list(rows) for name, rows in examples.items()):
        raise ConfigError(
            f"augmentation '{choice.name}' changed no training row of {', '.join(examples)}; leave it out "
            f"(--set augment=[]), or see which tasks it serves: mtk plugins show {choice.name}"
        )
    return out


def check_dev(tasks: Mapping[str, Task], dev: Mapping[str, Sequence[Example]]) -> None:
    """Refuses a task that no epoch could score, before anything is trained."""
    for name, rows in dev.items():
        if all(row.label is None for row in rows):
            raise DataError(
                f"task '{name}': none of its {len(rows)} dev rows has a label, so there is nothing to score "
                f"({tasks[name].source.origin})"
            )


def check_select_on(config: RunConfig, tasks: Mapping[str, Task], dev: Mapping[str, Sequence[Example]]) -> None:
    """Refuses a `select_on` that no evaluation will ever give, before anything is trained."""
    wanted = config.train.select_on
    if wanted == "aggregate":
        return
    name, _, metric = wanted.partition(".")
    if name not in tasks:
        raise ConfigError(f"--select-on {wanted}: no such task{did_you_mean(name, ['aggregate', *tasks])}")
    labels: list[Any] = [row.label for row in dev[name] if row.label is not None][:64]
    known = tasks[name].metrics([Prediction(label, label, 1.0) for label in labels], labels)
    if metric and metric not in known:
        raise ConfigError(f"--select-on {wanted}: task '{name}' has no such metric{did_you_mean(metric, known)}")
