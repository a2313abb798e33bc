"""Flat settings, as people type them (`--lr 3e-5`, `mtk.train(lr=3e-5)`), turned into a configuration tree."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mtk import plugins
from mtk.config import RunConfig, TaskConfig, make_config, merge, parse_settings, read_toml
from mtk.errors import ConfigError, PluginError, did_you_mean
from mtk.options import coerce, in_words
from mtk.plugins import parse_spec
from mtk.recipes import encoder_name, recipe_tree

# every flat setting but those of single tasks (task, head, batch_size, task_weight), and the key it stands for
KEYS = {
    "encoder": "encoder",
    "combiner": "combiner",
    "scheduler": "scheduler",
    "mixer": "mixer",
    "augment": "augment",
    "init": "init",
    "data": "data.folder",
    "sample": "data.sample",
    "max_length": "data.max_length",
    "max_train_rows": "data.max_train_rows",
    "dropout": "model.dropout",
    "encoder_dropout": "model.encoder_dropout",
    "projection": "model.projection",
    "freeze": "model.freeze",
    "head_warmup": "model.head_warmup",
    "lr": "optim.lr",
    "head_lr": "optim.head_lr",
    "layer_decay": "optim.layer_decay",
    "weight_decay": "optim.weight_decay",
    "max_norm": "optim.max_norm",
    "epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "accumulate": "train.accumulate",
    "step": "train.step",
    "patience": "train.patience",
    "min_gain": "train.min_gain",
    "select_on": "train.select_on",
    "score_train": "train.score_train",
    "seed": "train.seed",
    "precision": "train.precision",
    "device": "train.device",
    "threads": "train.threads",
    "nonfinite": "train.nonfinite",
    "diagnose": "train.diagnose",
    "diagnose_every": "train.diagnose_every",
}
PER_TASK = ("head", "batch_size", "task_weight")
FROM_FILES = "auto"  # the task whose table says where its rows are, but no kind


class NamedTask(NamedTuple):
    """A task's name in the run, and its table as it stands in a configuration file below `[tasks.NAME]`."""

    name: str
    table: Mapping[str, Any]


def tree_of(
    *,
    recipe: str | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    tasks: Sequence[str | NamedTask] = (),
    settings: Sequence[str] = (),
    **flat: Any,
) -> dict[str, Any]:
    """The configuration tree of a recipe, a file (or tree) laid on it, then flat settings, then `section.key=value`.

    tasks: `sst`, `sst:bad_rows=2`, `reviews=sst:bad_rows=2`, `./mytask.toml`, or the name of one in the file. head,
    batch_size, task_weight: one value for all tasks, `TASK=VALUE`, a list of those, or a mapping. Settings that are
    None are as if not given. As with every setting the last word counts: `tasks` replace those of the file, which
    warns where that is not plain from their names. Raises ConfigError.
    """
    tree = dict(config) if isinstance(config, Mapping) else {} if config is None else _read(Path(config))
    if recipe is not None:
        given = (
            parse_settings(settings).get("encoder"),
            flat.get("encoder"),
            tree.get("encoder"),
        )  # the last word first
        tree = merge(recipe_tree(recipe, next(filter(encoder_name, given), None)), tree)
    if not isinstance(tree.get("tasks", {}), Mapping):
        raise ConfigError(f"tasks: expected a table for each task, found {tree['tasks']!r}")
    of_file = list(tree.get("tasks", {})) if isinstance(config, str | Path) else []
    if "tasks" in tree:
        tree["tasks"] = {name: _task_table(value) for name, value in tree["tasks"].items()}
    if tasks:
        before = tree.get("tasks", {})
        chosen = [NamedTask(one, {}) if isinstance(one, str) and one in before else task_choice(one) for one in tasks]
        named = dict(chosen)
        if len(named) < len(tasks):
            shown = ", ".join(name for name, _ in chosen)
            raise ConfigError(f"--task: a task is named twice in {shown}; name one apart: other=sst")
        gone = [name for name in of_file if name not in named]
        if gone and not set(named) <= set(of_file):
            warnings.warn(
                f"--task replaces the tasks of {config}: {', '.join(gone)}; to train these too, name them with --task",
                stacklevel=2,
            )
        tree["tasks"] = {name: merge(before.get(name, {}), choice) for name, choice in named.items()}
        tree = _without_caps(tree, [name for name in before if name not in named])
    over: dict[str, Any] = {}
    for name, value in flat.items():
        if value is None or name in PER_TASK:
            continue
        if name not in KEYS:
            raise ConfigError(f"unknown setting '{name}'{did_you_mean(name, [*KEYS, *PER_TASK])}")
        if name == "sample" and isinstance(value, bool):
            value = "always" if value else "never"
        _put(over, KEYS[name], value)
    if flat.get("data") is not None:
        if over["data"].get("sample") == "always":
            raise ConfigError(f"--data {flat['data']} and --sample: rows come from one of them; leave out the other")
        over["data"].setdefault("sample", "never")
    tree = merge(tree, over)
    names = list(tree.get("tasks", {}))
    for key, convert in (("head", _text), ("batch_size", _whole), ("task_weight", _number)):
        _per_task(tree, names, key, flat.get(key), convert)
    tree = merge(tree, parse_settings(settings))
    stray = [name for name in tree.get("tasks", {}) if name not in names]
    if tasks and stray:
        raise ConfigError(f"--set tasks.{stray[0]}: no such task in this run{did_you_mean(stray[0], names)}")
    return absolute(tree)


def absolute(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with its paths absolute, so that the run's configuration holds from any working directory."""
    out = dict(tree)
    if isinstance(tables := out.get("tasks"), Mapping):
        out["tasks"] = {name: _placed(name, table, Path()) for name, table in tables.items()}
    if isinstance(data := out.get("data"), Mapping) and isinstance(data.get("folder"), str | Path):
        out["data"] = {**data, "folder": str(Path(data["folder"]).expanduser().resolve())}
    if isinstance(out.get("init"), str | Path):
        out["init"] = str(Path(out["init"]).expanduser().resolve())
    if isinstance(encoder := out.get("encoder"), str):
        name, options = parse_spec(encoder)
        out["encoder"] = {"name": name, **options}
    if isinstance(encoder := out.get("encoder"), Mapping):
        registered = {n for r in plugins.registered("encoder").values() for n in r.names}
        out["encoder"] = {
            key: str(Path(value).expanduser().resolve())
            if key in ("name", "source", "") and value not in registered and _is(Path.is_dir, value)
            else value
            for key, value in encoder.items()
        }
    return out


def _is(what: Callable[[Path], bool], value: Any) -> bool:
    try:
        return isinstance(value, str) and what(Path(value).expanduser())
    except (OSError, RuntimeError, ValueError):
        return False


def configure(**settings: Any) -> RunConfig:
    """`tree_of`, validated: the settings of `mtk train` as one configuration. Raises ConfigError."""
    file = None if isinstance(settings.get("config"), Mapping) else settings.get("config")
    tree = tree_of(**settings)
    if not tree.get("tasks") and tree.get("init"):  # a warm start without tasks: those of that run
        file = Path(tree["init"]) / "config.toml"
        tree["tasks"] = read_toml(file).get("tasks", {}) if file.exists() else {}
    if not tree.get("tasks"):
        raise ConfigError(_no_task(None if file is None else Path(file)))
    return make_config(tree, str(file) if file else "configuration")


def _no_task(file: Path | None) -> str:
    """What is wrong with a configuration without tasks."""
    known = ", ".join(sorted(plugins.registered("task")))
    wanted = f"no task: expected at least one --task NAME or --task FILE.toml; known tasks: {known}"
    if file is None or not file.exists():
        return wanted
    tree = read_toml(file)
    if isinstance(tables := tree.get("task"), Mapping):
        below = next((f".{name}" for name, table in tables.items() if isinstance(table, Mapping)), "")
        return f"{file}: no task, found [task{below}]; did you mean [tasks{below or '.NAME'}]?"
    if {"hub", "kind", "text", "label"} & set(tree) or isinstance(tree.get("data"), str | list):
        return f"{file}: expected tables [tasks.NAME], found a single task; a task file goes to --task {file}"
    return f"{file}: {wanted}"


def task_choice(spec: str | NamedTask) -> NamedTask:
    """`reviews=sst:bad_rows=2` -> `("reviews", {"kind": "sst", "bad_rows": "2"})`; an alias is resolved, and a TOML
    file's table read. Raises ConfigError."""
    if not isinstance(spec, str):
        return NamedTask(*spec)
    name, equals, rest = spec.partition("=")
    if not equals or ":" in name or "/" in name:
        name, rest = "", spec
    elif not name:
        raise ConfigError(f"--task {spec}: expected NAME=KIND, found no name")
    kind, options = parse_spec(rest)
    if kind.lower().endswith(".toml"):
        own = task_file(Path(kind))
        return NamedTask(name or own.name, {**own.table, **options})
    try:
        registration, _ = plugins.find("task", kind)
    except PluginError as error:
        raise _near_a_file(kind) or error from None
    exact = kind in registration.names
    instance = name or (registration.name if exact else Path(kind).stem.lower())
    return NamedTask(instance, {"kind": registration.name if exact else kind, **options})


def _near_a_file(kind: str) -> ConfigError | None:
    """The error for a table, or for a task file's name without `.toml`, where a task belongs; None for neither."""
    if kind and _is(Path.is_file, own := f"{kind}.toml"):
        return ConfigError(f"unknown task '{kind}'; did you mean the file {own}? --task {own}")
    if not _is(Path.is_file, kind):
        return None
    own = str(Path(kind).with_suffix(".toml"))
    way = "" if _is(Path.is_file, own) else f"mtk task init {kind} writes one: "
    return ConfigError(f"{kind}: expected a task's name or its TOML file, found another file; {way}--task {own}")


def task_choices(spec: str) -> list[NamedTask]:
    """`task_choice`, or all the tasks of a run's configuration file."""
    if not spec.lower().endswith(".toml") or not isinstance(read_toml(Path(spec)).get("tasks"), Mapping):
        return [task_choice(spec)]
    tables = {name: _task_table(table) for name, table in _read(Path(spec))["tasks"].items()}
    return [NamedTask(name, {"kind": name, **table}) for name, table in tables.items()]


def task_file(file: Path) -> NamedTask:
    """A task from a file of its own: its table as below `[tasks.NAME]`, and `name`, by default after the file.

    Raises ConfigError: no such file, no TOML, an unknown key, or a whole run's configuration.
    """
    table = read_toml(file)
    if isinstance(table.get("tasks"), Mapping):
        raise ConfigError(f"{file}: expected one task, found a run's configuration; use it with --config {file}")
    name = table.pop("name", None)
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{file}: name: expected a text, found {name!r}")
    name = name or _name_after(file)
    check_keys(str(file), name, table, ("name",))
    return NamedTask(name, _placed(name, table, file.parent))


def _name_after(file: Path) -> str:
    """A task's name after its file's: `Tickets für 2024.toml` -> `tickets-fur-2024`."""
    plain = unicodedata.normalize("NFKD", file.stem.casefold())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_") or "task"


def check_keys(where: str, name: str, table: Mapping[str, Any], more: Sequence[str] = ()) -> None:
    """Refuses a key that neither the run nor the task's kind knows, and a value of another type than the kind's.

    Raises ConfigError that begins with `where`.
    """
    kind = _placed(name, table, Path()).get("kind")
    try:
        options = {option.name: option for option in plugins.options("task", kind or name)}
    except PluginError as error:
        if kind is None:
            raise ConfigError(
                f"{where}: expected data = (a file) or hub = (a data set), found neither; nor is '{name}' a task that "
                "has rows of its own"
            ) from error
        raise ConfigError(f"{where}: {error}") from error
    own = list(options)
    known = [*more, "kind", *own, *(key for key in TaskConfig.model_fields if key != "name")]
    for key in table:
        if key not in known and key.replace("-", "_") not in known:
            raise ConfigError(f"{where}: unknown key '{key}'{did_you_mean(key, known)}")
    for key, value in table.items():
        option = options.get(key.replace("-", "_"))
        if option is not None and key not in TaskConfig.model_fields:
            try:
                coerce(option.hint, value, key)
            except ConfigError as error:
                raise ConfigError(f"{where}: {key}: expected {in_words(option.hint)}, found {value!r}") from error


def _read(file: Path) -> dict[str, Any]:
    """A configuration file, its tasks' files told from where it stands. Raises ConfigError."""
    tree = read_toml(file)
    if isinstance(tables := tree.get("tasks"), Mapping):
        for name, table in tables.items():
            if isinstance(table, Mapping):
                check_keys(f"{file}: tasks.{name}", name, table)
        tree["tasks"] = {name: _placed(name, table, file.parent) for name, table in tables.items()}
    return tree


def _placed(name: str, table: Any, folder: Path) -> Any:
    """A task's table with its `data` absolute, told from `folder`; one with data and no kind is a task from files."""
    if not isinstance(table, Mapping):
        return table
    out = dict(table)
    if "kind" not in out and {"data", "hub"} & set(out) and name not in plugins.registered("task"):
        out["kind"] = FROM_FILES
    if "data" in out:
        out["data"] = _absolute_paths(out["data"], folder)
    return out


def _absolute_paths(value: Any, folder: Path) -> Any:
    """The paths of a text, a list or a mapping of them."""
    if isinstance(value, str | Path):
        return str((folder / Path(value).expanduser()).resolve())
    if isinstance(value, Mapping):
        return {key: _absolute_paths(one, folder) for key, one in value.items()}
    return [_absolute_paths(one, folder) for one in value] if isinstance(value, list | tuple) else value


def _task_table(value: Any) -> Any:
    """A task of a TOML file, where it may be written as `"sst:bad_rows=2"`, as a table."""
    if not isinstance(value, str):
        return value
    kind, options = parse_spec(value)
    return {"kind": kind, **options}


def _without_caps(tree: dict[str, Any], gone: Sequence[str]) -> dict[str, Any]:
    """The tree without the mixer's caps on tasks that the user took out."""
    mixer = tree.get("mixer")
    caps = mixer.get("per_task") if isinstance(mixer, Mapping) else None
    if not isinstance(mixer, Mapping) or not isinstance(caps, Mapping):
        return tree
    return {**tree, "mixer": {**mixer, "per_task": {name: cap for name, cap in caps.items() if name not in gone}}}


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree.setdefault(part, {})
    tree[last] = value


def _per_task(
    tree: dict[str, Any], names: Sequence[str], key: str, given: Any, convert: Callable[[Any, str], Any]
) -> None:
    """Puts one value for all tasks, or one each, where the configuration wants it."""
    if given is None:
        return
    items: list[tuple[str | None, Any]] = []
    for item in given.items() if isinstance(given, Mapping) else given if isinstance(given, list | tuple) else [given]:
        if isinstance(item, tuple):
            items.append(item)
            continue
        task, equals, value = str(item).partition("=")
        apart = equals and ":" not in task
        items.append((task, value) if apart else (None, item))
    option = f"--{key.replace('_', '-')}"
    field = {"task_weight": "weight"}.get(key, key)
    for name, value in items:
        if name is not None and name not in names:
            name = _canonical(name, names)
        if name is not None and name not in names:
            raise ConfigError(f"{option} {name}={value}: no such task in this run{did_you_mean(name, names)}")
        if name is None and key == "batch_size":
            _put(tree, "train.batch_size", convert(value, option))
            continue
        for task in names if name is None else [name]:
            tree["tasks"][task] = {**tree["tasks"][task], field: convert(value, option)}


def _canonical(name: str, names: Sequence[str]) -> str:
    """A task's own name for an alias of it; any other name as it is."""
    registered = plugins.registered("task").values()
    return next((r.name for r in registered if name in r.names and r.name in names), name)


def _whole(value: Any, option: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ConfigError(f"{option}: expected a whole number or TASK=NUMBER, found '{value}'") from None


def _number(value: Any, option: str) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ConfigError(f"{option}: expected TASK=NUMBER, found '{value}'") from None


def _text(value: Any, option: str) -> Any:
    return value
