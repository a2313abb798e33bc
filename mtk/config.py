"""One validated run configuration: a TOML file, command-line options and Python arguments make the same object."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mtk import plugins
from mtk.changes import CAN_CHANGE, Change, changeable
from mtk.errors import ConfigError, PluginError, did_you_mean
from mtk.faults import one_line
from mtk.plugins import parse_spec

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
DEFAULTS = {"encoder": "minilm", "combiner": "sum", "scheduler": "linear", "mixer": "capped"}
CHOICES = ("encoder", "combiner", "scheduler", "mixer", "head")  # keys whose text is NAME:OPTIONS


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool(cls, value: Any) -> Any:
        if isinstance(value, bool):  # pydantic would take true for 1
            raise PydanticCustomError("no_bool", "Expected a value, not true or false")
        return value


class Choice(BaseModel):
    """A plugin's name and its options: `"capped:rows=500"`, or a table with `name` and the options beside it."""

    model_config = ConfigDict(extra="allow", populate_by_name=True, allow_inf_nan=False)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_spec(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        name, options = parse_spec(value)
        return {"name": name, **options}

    @model_validator(mode="after")
    def _writable(self) -> Self:
        """TOML has no None: an option that is None is the text that plugins read as None."""
        for key, value in (self.model_extra or {}).items():
            if value is None:
                (self.model_extra or {})[key] = "none"
        return self

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class TaskConfig(Choice):
    """One task of the run; keys that are none of these are options of the task plugin."""

    name: str = Field(default="", alias="kind")
    head: Choice | None = None
    weight: float | None = Field(default=None, ge=0)
    batch_size: int | None = Field(default=None, ge=1)
    trained: bool | None = None


class DataConfig(Section):
    folder: str | None = None
    max_length: int = Field(default=128, ge=8)
    max_train_rows: int | None = Field(default=None, ge=1)
    sample: Literal["never", "fallback", "always"] = "fallback"


class ModelConfig(Section):
    """projection: units of a linear layer between encoder and all heads; `hidden` for the encoder's own size.

    freeze: `embeddings`, `encoder`, or N for the embeddings and the first N layers. head_warmup: epochs at the start in
    which the encoder rests.
    """

    dropout: float = Field(default=0.1, ge=0, lt=1)
    encoder_dropout: float | None = Field(default=None, ge=0, lt=1)
    projection: Annotated[int, Field(ge=1)] | Literal["hidden"] | None = None
    freeze: Annotated[int, Field(ge=0)] | Literal["embeddings", "encoder"] | None = None
    head_warmup: int = Field(default=0, ge=0)

    @field_validator("projection", "freeze", mode="before")
    @classmethod
    def _word_or_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`none` takes a setting back: TOML has no None."""
        words = {"projection": ("hidden",), "freeze": ("embeddings", "encoder")}[str(info.field_name)]
        if isinstance(value, str) and value not in words:
            if value == "none":
                return None
            if not value.isdecimal():
                raise PydanticCustomError("word_or_number", f"Expected a whole number, {', '.join(words)} or none")
        return value


class OptimConfig(Section):
    """layer_decay: factor on the learning rate from each layer to the one below it. head_lr: that of the heads."""

    lr: float = Field(default=7e-5, gt=0)
    head_lr: float | None = Field(default=None, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_norm: float = Field(default=1.0, ge=0)


class TrainConfig(Section):
    """max_steps: of the optimizer; where settings change, the steps so far count as the same fraction of the new total.
    min_gain: what a score must rise by to count for `patience`; the best epoch is kept however small its gain.

    score_train: so many training rows of each task are scored after every epoch, without dropout.
    """

    epochs: int = Field(default=3, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=8, ge=1)
    accumulate: int = Field(default=1, ge=1)
    step: Literal["all", "one"] = "all"
    patience: int = Field(default=2, ge=0)
    min_gain: float = Field(default=0.0, ge=0)
    select_on: str = "aggregate"
    score_train: int = Field(default=0, ge=0)
    seed: int = Field(default=11711, ge=0, lt=2**63)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024)
    nonfinite: Literal["stop", "skip"] = "stop"
    diagnose: Literal["none", "whole", "layers"] = "whole"
    diagnose_every: int = Field(default=20, ge=1)


class RunConfig(Section):
    """Everything that decides a run. `init` is a finished run whose weights it starts from.

    changes: ascending; of equal `after`, the later one is laid on the earlier.
    """

    tasks: dict[str, TaskConfig]
    encoder: Choice = Field(default_factory=lambda: Choice(name=DEFAULTS["encoder"]))
    combiner: Choice = Field(default_factory=lambda: Choice(name=DEFAULTS["combiner"]))
    scheduler: Choice = Field(default_factory=lambda: Choice(name=DEFAULTS["scheduler"]))
    mixer: Choice = Field(default_factory=lambda: Choice(name=DEFAULTS["mixer"]))
    augment: list[Choice] = Field(default_factory=list)
    data: DataConfig = Field(default_factory=DataConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    init: str | None = None
    changes: list[Change] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _default_names(cls, tree: Any) -> Any:
        """`mixer = { rows = 500 }` sets an option of the default mixer."""
        if not isinstance(tree, Mapping):
            return tree
        named = {
            kind: {"name": name, **tree[kind]}
            for kind, name in DEFAULTS.items()
            if isinstance(tree.get(kind), Mapping) and "name" not in tree[kind]
        }
        return {**tree, **named}

    @field_validator("tasks")
    @classmethod
    def _tasks(cls, tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        if not tasks:
            raise ValueError("expected at least one task (--task NAME)")
        for name, task in tasks.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"expected a task name of lower-case letters, digits, - and _, found '{name}'")
            if name == "aggregate":
                raise ValueError("a task cannot be named 'aggregate': that is the mean of all; name it apart")
            task.name = task.name or name
        return tasks

    @model_validator(mode="after")
    def _combination(self) -> RunConfig:
        sizes = {name: self.batch_size(name) for name in self.tasks}
        for name, size in sizes.items():
            if size < self.train.accumulate:
                raise ValueError(
                    f"task '{name}': {size} rows a step cannot be split over {self.train.accumulate} parts"
                )
        return self

    @model_validator(mode="after")
    def _sound_changes(self) -> Self:
        """Every configuration that comes into force is one, and only what can change does."""
        tree, before = self._without_changes() if self.changes else {}, 0
        for place, change in enumerate(self.changes):
            try:
                if change.after < before:
                    raise ConfigError(f"expected ascending epochs, found {change.after} behind {before}")
                if change.after >= self.train.epochs:
                    raise ConfigError(
                        f"expected fewer than train.epochs ({self.train.epochs}); leave it out, or give more --epochs"
                    )
                tree, before = merge(tree, change.settings), change.after
                _check_change(change, self, RunConfig.model_validate(tree))
            except (ValidationError, ConfigError) as error:
                problem = _first_problem(error) if isinstance(error, ValidationError) else str(error)
                raise ValueError(f"changes[{place}] (after epoch {change.after}): {problem}") from error
        return self

    def at(self, epoch: int) -> RunConfig:
        """The configuration in force in an epoch (from 0), with the changes that are still to come."""
        later = [change for change in self.changes if change.after > epoch]
        if len(later) == len(self.changes):
            return self
        tree = self._without_changes()
        for change in self.changes[: -len(later) or None]:
            tree = merge(tree, change.settings)
        return RunConfig.model_validate(tree).model_copy(update={"changes": later})

    def batch_size(self, task: str) -> int:
        """Rows of the task per step."""
        return self.tasks[task].batch_size or self.train.batch_size

    def to_dict(self) -> dict[str, Any]:
        changes = {"changes": [change.model_dump() for change in self.changes]} if self.changes else {}
        return {**self._without_changes(), **changes}

    def _without_changes(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, by_alias=True, exclude={"changes"})

    def to_toml(self) -> str:
        """A file that makes an equal configuration. Raises ConfigError for an option that TOML has no form for."""
        try:
            return tomli_w.dumps(self.to_dict())
        except TypeError as error:
            raise ConfigError(f"an option cannot be written to config.toml: {error}; give numbers and texts") from error


AnyChoice = TypeVar("AnyChoice", bound=Choice)


def spell_out(kind: str, choice: AnyChoice) -> AnyChoice:
    """The choice with its plugin's defaults written out, where TOML can hold them."""
    try:
        known = plugins.options(kind, choice.name)
    except PluginError:
        if kind != "encoder":
            raise
        return choice  # a folder that is gone, of a run that goes on from its own checkpoint
    given = {known[0].name if key == "" and known else key: value for key, value in choice.options.items()}
    defaults = {
        option.name: option.default
        for option in known
        if not option.required
        and option.name not in ("dropout", *type(choice).model_fields)
        and isinstance(option.default, str | int | float)
    }
    fields = choice.model_dump(exclude_none=True, by_alias=True, exclude=set(choice.options))
    return type(choice).model_validate({**fields, **defaults, **given})


def spell_out_changes(config: RunConfig) -> list[Change]:
    """The changes, each plugin that one of them brings in spelled out."""
    out = []
    for change in config.changes:
        before, after = config.at(change.after - 1), config.at(change.after)
        brought: dict[str, Any] = {
            kind: spell_out(kind, getattr(after, kind)).model_dump()
            for kind in ("combiner", "mixer", "scheduler")
            if kind in change.settings and getattr(after, kind).name != getattr(before, kind).name
        }
        out.append(Change(after=change.after, settings={**change.settings, **brought}))
    return out


def _check_change(change: Change, run: RunConfig, changed: RunConfig) -> None:
    """Raises ConfigError for a task that is not in the run, and for a setting that cannot change, or not so."""
    for name in changed.tasks:
        if name not in run.tasks:
            raise ConfigError(f"tasks.{name}: no such task in this run{did_you_mean(name, run.tasks)}")
    for key, _ in change.leaves():
        if not changeable(key):
            raise ConfigError(f"{key} cannot change in the middle of a run; what can: {CAN_CHANGE}")
        if key == "model.encoder_dropout" and "dropout" in changed.encoder.options:
            raise ConfigError(f"{key}: the encoder's own dropout overrides it; change encoder.dropout")


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two trees differ: dotted key, old and new value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary. Raises ConfigError that names file and position."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        path_like = "hex value" in str(error) or "Unescaped '\\'" in str(error)
        hint = "; a path with backslashes stands in single quotes: 'C:\\data.csv'" if path_like else ""
        raise ConfigError(f"{path}: not a TOML file: {error}{hint}") from error


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`["optim.lr=3e-5"]` -> `{"optim": {"lr": 3e-5}}`; a value is TOML where it can be, else a string."""
    tree: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set: expected section.key=value, found '{setting}'")
        try:
            table = tomllib.loads(f"value = {value}")
        except tomllib.TOMLDecodeError:
            table = {}
        parsed = table["value"] if len(table) == 1 else value
        *path, last = key.strip().split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {setting}: '{part}' was already given a value")
        node[last] = parsed
    return tree


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`: tables merge key by key; a plugin's table whose name changes is replaced.

    `NAME:OPTIONS` counts as the table it stands for, on either side.
    """
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, str) and (key in CHOICES or isinstance(value, Mapping)):
            old = _table(old)
        if isinstance(value, str) and key in CHOICES and isinstance(old, Mapping):
            value = _table(value)
        if (
            isinstance(value, Mapping)
            and isinstance(old, Mapping)
            and old.get("name") in (None, value.get("name", old.get("name")))
            and "" not in value  # "hf:owner/name" says what the old options were about
        ):
            out[key] = merge(old, value)
        else:
            out[key] = value
    return out


def _table(spec: str) -> dict[str, Any]:
    name, options = parse_spec(spec)
    return {"name": name, **options}


def make_config(tree: Mapping[str, Any], where: str = "configuration") -> RunConfig:
    """Validates a tree. Raises ConfigError: one line that names the key, what was expected or the nearest known."""
    try:
        return RunConfig.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(f"{where}: {one_line(_first_problem(error))}") from error
    except ConfigError as error:  # an unreadable NAME:OPTIONS
        raise ConfigError(f"{where}: {one_line(error)}") from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    path = [part for part in problem["loc"] if part != "constrained-int"]  # a member of a union is no key
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    if problem["type"] == "extra_forbidden":
        section: Any = RunConfig
        for part in path[:-1]:
            section = get_args(section)[0] if isinstance(part, int) else section.model_fields[part].annotation
        return f"unknown key '{key}'{did_you_mean(str(path[-1]), section.model_fields)}"
    if problem["type"] == "missing":
        return f"'{key}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if problem["type"] == "value_error":
        return message
    if problem["type"] in ("model_type", "dict_type"):
        message = "expected a table of settings"
    found = repr(problem["input"])
    return f"{key}: {message}, found {found if len(found) <= 80 else found[:77] + '...'}"
