"""A run folder: config.toml, run.json, metrics.jsonl, best/ and last/. Self-contained, and readable without mtk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from mtk import __version__, formats, plugins
from mtk.checkpoint import read_json, settle, why_not_written
from mtk.config import RunConfig, make_config, read_toml
from mtk.errors import CheckpointError, ConfigError, PluginError
from mtk.gradients import GradientReport
from mtk.interfaces import Source, Task
from mtk.training import EpochDone, Event, Position, StepDone

_NAMED = 5  # runs inside a folder that is none


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log: IO[str] | None = None

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def scores(self) -> dict[str, Any]:
        """The best epoch's dev scores: `aggregate`, `tasks` and which metric is each task's `primary` one."""
        scores: dict[str, Any] = self.facts.get("scores", {})
        return scores

    @property
    def best(self) -> Path:
        return settle(self.path / "best")

    @property
    def last(self) -> Path:
        return settle(self.path / "last")

    @property
    def config(self) -> RunConfig:
        """Raises ConfigError where config.toml is missing or wrong."""
        file = self.path / "config.toml"
        return make_config(read_toml(file), str(file))

    @property
    def facts(self) -> dict[str, Any]:
        """run.json. Raises CheckpointError."""
        file = self.path / "run.json"
        facts = read_json(file, f"{self.path}: not a run folder")
        if not isinstance(facts, dict):
            raise CheckpointError(f"{file}: damaged, expected a JSON object, found {type(facts).__name__}")
        return facts

    @staticmethod
    def check_out(out: Path) -> None:
        """Raises ConfigError where `out` exists and is not an empty folder."""
        try:
            if not out.exists() or (out.is_dir() and not any(out.iterdir())):
                return
            run = (out / "run.json").exists()
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be read ({error.strerror})") from error
        raise ConfigError(
            f"--out {out}: expected a new or empty folder, found {'files in it' if out.is_dir() else 'a file'}; "
            f"choose another{f', or go on with that run: mtk train --resume {out}' if run else ''}"
        )

    @classmethod
    def create(cls, out: Path, config: RunConfig, **facts: Any) -> RunFolder:
        """A new run folder with config.toml, and `facts` in run.json.

        Raises ConfigError where `out` exists and is not an empty folder, or cannot be written; nothing is left then.
        """
        cls.check_out(out)
        folder, text = cls(out), config.to_toml()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written ({error.strerror})") from error
        try:
            write_atomically(out / "config.toml", text)
            folder.update(**facts)
        except CheckpointError as error:
            (out / "config.toml").unlink(missing_ok=True)
            raise ConfigError(f"--out {out}: cannot be written ({error})") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder. Raises CheckpointError where it is none, or another version's."""
        folder = cls(path)
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such run folder; mtk runs lists those here")
        if not (path / "run.json").exists() and (inside := sorted(path.glob("*/run.json"))):
            names = ", ".join(str(file.parent) for file in inside[:_NAMED]) + (", ..." if inside[_NAMED:] else "")
            raise CheckpointError(f"{path}: not a run folder, but one of runs: choose {names}")
        found = folder.facts.get("format")
        if found != formats.RUN:
            raise CheckpointError(
                f"{path}: a run folder of format {found} (mtk {folder.facts.get('mtk', '?')}), but this mtk "
                f"{__version__} reads format {formats.RUN}; use the mtk that wrote it"
            )
        return folder

    def update(self, **facts: Any) -> None:
        """Merges `facts` into run.json."""
        old = self.facts if (self.path / "run.json").exists() else {"format": formats.RUN, "mtk": __version__}
        write_atomically(self.path / "run.json", json.dumps({**old, **facts}, indent=2) + "\n")

    # ------------------------------------------------------------------------------------------ metrics.jsonl

    def record(self, event: Event) -> None:
        """Appends a step or an epoch to metrics.jsonl; epochs and steps count from 1. Raises CheckpointError."""
        if isinstance(event, StepDone):
            line = {
                "event": "step",
                "epoch": event.epoch + 1,
                "done": event.done,
                "losses": event.losses,
                "lr": event.lr,
                "weights": dict(zip(event.report.tasks, event.report.weights.tolist(), strict=True)),
                "conflicts": event.report.conflicts,
                **diagnosis(event.report),
                **({"left_out": list(event.left_out)} if event.left_out else {}),
            }
        elif isinstance(event, EpochDone):
            line = {
                "event": "epoch",
                "epoch": event.epoch + 1,
                "done": event.done,
                "losses": event.losses,
                "rows": event.rows,
                "coverage": {name: round(share, 4) for name, share in event.coverage.items()},
                "scores": event.scores.to_dict(),
                **({} if event.train_scores is None else {"train_scores": event.train_scores.to_dict()}),
                "selected": event.selected,
                "best": event.is_best,
                "seconds": round(event.seconds, 2),
            }
        else:
            return
        with self._writing():
            if self._log is None:
                self._log = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
            self._log.write(json.dumps(line) + "\n")

    def flush(self) -> None:
        """Makes what was recorded durable, which comes before the checkpoint that counts on it."""
        if self._log is not None:
            with self._writing():
                self._log.flush()
                os.fsync(self._log.fileno())

    def close(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            with self._writing():
                log.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self.path / 'metrics.jsonl'}: writing failed ({why_not_written(error)}); the checkpoints that were "
                f"saved stand; make room and go on: mtk train --resume {self.path}"
            ) from error

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that a crash cut off is left out."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    return

    def rewind(self, position: Position) -> None:
        """Drops the metrics that came after `position`, which a resumed run will write again."""
        begun = position.done - position.step  # counted anew where the settings changed
        kept = [
            line
            for line in self.metrics()
            if line["epoch"] <= position.epoch
            or (
                line["epoch"] == position.epoch + 1
                and line["event"] == "step"
                and begun < line["done"] <= position.done
            )
        ]
        write_atomically(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))


def diagnosis(report: GradientReport) -> dict[str, Any]:
    """What a step's Gramian says: norms by task, cosines by pair "a|b", the share of pairs in conflict."""
    if report.gram is None:
        return {}
    layers = {name: _of_gram(gram, report.tasks) for name, gram in report.layers.items()}
    return {**_of_gram(report.gram, report.tasks), **({"layers": layers} if layers else {})}


def _of_gram(gram: Tensor, tasks: Sequence[str]) -> dict[str, Any]:
    norms = gram.diagonal().sqrt().tolist()
    pairs = [(i, j) for i in range(len(tasks)) for j in range(i + 1, len(tasks))]
    products = gram.tolist()
    cosines = {
        f"{tasks[i]}|{tasks[j]}": round(products[i][j] / (norms[i] * norms[j]), 6) if norms[i] and norms[j] else None
        for i, j in pairs
    }
    known = [products[i][j] for i, j in pairs if norms[i] and norms[j]]
    return {
        "norms": {name: float(f"{norm:.6g}") for name, norm in zip(tasks, norms, strict=True)},
        "cosines": cosines,
        "conflict_rate": sum(product < 0 for product in known) / len(known) if known else None,
    }


def this_process() -> dict[str, Any]:
    """Who trains: `mtk runs` tells a run that goes on from one that was killed by it."""
    return {"host": platform.node(), "pid": os.getpid()}


def write_atomically(file: Path, text: str) -> None:
    """A new file in place of the old one. Raises CheckpointError; the old one then stands."""
    new = file.with_name(f".{file.name}.new")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        kept = "the previous file still stands" if file.exists() else "nothing was written"
        raise CheckpointError(f"{file}: writing failed ({why_not_written(error)}); {kept}; make room") from error


def default_out(config: RunConfig) -> Path:
    """runs/20261231-235959-sst-sts-pcgrad, with a number behind where that exists."""
    name = "-".join([time.strftime("%Y%m%d-%H%M%S"), *list(config.tasks)[:4], config.combiner.name])
    path, number = Path("runs") / name, 2
    while path.exists():
        path, number = Path("runs") / f"{name}-{number}", number + 1
    return path


def provenance(config: RunConfig, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Versions, data with hashes, and where every plugin of the run comes from."""
    packages = ("torch", "tokenizers", "safetensors", "numpy", "scikit-learn", "transformers")
    chosen = [("task", choice.name) for choice in config.tasks.values()]
    chosen += [("head", c.head.name if c.head else tasks[name].default_head) for name, c in config.tasks.items()]
    for one in (config, *(config.at(change.after) for change in config.changes)):
        chosen += [(kind, getattr(one, kind).name) for kind in ("encoder", "combiner", "scheduler", "mixer")]
    chosen += [("augmentation", choice.name) for choice in config.augment]
    origins = {}
    for kind, name in chosen:
        found, _ = plugins.find(kind, name)
        origins[f"{kind} {name}"] = f"{found.distribution} {found.version}"
    return {
        "versions": {"python": platform.python_version(), **{p: v for p in packages if (v := _version(p))}},
        "plugins": origins,
        "data": data_facts(tasks),
    }


def data_facts(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Where every task's rows came from, with the SHA-256 of each file, which is read once."""
    once = functools.cache(sha256)
    return {name: _data(task, once) for name, task in tasks.items()}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def split_files(data: Mapping[str, Any], split: str) -> list[dict[str, str]]:
    """What run.json holds of a split's files: `train`, `train 2` and so on."""
    return [file for key, file in data.get("files", {}).items() if key.partition(" ")[0] == split]


def carved(source: Source, split: str) -> bool:
    """Whether the split's rows come out of files that training rows come out of too."""
    files: dict[str, set[Path]] = {"train": set(), split: set()}
    for key, file in source.files.items():
        files.setdefault(key.partition(" ")[0], set()).add(file)
    return bool(files["train"] & files[split])


def file_difference(before: list[dict[str, str]], after: list[dict[str, str]]) -> str:
    """What became of a split's files, which differ, for messages."""
    lost, new = (
        [file["file"] for file in one if file not in other] for one, other in ((before, after), (after, before))
    )
    said = [f"{name} changed" for name in lost if name in new]
    said += [f"{name} is no longer there" for name in lost if name not in new]
    said += [f"{name} is new" for name in new if name not in lost]
    return (
        ", ".join(said[:5]) + (f" and {len(said) - 5} more" if len(said) > 5 else "")
        or "their files stand in another order"
    )


def check_plugins(path: Path, facts: Mapping[str, Any]) -> None:
    """Raises PluginError that names the package where a plugin that the run used is not installed."""
    for plugin in facts.get("plugins", {}):
        kind, _, name = plugin.partition(" ")
        if kind != "encoder" and (why := why_missing(facts, kind, name)):  # a checkpoint has its own encoder
            raise PluginError(f"{path}: {why}")


def why_missing(facts: Mapping[str, Any], kind: str, name: str) -> str | None:
    """What to do about a plugin that the run of run.json `facts` used and that is not here; None where it is."""
    try:
        plugins.find(kind, name)
    except PluginError:
        package, version = _origin(facts, kind, name)
        used = f"the run uses the {kind} '{name}' of {f'{package} {version}'.strip() or 'an unknown package'}"
        if package in ", ".join(plugins.disabled().values()).split(", "):
            return f"{used}, which is disabled; leave out --no-plugins or MTK_DISABLE_PLUGINS"
        broken = next((b.reason for b in plugins.broken() if b.distribution == package), None)
        if broken:
            return f"{used}, which is broken: {broken}"
        away = f"but {package} {now} is installed" if (now := _version(package)) else "which is not here"
        return f"{used}, {away}" + (f"; pip install {package}=={version}" if version else "")
    return None


def other_versions(facts: Mapping[str, Any]) -> dict[str, str]:
    """The plugins whose package is another version than in the run of run.json `facts`, each with the one here."""
    found = {}
    for plugin in facts.get("plugins", {}):
        kind, _, name = plugin.partition(" ")
        with contextlib.suppress(PluginError):
            here, _ = plugins.find(kind, name)
            package, version = _origin(facts, kind, name)
            if here.distribution == package and here.version != version:
                found[plugin] = f"{package} {here.version}"
    return found


def version_difference(facts: Mapping[str, Any], names: Collection[str] | None = None) -> str:
    """What to say of those of the run's plugins (`task sst`), default all, whose package is another version now; ""
    where there are none."""
    packages: dict[str, list[str]] = {}
    for plugin, now in other_versions(facts).items():
        if names is None or plugin in names:
            package, version = _origin(facts, *plugin.split(" ", 1))
            said = f"used {package} {version}, and {now.rpartition(' ')[2]} is installed"
            packages.setdefault(f"{said} (pip install {package}=={version}", []).append(plugin)
    return ", ".join(f"{said} for the run's {', '.join(used)})" for said, used in packages.items())


def _origin(facts: Mapping[str, Any], kind: str, name: str) -> tuple[str, str]:
    """The package that the run had a plugin from, and its version; empty where unknown."""
    package, _, version = str(facts.get("plugins", {}).get(f"{kind} {name}") or "").strip().partition(" ")
    return package, version


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _data(task: Task, digest: Callable[[Path], str]) -> dict[str, Any]:
    source = task.source
    files = {split: {"file": file.name, "sha256": digest(file)} for split, file in source.files.items()}
    return {"origin": source.origin, "sample": source.sample, "files": files}
