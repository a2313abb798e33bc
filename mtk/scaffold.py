"""A plugin package to begin with: it installs, does something, and passes the conformance checks."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Template

from mtk import plugins
from mtk.errors import ConfigError, PluginError, did_you_mean
from mtk.hookspecs import API_VERSION

TEMPLATES = Path(__file__).parent / "templates"
_PACKAGE = re.compile(r"mtk-[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUMMARIES = {
    "task": "whether a text is a question",
    "head": "pooled features through one hidden layer",
    "encoder": "hashed words, embedded and averaged",
    "combiner": "the tasks with the larger losses weigh more",
    "scheduler": "hold the learning rate, then go straight down",
    "mixer": "every task gives as many rows as the smallest",
    "augmentation": "some rows again, cut short",
    "tuner": "independent draws, stopped below the median",
    "executor": "worker processes on this machine",
    "exporter": "the dev rows' predictions as JSON lines",
    "report": "mean scores as a text file",
    "recipe": "two tasks of the sample and PCGrad",
    "command": "print the scores of finished runs as JSON lines",
}
_SEARCH = " --space 'optim.lr=loguniform(1e-5,1e-3)' --trials 2 --epochs 1"
_USES = {
    "task": "mtk train --task $name --sample",
    "head": "mtk train --task sst --head sst=$name --sample",
    "encoder": "mtk train --task sst --encoder $name --sample",
    "combiner": "mtk train --task sst --task sts --combiner $name --sample",
    "scheduler": "mtk train --task sst --scheduler $name --sample",
    "mixer": "mtk train --task sst --task sts --mixer $name --sample",
    "augmentation": "mtk train --task sst --augment $name --sample",
    "tuner": "mtk tune --task sst --sample --tuner $name" + _SEARCH,
    "executor": "mtk tune --task sst --sample --executor $name" + _SEARCH,
    "exporter": "mtk predict RUN --export $name --out FOLDER",
    "report": "mtk compare-single --task sst --task sts --sample --out runs/table  # a $name.txt is written there",
    "recipe": "mtk train --recipe $name --sample",
    "command": "mtk $name RUN",
}
KINDS = tuple(_SUMMARIES)
_FUNCTIONS = ("recipe", "command")  # kinds whose plugins are no classes
_FILES = {  # beside the module: template -> file
    "task": {"task-train.tsv": "data/$name-train.tsv", "task-dev.tsv": "data/$name-dev.tsv"},
    "recipe": {"recipe.toml": "recipe.toml"},
}


def write_package(package: str, kind: str, folder: Path, commands: Collection[str] = ()) -> list[Path]:
    """Writes the package `mtk-NAME`, a plugin of the kind called NAME, into a new folder. Returns its files, sorted.

    commands: the names that no further command can have.
    Raises ConfigError for a name that no package or plugin can have, or that is taken, and for a folder with files in
    it; PluginError for an unknown kind. Nothing is left behind then.
    """
    if kind not in KINDS:
        raise PluginError(f"unknown plugin kind '{kind}'{did_you_mean(kind, KINDS)}")
    known = {} if kind == "command" else plugins.registered(kind)
    taken = {alias for registration in known.values() for alias in registration.names}
    if kind == "command":
        taken = {*commands, *(c.path.split()[0] for c in plugins.commands())}
    if not _PACKAGE.fullmatch(package):
        raise ConfigError(
            f"expected a package name mtk-NAME of lower-case letters, digits and -, such as mtk-cola, found '{package}'"
        )
    name, module = package.removeprefix("mtk-"), package.replace("-", "_")
    if name in taken:
        look = f"mtk {name} --help" if kind == "command" else f"mtk plugins show {name}"
        raise ConfigError(f"the {kind} '{name}' is already there ({look}); choose another name")
    if importlib.util.find_spec(module) is not None:
        raise ConfigError(f"a module {module} is already installed, and two cannot be; choose another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder}: expected a new or empty folder, found {'files in it' if folder.is_dir() else 'a file'}"
        )
    names = {
        "package": package,
        "name": name,
        "module": module,
        "kind": kind,
        "cls": kind if kind in _FUNCTIONS else "".join(word.capitalize() for word in name.split("-")),
        "summary": _SUMMARIES[kind],
        "use": Template(_USES[kind]).substitute(name=name),
        "api": str(API_VERSION),
    }
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "command-init.py" if kind == "command" else "init.py": "$module/__init__.py",
        f"{kind}.py": "$module/$kind.py",
        **{template: f"$module/{file}" for template, file in _FILES.get(kind, {}).items()},
        "test.py": "tests/test_$module.py",
    }
    return _write({Template(file).substitute(names): template for template, file in files.items()}, names, folder)


def _write(files: Mapping[str, str], names: Mapping[str, str], folder: Path) -> list[Path]:
    new, written = not folder.exists(), []
    try:
        for file, template in files.items():
            text = (TEMPLATES / f"{template}.tmpl").read_text(encoding="utf-8")
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).safe_substitute(names), encoding="utf-8")
            written.append(path)
    except OSError as error:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise ConfigError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return sorted(written)
