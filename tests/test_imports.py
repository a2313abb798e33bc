"""The import arrows: every import statement of mtk/ and plugins/ is read, and none may point the wrong way."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mtk

ROOT = Path(__file__).parents[1]

# A module imports from its own line and the lines above. A package's modules stand where the package does.
LAYERS = (
    ("errors", "formats", "interfaces", "notices", "scoretable"),
    ("targets", "hookspecs"),
    ("docstrings", "faults", "options", "registration", "building", "blame", "plugins"),
    ("domains", "searchrecord"),
    ("changes", "config", "recipes", "settings"),
    ("space",),
    ("data", "device", "model", "gramian", "capture", "gradients", "tables", "rows"),
    ("assembly", "evaluation", "checkpoint", "datacheck"),
    ("optimizer",),
    ("training",),
    ("run",),
    ("session", "inference", "results"),
    ("display",),
    ("api",),
    ("exports", "reports"),
    ("sweep",),
    ("matrix", "worker", "ledger", "findings", "searchfolder", "search"),
    ("searchview",),
    ("scaffold",),
    ("cli",),
    ("testing",),  # for plugin authors: no other room imports it
    ("__main__",),
)
_LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
_HOME = {name: module for module, names in mtk._HOME.items() for name in names}  # where a public name is defined
_NOT_INSTALLED = {"benchmarks", "docs", "examples", "plugins", "tests"}  # folders of the repository, not of the wheel

HEAVY = ("torch", "transformers", "numpy", "scipy", "sklearn", "pydantic", "optuna", "ray", "datasets", "matplotlib")


@dataclass(frozen=True, slots=True)
class Import:
    """One import: `importer` is a module's full name, `module` what is imported, `name` what is taken from it."""

    file: Path
    line: int
    importer: str
    module: str
    name: str | None = None


def modules_in(folder: Path) -> dict[str, Path]:
    """The modules below a folder that is on the import path, by full name."""
    found = {}
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports_of(importer: str, file: Path) -> Iterator[Import]:
    """Every import statement, wherever it stands, and `import_module("...")` with a literal name."""
    package = importer.split(".") if file.name == "__init__.py" else importer.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        match node:
            case ast.Import(names=names):
                yield from (Import(file, node.lineno, importer, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package[: len(package) - level + 1] if level else []
                origin = ".".join([*base, *([module] if module else [])])
                yield from (Import(file, node.lineno, importer, origin, alias.name) for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str() as module), *_],
            ):
                yield Import(file, node.lineno, importer, module)


def imported_module(found: Import, modules: dict[str, Path]) -> str:
    """The module of mtk that an import reaches: `from mtk import plugins` is mtk.plugins, a public name its home."""
    inner = f"{found.module}.{found.name}"
    if inner in modules:
        return inner
    if found.module == "mtk" and found.name in _HOME:
        return _HOME[found.name]
    return found.module


def core_violation(found: Import, modules: dict[str, Path]) -> str | None:
    """What is wrong with an import in mtk/, or None."""
    top = found.module.split(".")[0]
    if top.startswith("mtk_"):
        return "the core knows no plugin"
    if top in _NOT_INSTALLED:
        return f"{top}/ is not installed"
    if top != "mtk" or found.importer == "mtk":
        return None  # mtk/__init__ hands names on
    target = imported_module(found, modules)
    if target == "mtk":
        return None  # __version__
    importer_room, room = found.importer.split(".")[1], target.split(".")[1]
    if importer_room == room or not {importer_room, room} <= set(_LAYER):
        return None  # inside one package, or to be placed first
    if room == "testing":
        return "mtk.testing is for plugin authors' tests"
    if _LAYER[room] > _LAYER[importer_room]:
        return f"{target} stands above {found.importer}"
    return None


def plugin_violation(found: Import, packages: set[str]) -> str | None:
    """What is wrong with an import in plugins/, or None. packages: the built-in plugins."""
    own, top = found.importer.split(".")[0], found.module.split(".")[0]
    if top == "mtk" and (found.module != "mtk" or found.name not in mtk.__all__):
        return "a plugin sees public names only: from mtk import NAME"
    if top != own and (top in packages or top.startswith("mtk_")):
        return "a plugin imports no other plugin"
    if top in _NOT_INSTALLED:
        return f"{top}/ is not installed"
    return None


def violations(root: Path) -> list[str]:
    """A line for every import below `root` that points the wrong way."""
    core = {name: file for name, file in modules_in(root).items() if name.split(".")[0] == "mtk"}
    plugins = modules_in(root / "plugins")
    packages = {name.split(".")[0] for name in plugins}
    judged = [(i, core_violation(i, core)) for name, file in core.items() for i in imports_of(name, file)]
    judged += [(i, plugin_violation(i, packages)) for name, file in plugins.items() for i in imports_of(name, file)]
    rooms = sorted({name.split(".")[1] for name in core if name != "mtk"})
    unplaced = [
        f"mtk.{name} has no place in LAYERS: the lowest that its imports allow" for name in rooms if name not in _LAYER
    ]
    return unplaced + [
        f"{i.file.relative_to(root)}:{i.line}: {i.importer} imports {i.module}{f' ({i.name})' if i.name else ''}: {why}"
        for i, why in judged
        if why
    ]


def cycle(root: Path) -> list[str]:
    """Modules of mtk that import each other in a circle, the first again at the end; [] where there is none."""
    core = {name: file for name, file in modules_in(root).items() if name.split(".")[0] == "mtk" and name != "mtk"}
    graph = {
        name: {imported_module(i, core) for i in imports_of(name, file)} & set(core) for name, file in core.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_import_points_the_right_way() -> None:
    found = violations(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_no_modules_import_each_other() -> None:
    assert cycle(ROOT) == []


def test_something_was_read() -> None:
    core, plugins = modules_in(ROOT / "mtk"), modules_in(ROOT / "plugins")
    assert {"interfaces", "plugins", "gradients", "training", "testing.modules"} <= set(core)
    assert {"mtk_text.tasks", "mtk_combiners.pcgrad"} <= set(plugins)
    assert any(i.module == "mtk.errors" for i in imports_of("mtk.plugins", core["plugins"]))


WRONG = {  # what is wrong: (the file, what it says, the complaint)
    "core knows a plugin": (
        "mtk/model.py",
        "import mtk_text.tasks",
        "mtk/model.py:1: mtk.model imports mtk_text.tasks: the core knows no plugin",
    ),
    "upwards": (
        "mtk/errors.py",
        "\nfrom mtk.training import train",
        "mtk/errors.py:2: mtk.errors imports mtk.training (train): mtk.training stands above mtk.errors",
    ),
    "upwards inside a function": (
        "mtk/data.py",
        "def f():\n    import mtk.run",
        "mtk/data.py:2: mtk.data imports mtk.run: mtk.run stands above mtk.data",
    ),
    "upwards for types only": (
        "mtk/model.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mtk.training import Step",
        "mtk/model.py:3: mtk.model imports mtk.training (Step): mtk.training stands above mtk.model",
    ),
    "upwards by the public name": (
        "mtk/config.py",
        "from mtk import TrainedModel",
        "mtk/config.py:1: mtk.config imports mtk (TrainedModel): mtk.inference stands above mtk.config",
    ),
    "upwards as a submodule": (
        "mtk/errors.py",
        "from mtk import training",
        "mtk/errors.py:1: mtk.errors imports mtk (training): mtk.training stands above mtk.errors",
    ),
    "upwards by a relative import": (
        "mtk/errors.py",
        "from .training import train",
        "mtk/errors.py:1: mtk.errors imports mtk.training (train): mtk.training stands above mtk.errors",
    ),
    "upwards by import_module": (
        "mtk/errors.py",
        "import importlib\nimportlib.import_module('mtk.training')",
        "mtk/errors.py:2: mtk.errors imports mtk.training: mtk.training stands above mtk.errors",
    ),
    "the core uses the conformance tests": (
        "mtk/run.py",
        "from mtk.testing import check_task",
        "mtk/run.py:1: mtk.run imports mtk.testing (check_task): mtk.testing is for plugin authors' tests",
    ),
    "the core uses the tests": (
        "mtk/run.py",
        "import tests.toys",
        "mtk/run.py:1: mtk.run imports tests.toys: tests/ is not installed",
    ),
    "a room that nobody placed": (
        "mtk/utils.py",
        "from mtk.errors import MTKError",
        "mtk.utils has no place in LAYERS: the lowest that its imports allow",
    ),
    "a plugin reaches inside": (
        "plugins/mtk_heads/linear.py",
        "from mtk.interfaces import Head",
        "plugins/mtk_heads/linear.py:1: mtk_heads.linear imports mtk.interfaces (Head): "
        "a plugin sees public names only: from mtk import NAME",
    ),
    "a plugin takes a name that is not public": (
        "plugins/mtk_heads/linear.py",
        "from mtk import plugins",
        "plugins/mtk_heads/linear.py:1: mtk_heads.linear imports mtk (plugins): "
        "a plugin sees public names only: from mtk import NAME",
    ),
    "a plugin imports another": (
        "plugins/mtk_heads/linear.py",
        "def f():\n    from mtk_text import tasks",
        "plugins/mtk_heads/linear.py:2: mtk_heads.linear imports mtk_text (tasks): a plugin imports no other plugin",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_import_is_named_with_file_line_and_both_modules(case: str, tmp_path: Path) -> None:
    file, text, complaint = WRONG[case]
    for path, content in {"mtk/training.py": "", "mtk/errors.py": "", "mtk/run.py": "", file: text}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    assert violations(tmp_path) == [complaint]


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "mtk").mkdir()
    (tmp_path / "mtk" / "options.py").write_text("def f():\n    from mtk.plugins import build")
    (tmp_path / "mtk" / "plugins.py").write_text("import mtk.options")
    assert violations(tmp_path) == []
    assert set(cycle(tmp_path)) == {"mtk.options", "mtk.plugins"}


@pytest.mark.parametrize(
    "code",
    ["import mtk", "import mtk.plugins", "import mtk.cli", "import mtk.plugins; mtk.plugins.registered('task')"],
)
def test_heavy_packages_wait_until_they_are_used(code: str) -> None:
    """In a process of its own; the last case imports every plugin's package."""
    code += f"\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", mtk.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(mtk, name) is not None
