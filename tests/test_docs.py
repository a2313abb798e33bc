"""The documentation and the examples are run, and compared with the code that they speak of.

Of a page's bash blocks, lines that begin with `mtk` run in this process, in a folder of their own, with SMALL settings
appended to what trains; lines that set things up are left out, and all others go to bash. A comment `# Ctrl-C`
interrupts a training after its first step. Python blocks run one after the other. `data/` holds the first rows of the
sample's files where a page has the real ones, and the sample is no longer.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mtk.api
import mtk.device
import mtk.display
import mtk_text.sources
from mtk import hookspecs, interfaces, testing
from mtk.cli.app import run
from mtk.registration import KINDS
from mtk.training import StepDone
from mtk_text.published import PUBLISHED
from tests.test_imports import LAYERS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
SMALL = {"encoder": "tiny", "max_train_rows": 16, "epochs": 1, "threads": 1, "precision": "fp32", "device": "cpu"}
ROWS = 24
SMALL_OPTIONS = [text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", str(value))]
SMALL_SWEEP = [
    *("--epochs", "1", "--threads", "1", "--precision", "fp32", "--device", "cpu", "--seeds", "1"),
    *("--set", "encoder=tiny", "--set", "data.max_train_rows=16"),
]
SET_UP = (
    "make ",
    "python3 -m venv ",
    ".venv/bin/pip ",
    "pip ",
    "source ",
    ".venv/bin/python -m pytest",
    "python -m pytest",
)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def lines_of(block: str) -> Iterator[str]:
    """The commands of a bash block, continued lines joined."""
    for line in block.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


# ---------------------------------------------------------------------------------------------- pages that run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `data/`, no other data, and `mtk.train` with small settings; nothing waits for
    the disk, and no choice depends on how busy it is here."""
    shorten(mtk_text.sources.SAMPLE, tmp_path / "data")
    monkeypatch.setattr(mtk_text.sources, "SAMPLE", shorten(mtk_text.sources.SAMPLE, tmp_path / "sample"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")
    for number, name in enumerate(("SICK_train.txt", "SICK_trial.txt")):
        row = f"{number}\tA cat sleeps on mat {number}\tA cat is asleep on mat {number}\t4.5\tENTAILMENT"
        header = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
        (tmp_path / "data" / name).write_text(f"{header}\n{row}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MTK_DATA", raising=False)
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "data-cache"))
    monkeypatch.setattr(mtk.api, "train", small(mtk.api.train))
    return tmp_path


def shorten(source: Path, target: Path) -> Path:
    """Copies a folder of tables, each cut to its first ROWS rows."""
    target.mkdir()
    for file in source.glob("*.csv"):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        (target / file.name).write_text("".join(lines[: ROWS + 1]), encoding="utf-8")
    return target


def small(train: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *tasks, **settings: train(*tasks, **{**settings, **SMALL})


def command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs one line of a bash block. Raises AssertionError where it does not end as it should."""
    if line.startswith(SET_UP):
        return
    line, _, comment = line.partition("  # ")
    words = shlex.split(line)
    if words[0].removeprefix(".venv/bin/") != "mtk":
        subprocess.run(["bash", "-c", line], check=True)
        return
    arguments, wanted = words[1:], 0
    if arguments[0] in ("train", "tune") and "--resume" not in arguments and arguments[1] != "report":
        arguments += SMALL_OPTIONS
        if "pbt" in arguments:  # which takes over weights between two epochs
            arguments += ["--epochs", "2"]
    elif arguments[0] in ("reproduce", "ablate", "compare-single"):
        arguments += [*SMALL_OPTIONS, "--seeds", "1"]
    elif arguments[0] == "sweep":
        arguments += SMALL_SWEEP
    elif arguments[:2] == ["data", "fetch"]:
        arguments.append("--help")  # no network: the options are read, and nothing is fetched
    elif arguments[:2] == ["data", "check"]:
        arguments += ["--encoder", "none"]
    with monkeypatch.context() as patch:
        if comment.startswith("Ctrl-C"):
            wanted = 128 + signal.SIGINT
            patch.setattr(mtk.display.Display, "show", interrupted(mtk.display.Display.show))
        code = run(arguments)
    assert code == wanted, f"exit code {code}, expected {wanted}: {line}"


def interrupted(show: Callable[..., None]) -> Callable[..., None]:
    def show_and_interrupt(display: mtk.display.Display, event: Any) -> None:
        show(display, event)
        if isinstance(event, StepDone):
            signal.raise_signal(signal.SIGINT)

    return show_and_interrupt


RUN = (
    *("README.md", "docs/README.md", "docs/concepts.md"),
    *("docs/migrate-from-a-course-notebook.md", "docs/migrate-from-machamp.md"),
    *(f"docs/tutorials/{name}.md" for name in ("first-run", "train-three-tasks", "your-own-data", "use-a-model")),
    *(f"docs/tutorials/{name}.md" for name in ("conflict-report", "tune", "scale-out", "reproduce-a-paper")),
)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_page_runs(page: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^```(bash|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found
    for language, block in found:
        if language == "python":
            exec(compile(block, page, "exec"), names)
        else:
            for line in lines_of(block):
                command(line, monkeypatch)


def test_every_page_with_commands_runs() -> None:
    """But for the two that go through an example package, which tests/test_examples.py installs."""
    apart = {"docs/tutorials/write-a-combiner.md", "docs/tutorials/write-a-task-plugin.md"}
    with_commands = {str(page.relative_to(ROOT)) for page in PAGES if blocks(page, "bash")}
    assert with_commands - apart <= set(RUN)


def test_readme_combiner() -> None:
    """The README's combiner is a sound one."""
    (block,) = (text for text in blocks(ROOT / "README.md", "python") if "(GradientCombiner)" in text)
    names: dict[str, Any] = {"__name__": "page"}
    exec(block, names)
    testing.check_combiner(names["Loudest"])


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_example_runs(script: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    assert capsys.readouterr().out


def test_notebook(tmp_path: Path) -> None:
    """It runs top to bottom in a kernel of its own, with progress and tables in it."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before you commit it"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = "".join(output["data"].get("text/html", "") for output in outputs if "data" in output)
    for text in ("train rows", "epoch 2/2 done", "all epochs done", "aggregate"):
        assert text in shown, text
    assert "did you mean 'pcgrad'" in "".join(output.get("text", "") for output in outputs)


# ---------------------------------------------------------------------------------------------- pages and code


def test_links() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_command_line_page() -> None:
    names = runpy.run_path(str(DOCS / "generate_command_line.py"))
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    assert text == names["reference"](), "run: python docs/generate_command_line.py"


def test_plugin_pages() -> None:
    """A page a kind, as the code has it, and no option without a word on it."""
    pages = runpy.run_path(str(DOCS / "generate_plugins.py"))["pages"]()
    assert {page.removesuffix(".md") for page in pages} == {*KINDS, "command", "types"}
    there = {file.name: file.read_text(encoding="utf-8") for file in (DOCS / "plugins").iterdir()}
    assert there == pages, "run: python docs/generate_plugins.py"
    silent = [line for text in pages.values() for line in text.splitlines() if line.endswith("|  |")]
    assert not silent, "say in the docstring what it does, as `name: ...`"
    public = [
        name for name in mtk.__all__ if inspect.isclass(getattr(mtk, name)) or inspect.isfunction(getattr(mtk, name))
    ]
    for name in public:
        assert re.search(rf"^(class|def) {name}\b", "".join(pages.values()), re.MULTILINE), name


def test_site(tmp_path: Path) -> None:
    """The site builds strictly: every link and anchor leads somewhere, and every page is in the navigation."""
    pytest.importorskip("zensical")
    for name in ("docs", "zensical.toml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert f'"{page.relative_to(DOCS)}"' in navigation, page
    (tmp_path / "docs" / "log.md").write_text("[gone](results.md#no-such-heading)\n", encoding="utf-8")
    broken = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert broken.returncode != 0


def test_example_files() -> None:
    """Every block of the tutorial that begins with a file's name is that file."""
    page, seen = DOCS / "tutorials" / "write-a-combiner.md", set()
    for block in blocks(page, "python", "toml"):
        name, _, content = block.partition("\n")
        file = ROOT / "examples" / "mtk-loudest" / name.removeprefix("# ")
        assert content.strip() == file.read_text(encoding="utf-8").strip(), f"{page.name} and {file} differ"
        seen.add(file)
    source = set((ROOT / "examples" / "mtk-loudest").rglob("*.py"))
    assert source <= seen and any(file.suffix == ".toml" for file in seen)


def test_readme_entry_point() -> None:
    (block,) = blocks(ROOT / "README.md", "toml")
    example = tomllib.loads((ROOT / "examples/mtk-loudest/pyproject.toml").read_text(encoding="utf-8"))
    assert tomllib.loads(block)["project"]["entry-points"] == example["project"]["entry-points"]


def functions(tree: ast.AST) -> dict[str, str]:
    """The signatures in a module or class body, by name; those of a class as `Class.name`."""
    found = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            found[node.name] = f"({ast.unparse(node.args)}) -> {ast.unparse(node.returns) if node.returns else ''}"
        elif isinstance(node, ast.ClassDef):
            found.update({f"{node.name}.{name}": signature for name, signature in functions(node).items()})
            fields = (child for child in node.body if isinstance(child, ast.AnnAssign))
            found.update({f"{node.name}.{ast.unparse(child.target)}": ast.unparse(child) for child in fields})
    return found


def test_plugins_page() -> None:
    """Every signature in docs/plugins.md is that of the code, every hook has one, and every kind a section."""
    page = DOCS / "plugins.md"
    shown: dict[str, str] = {}
    for block in blocks(page, "python"):
        shown.update(functions(ast.parse(block)))
    code: dict[str, str] = {}
    for module in (hookspecs, interfaces):
        code.update(functions(ast.parse(inspect.getsource(module))))
    for name, signature in shown.items():
        assert signature == code.get(name), name
    assert {name for name in code if name.startswith("register_")} <= set(shown)
    abstract = {"source", "examples", "forward", "save", "factor", "rows", "__call__", "next", "combine"}
    assert abstract <= {name.rpartition(".")[2] for name in shown}
    text = page.read_text(encoding="utf-8")
    for kind in (*KINDS, "command"):
        section = re.search(rf"^### {kind}s$(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE | re.IGNORECASE)
        assert section, kind
        built = re.search(r"built with (\(.*?\))", inspect.getdoc(getattr(hookspecs, f"register_{kind}s")) or "")
        assert built is None or f"Built with `{built[1]}`" in section[1], kind


def test_architecture_names_every_room() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.name if path.is_file() else f"{path.name}/" for path in (ROOT / "mtk").iterdir()}
    for room in rooms - {"__init__.py", "__main__.py", "py.typed", "__pycache__/"}:
        assert f"| `{room}` |" in text, room


def test_architecture_shows_the_arrows() -> None:
    lines = [", ".join(layer) for layer in LAYERS if layer != ("__main__",)]
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert "\n".join(f"    {line}" for line in lines) + "\n\n" in text


def test_data_sets_are_named() -> None:
    text = (DOCS / "licences.md").read_text(encoding="utf-8")
    for published in PUBLISHED.values():
        assert published.title in text
