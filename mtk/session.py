"""A training run with its folder: starts or resumes it, records every event, saves every epoch."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mtk.assembly import Parts, assemble, encoder_dropout, plans_before
from mtk.checkpoint import (
    load_encoder,
    load_heads,
    load_matching,
    load_training,
    replace_folder,
    save_model,
    save_training,
)
from mtk.config import Choice, RunConfig, differences, make_config, merge, spell_out, spell_out_changes
from mtk.device import Hardware, available, choose
from mtk.errors import CheckpointError, ConfigError, MTKError
from mtk.faults import one_line
from mtk.interfaces import Task
from mtk.run import (
    RunFolder,
    check_plugins,
    data_facts,
    file_difference,
    other_versions,
    provenance,
    split_files,
    this_process,
    version_difference,
)
from mtk.training import EpochDone, Event, Finished, StepDone, Training, position_of


class Session:
    """A run that is being trained. Iterate `run()`; call `stop()` to end after the current step, resumably.

    config: with all changes, also those behind us; `parts.config` is what is in force. Where a change is due, the run
    *turns*: `training` and `parts` are built anew from its own checkpoint.
    """

    def __init__(
        self, training: Training, fresh: list[str], folder: RunFolder | None = None, config: RunConfig | None = None
    ) -> None:
        self.training = training
        self.folder = folder
        self.config = config or training.config
        self.fresh = fresh  # what a warm start could not fill
        self._seconds = 0.0
        self._stop = False

    @property
    def parts(self) -> Parts:
        return self.training.parts

    def stop(self) -> None:
        self._stop = True  # first: a turn may be replacing the loop
        self.training.stop_requested = True

    def run(self) -> Iterator[Event]:
        """Trains to the end, saving as it goes. Raises MTKError; what was saved before then stands."""
        folder = self.folder
        assert folder is not None, "a dry session has no folder"
        start = time.perf_counter()
        left = False
        try:
            for event in self._events(folder):
                folder.record(event)
                if not isinstance(event, StepDone):
                    folder.flush()
                if isinstance(event, EpochDone):
                    if event.is_best:  # before last/, so that no resume can know of a best that was not saved
                        replace_folder(folder.best, lambda new: self._save_model(new))
                        folder.update(best_epoch=event.epoch + 1, scores=event.scores.to_dict())
                    self._save_last()
                elif isinstance(event, Finished):
                    if event.reason == "stopped":
                        self._save_last()
                    folder.close()
                    status = "stopped" if event.reason == "stopped" else "finished"
                    folder.update(status=status, ended=event.reason, seconds=self._clock(start))
                    left = True
                yield event
        except BaseException:  # also the consumer's, who went away
            with contextlib.suppress(MTKError):
                folder.close()
            if not left:
                with contextlib.suppress(MTKError):
                    folder.update(status="failed", seconds=self._clock(start))
            raise

    def _events(self, folder: RunFolder) -> Iterator[Event]:
        """What happens; after an epoch that was saved and has a change behind it, under the new settings."""
        while True:
            for event in self.training.run():
                yield event
                at = self.training.position
                going_on = at.ended is None and not self._stop
                if going_on and isinstance(event, EpochDone) and is_due(self.config, at.epoch):
                    break
            else:
                return
            self.training = load_last(folder, self.config, self.parts.hardware, load_training(folder.last))
            if self._stop:
                self.training.stop_requested = True

    def _clock(self, start: float) -> float:
        return round(self._seconds + time.perf_counter() - start, 1)

    def _save_model(self, folder: Path) -> None:
        description = {
            "tasks": {
                name: {
                    "kind": choice.name,
                    **describe_task(self.parts.tasks[name]),
                }
                for name, choice in self.parts.config.tasks.items()
            }
        }
        save_model(folder, self.parts.model, description)

    def _save_last(self) -> None:
        assert self.folder is not None
        state = self.training.state_dict()

        def write(new: Path) -> None:
            self._save_model(new)
            save_training(new, state)

        replace_folder(self.folder.last, write)


def describe_task(task: Task) -> dict[str, Any]:
    """What a reader of model.json wants to know of a task: its text columns, and its label names where it has them."""
    names = getattr(task.target, "names", None)
    return {"columns": list(task.columns), **({} if names is None else {"labels": list(names)})}


def start(config: RunConfig, out: Path | None, command: str = "") -> Session:
    """A new run; without `out` a dry one, which builds everything and writes nothing. Raises MTKError children."""
    if out is not None:
        RunFolder.check_out(out)
    session = Session(*_new_training(config, choose(config.train)))
    session.folder = None if out is None else _new_folder(out, session.parts, command)
    return session


def _new_training(config: RunConfig, hardware: Hardware) -> tuple[Training, list[str]]:
    """A run at its first step, and what a warm start could not fill."""
    init, config = _init_folder(config)
    parts = assemble(config, hardware, encoder=None if init is None else load_encoder(init, encoder_dropout(config)))
    fresh = [] if init is None else load_matching(init, parts.model)
    return Training(parts), fresh


def _new_folder(out: Path, parts: Parts, command: str, **facts: Any) -> RunFolder:
    config = parts.config
    return RunFolder.create(
        out,
        config,
        status="running",
        command=command,
        seed=config.train.seed,
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        process=this_process(),
        hardware=parts.hardware.to_dict(),
        select_on=config.train.select_on,
        leaks=leak_facts(parts),
        **facts,
        **provenance(config, parts.tasks),
    )


def leak_facts(parts: Parts) -> list[dict[str, Any]]:
    """How many of which task's dev rows another task trains on, as run.json holds it."""
    return [
        {"task": one.task, "dev_rows": one.rows, "leaked": len(one.ids), "trained_by": one.other_task}
        for one in parts.leaks
    ]


def resume(path: Path, given: dict[str, Any] | None = None) -> Session:
    """Goes on with a run exactly where its last checkpoint left it. Raises MTKError children.

    given: settings that the user gave beside `--resume`; any that differ from the run's own are refused.
    """
    folder = RunFolder.open(path)
    facts = folder.facts
    check_plugins(path, facts)
    if other := version_difference(facts):
        warnings.warn(f"{path}: the run {other}", stacklevel=2)
    config = with_data_of(folder.config, given := dict(given or {}))
    refuse_others(config, given)
    state = load_training(folder.last) if folder.last.exists() else None
    if state and (ended := state["position"].get("ended")):
        folder.update(status="finished", ended=ended)  # a run that was killed just before it could say so
        raise ConfigError(
            f"{path}: the run is finished ({ended}); for more training start a new run with --init {path}"
        )
    try:
        hardware = Hardware(**facts["hardware"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path / 'run.json'}: damaged, it does not say where the run computed") from error
    if not available(hardware.device):
        raise CheckpointError(
            f"{path}: the run was on {hardware.device}, which is not here; start again with --init {path}"
        )
    if state is None:  # it was cut off before its first checkpoint: the same run from its first step
        training, fresh = _new_training(config, hardware.apply())
        check_data(path, facts, data_facts(training.parts.tasks))
    else:
        training, fresh = load_last(folder, config, hardware.apply(), state), []
    session = Session(training, fresh, folder, config)
    session._seconds = float(facts.get("seconds", 0.0))
    folder.rewind(session.training.position)
    versions = {"resumed_with": others} if (others := other_versions(facts)) else {}
    folder.update(status="running", process=this_process(), **versions)
    return session


def is_due(config: RunConfig, epoch: int) -> bool:
    """Whether settings change at the start of this epoch."""
    return any(change.after == epoch for change in config.changes)


def load_last(folder: RunFolder, config: RunConfig, hardware: Hardware, state: Mapping[str, Any]) -> Training:
    """A run as its last checkpoint left it; where that stands before the first step of an epoch with a change, turned.

    Raises MTKError children.
    """
    with _reading_state(folder):
        at = position_of(state)
    turning = not at.step and is_due(config, at.epoch)
    now = config.at(at.epoch)
    encoder = load_encoder(folder.last, encoder_dropout(now) if turning else None)
    parts = assemble(now, hardware, encoder=encoder)
    load_heads(folder.last, parts.model)
    check_data(folder.path, folder.facts, data_facts(parts.tasks))
    since = max((change.after for change in config.changes if change.after <= at.epoch), default=0)
    parts.plan = replace(parts.plan, earlier=plans_before(config, since, list(parts.train)))
    training = Training(parts)
    with _reading_state(folder):
        if turning:
            training.turn_state(state)
        else:
            training.load_state_dict(state)
    return training


@contextlib.contextmanager
def _reading_state(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder.last}: the training state is damaged or another version's ({one_line(repr(error))}); start a new "
            f"run with --init {folder.path}"
        ) from error


def with_data_of(config: RunConfig, given: dict[str, Any]) -> RunConfig:
    """The run's configuration with the data folder taken out of `given`: the same files may have moved, and their
    hashes are checked."""
    data = dict(given.pop("data", {}))
    folder, sample = data.pop("folder", None), data.pop("sample", None)
    if folder is not None and config.data.folder is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"folder": folder})})
    elif folder is not None:
        data["folder"] = folder
    if sample is not None and (sample == "always") != (config.data.sample == "always"):
        data["sample"] = sample
    if data:
        given["data"] = data
    return config


def fork(checkpoint: Path, config: RunConfig, out: Path, command: str = "") -> Session:
    """A new run with other settings from another run's checkpoint at an epoch's end: weights and moments where shapes
    agree, the epoch and the fraction of the schedule; fresh generators."""
    state = load_training(checkpoint)
    if state["position"]["step"]:
        raise CheckpointError(
            f"{checkpoint}: a fork starts at an epoch's end, but this checkpoint lies inside an epoch"
        )
    RunFolder.check_out(out)
    config = config.at(int(state["position"]["epoch"]))
    parts = assemble(config, choose(config.train), encoder=load_encoder(checkpoint, encoder_dropout(config)))
    fresh = load_matching(checkpoint, parts.model)
    session = Session(Training(parts), fresh)
    session.training.fork_state(state, session.fresh)
    session.folder = _new_folder(out, parts, command, forked_from=str(checkpoint))
    return session


def refuse_others(config: RunConfig, given: dict[str, Any]) -> None:
    """Raises ConfigError that names the first setting that differs from the run's own."""
    if "tasks" in given and set(given["tasks"]) != set(config.tasks):
        raise ConfigError(
            f"--resume with changed tasks: the run has {', '.join(config.tasks)}, found {', '.join(given['tasks'])}; "
            "resume without --task, or start a new run with --init RUN"
        )
    asked = make_config(merge(config.to_dict(), given))
    for key, before, after in differences(_spelled_out(config), _spelled_out(asked)):
        raise ConfigError(
            f"--resume goes on exactly: {key} is {before!r} in the run, found {after!r}; resume without it, or start a "
            "new run with --init RUN"
        )


def _spelled_out(config: RunConfig) -> dict[str, Any]:
    """The configuration's tree, with changes by place."""
    return {**config.to_dict(), "changes": dict(enumerate(one.model_dump() for one in spell_out_changes(config)))}


def check_data(path: Path, facts: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to resume on other data. Raises ConfigError that names task, split and files."""
    for name, recorded in facts.get("data", {}).items():
        for split in ("train", "dev"):
            before, after = split_files(recorded, split), split_files(now.get(name, {}), split)
            if before != after:
                raise ConfigError(
                    f"{path}: the {split} rows of task '{name}' are not those the run was trained on "
                    f"({file_difference(before, after)}); give the same --data, or start anew"
                )


def _init_folder(config: RunConfig) -> tuple[Path | None, RunConfig]:
    """The checkpoint that a warm start takes its weights from, and the configuration with that run's encoder."""
    if config.init is None:
        return None, config
    run = RunFolder.open(Path(config.init))
    own = run.config.encoder
    if "encoder" in config.model_fields_set and _kind(config.encoder) != _kind(own):
        raise ConfigError(
            f"--init {run.path}: that run brings its own encoder, {own.name}, found --encoder {config.encoder.name}; "
            "leave out --encoder, or start without --init"
        )
    if "encoder" not in config.model_fields_set:
        kept = {k: v for k, v in own.options.items() if k != "dropout" or config.model.encoder_dropout is None}
        config = config.model_copy(update={"encoder": Choice(name=own.name, **kept)})
    return run.best, config


def _kind(encoder: Choice) -> tuple[str, dict[str, str]]:
    options = spell_out("encoder", encoder).options
    return encoder.name, {key: str(value) for key, value in options.items() if key != "dropout"}
