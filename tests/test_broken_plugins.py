"""A broken plugin of each kind, in each way: one line names it, and other work goes on."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

import mtk
import mtk.plugins
from mtk import PluginError
from mtk.cli.app import run
from mtk.config import make_config
from mtk.exports import export
from mtk.plugins import KINDS, Plugins
from mtk.sweep import Cell, Sweep
from mtk.testing.results import toy_model
from tests.test_docs import SMALL_OPTIONS
from tests.toys import ToyEncoder

NAME = "bad"


# ---------------------------------------------------------------------------------------------- broken, of each kind


class Raises:
    """Mixed into a class of a kind: whatever the core calls first fails."""

    def fail(self, *arguments: Any, **named: Any) -> Any:
        raise RuntimeError("out of\nluck")


class BadTask(Raises, mtk.Task):
    target = mtk.Classes(["no", "yes"])

    @property
    def source(self) -> mtk.Source:
        return mtk.Source("nowhere")

    def examples(self, split: str) -> Any:
        return self.fail()


class BadHead(Raises, mtk.Head):
    forward = Raises.fail


class BadEncoder(ToyEncoder):
    def forward(self, batch: Any) -> Any:
        raise RuntimeError("out of\nluck")


class BadCombiner(Raises, mtk.GradientCombiner):
    loss_weights = Raises.fail


class BadScheduler(Raises, mtk.Scheduler):
    factor = Raises.fail


class BadMixer(Raises, mtk.Mixer):
    rows = Raises.fail


class BadAugmentation(Raises, mtk.Augmentation):
    __call__ = Raises.fail


class BadTuner(Raises, mtk.Tuner):
    next = Raises.fail


class BadExecutor(Raises, mtk.Executor):
    open = threads = start = Raises.fail

    def close(self) -> None: ...


class BadExporter(Raises):
    __call__ = Raises.fail


class BadReport(Raises):
    __call__ = Raises.fail


def bad_recipe() -> Path:
    raise RuntimeError("out of\nluck")


BAD: dict[str, Any] = {
    "task": BadTask,
    "head": BadHead,
    "encoder": BadEncoder,
    "combiner": BadCombiner,
    "scheduler": BadScheduler,
    "mixer": BadMixer,
    "augmentation": BadAugmentation,
    "tuner": BadTuner,
    "executor": BadExecutor,
    "exporter": BadExporter,
    "recipe": bad_recipe,
    "report": BadReport,
}


def plugin(kind: str, build: Any = None, name: str = NAME, **attributes: Any) -> types.ModuleType:
    """A plugin module that registers one thing of a kind."""
    module = types.ModuleType("mtk_bad")

    def hook(register: Callable[..., None]) -> None:
        register(name, BAD[kind] if build is None else build, "a broken one")

    hook.__name__ = f"register_{kind}s"
    setattr(module, hook.__name__, mtk.hookimpl(hook))
    for attribute, value in attributes.items():
        setattr(module, attribute, value)
    return module


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Plugins]:
    """Puts the built-in plugins and this one in place of whatever is installed here."""

    def put(module: Any) -> Plugins:
        found = Plugins()
        found.add("bad", module, "mtk-bad", "0.3")
        monkeypatch.setattr(mtk.plugins, "_default", found)
        return found

    return put


# ---------------------------------------------------------------------------------------------- set aside


def duplicate(kind: str) -> types.ModuleType:
    return plugin(kind, name=next(iter(mtk.plugins.registered(kind))))


def wrong_signature(kind: str) -> types.ModuleType:
    module = types.ModuleType("mtk_bad")

    def hook(registry: Any) -> None: ...

    hook.__name__ = f"register_{kind}s"
    setattr(module, hook.__name__, mtk.hookimpl(hook))
    return module


WAYS: dict[str, tuple[Callable[[str], Any], str]] = {
    "wrong signature": (wrong_signature, "a hook's one argument is 'register'"),
    "duplicate name": (duplicate, "is already there, from plugin"),
    "older version": (
        lambda kind: plugin(kind, MTK_API=0),
        "plugin 'bad' (mtk-bad 0.3) is built for version 0 of the plugin interface, but this mtk has version 1; "
        "install a newer mtk-bad",
    ),
    "newer version": (lambda kind: plugin(kind, MTK_API=2), "install a newer multitask-toolkit"),
    "no version": (lambda kind: plugin(kind, MTK_API="1"), "MTK_API: expected a whole number, found '1'"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_set_aside_and_all_others_are_there(kind: str, way: str, use: Callable[[Any], Plugins]) -> None:
    make, text = WAYS[way]
    others = set(mtk.plugins.registered(kind))
    found = use(make(kind))
    (broken,) = found.broken()
    assert (broken.plugin, broken.distribution, broken.version) == ("bad", "mtk-bad", "0.3")
    assert text in broken.reason and "'bad'" in broken.reason and "\n" not in broken.reason
    assert set(found.registered(kind)) == others


def test_this_version_is_no_other(use: Callable[[Any], Plugins]) -> None:
    assert use(plugin("scheduler", MTK_API=1)).broken() == []


class Fails:
    """An entry point whose module cannot be imported."""

    name = "bad"
    dist = types.SimpleNamespace(name="mtk-bad", version="0.3")

    def load(self) -> Any:
        raise ImportError("no module\nnamed nose")


def test_one_that_cannot_be_imported_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = Distribution.from_name("multitask-toolkit").entry_points.select(group="mtk")
    monkeypatch.setattr(mtk.plugins, "_default", Plugins([*points, Fails()]))
    assert run(["plugins", "list"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.split()[:2] == ["broken", "bad"] and last.split()[-2:] == ["mtk-bad", "0.3"]
    assert run(["recipes"]) == 0
    reason = r"plugin 'bad' \(mtk-bad 0.3\) is left out: ImportError: no module named nose \(tests/[a-z_.]+:\d+\)"
    assert re.fullmatch(f"warning: {reason}\n", capsys.readouterr().err)
    assert run(["--traceback", "recipes"]) == 0
    whole = capsys.readouterr().err
    assert "Traceback" in whole and 'raise ImportError("no module\\nnamed nose")' in whole
    assert run(["--traceback", "plugins", "list"]) == 0
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_package_is_told_with_the_place_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "mtk_lacking"
    package.mkdir()
    (package / "__init__.py").write_text("import mtk\nfrom mtk_lacking import inner\n")
    (package / "inner.py").write_text("\nimport nosuchlib.part\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("lacking", "mtk_lacking", "mtk")
    monkeypatch.setattr(mtk.plugins, "_default", Plugins([point]))
    assert run(["recipes"]) == 0
    assert capsys.readouterr().err == (
        "warning: plugin 'lacking' is left out: ModuleNotFoundError: No module named 'nosuchlib' "
        "(mtk_lacking/inner.py:2); pip install nosuchlib\n"
    )
    use = Plugins()
    use.add("late", plugin("head", "mtk_lacking.inner:Head"), "mtk-late", "2")
    told = r"plugin 'late' \(mtk-late 2\), hook .*\(mtk_lacking/inner.py:2\); pip install nosuchlib$"
    with pytest.raises(PluginError, match=told):
        use.build("head", NAME)


def commanding(path: str, function: Any = print) -> types.ModuleType:
    @mtk.hookimpl
    def register_commands(register: mtk.RegisterCommand) -> None:
        register(path, function, "says hello")

    return plugin("mixer", Few, register_commands=register_commands)


def unreadable(size: int | str) -> None:
    """Typer takes no union."""


@pytest.mark.parametrize(
    ("path", "function", "text"),
    [
        ("train", print, "'mtk train' is a command of mtk itself; choose another path"),
        ("tune", print, "'mtk tune' is a command of mtk itself; choose another path"),
        ("plugins list", print, "'mtk plugins list' is a command of mtk itself"),
        ("data check", print, "'mtk data check' is a command of mtk itself"),
        ("train now", print, "'mtk train' is a command of mtk itself and no group"),
        ("a b c", print, "expected a path of one word or two"),
        ("hello", unreadable, "its function cannot be read: "),
    ],
)
def test_a_command_without_a_place_is_set_aside_and_mtk_s_own_stay(
    path: str, function: Any, text: str, use: Callable[[Any], Plugins], capsys: pytest.CaptureFixture[str]
) -> None:
    found = use(commanding(path, function))
    assert run(["--version"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: plugin 'bad' (mtk-bad 0.3): its command '{path}' is left out: {text}")
    assert "bad" in found.registered("mixer")  # what else the plugin adds is there
    assert run(["train", "--help"]) == run(["data", "check", "--help"]) == run(["plugins", "list"]) == 0
    shown = capsys.readouterr().out
    assert "says hello" not in shown and "--encoder" in shown and f"its command '{path}' is left out" in shown


def test_a_command_with_a_place_is_there(use: Callable[[Any], Plugins], capsys: pytest.CaptureFixture[str]) -> None:
    use(commanding("hello world", lambda: print("hello")))
    assert run(["hello", "world"]) == 0
    assert capsys.readouterr() == ("hello\n", "")


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_imported_when_it_is_built(kind: str, use: Callable[[Any], Plugins]) -> None:
    found = use(plugin(kind, "mtk_nobody:Thing"))
    assert found.broken() == []
    with pytest.raises(
        PluginError, match=rf"plugin 'bad' \(mtk-bad 0.3\), hook 'register_{kind}s', name 'bad', argument 'build'"
    ):
        found.build(kind, NAME)


# ---------------------------------------------------------------------------------------------- fails when it is used

TRAIN = ["train", "--task", "sst", "--task", "sts", "--sample", "--max-steps", "1"]
SEARCH = ["tune", "--task", "sst", "--sample", "--space", "optim.lr=choice(0.1, 0.2)", "--trials", "1"]
USES: dict[str, list[str]] = {
    "task": [*TRAIN, "--task", "bad"],
    "head": [*TRAIN, "--head", "sst=bad"],
    "encoder": [*TRAIN, "--encoder", "bad"],
    "combiner": [*TRAIN, "--combiner", "bad"],
    "scheduler": [*TRAIN, "--scheduler", "bad"],
    "mixer": [*TRAIN, "--mixer", "bad"],
    "augmentation": [*TRAIN, "--augment", "bad"],
    "tuner": [*SEARCH, "--tuner", "bad"],
    "executor": [*SEARCH, "--executor", "bad"],
    "recipe": ["train", "--recipe", "bad", "--sample"],
}


def used(kind: str, tmp_path: Path) -> list[str]:
    small = list(SMALL_OPTIONS)
    if kind == "encoder":
        del small[small.index("--encoder") : small.index("--encoder") + 2]
    return [*USES[kind], *small, "--out", str(tmp_path / "out")]


@pytest.mark.parametrize("kind", USES)
def test_one_that_raises_is_named_in_one_line(
    kind: str, use: Callable[[Any], Plugins], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(plugin(kind))
    assert run(used(kind, tmp_path)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"plugin 'bad' (mtk-bad 0.3) failed: RuntimeError: out of luck (tests/{Path(__file__).name}:" in line
    assert kind == "recipe" or f"error: {kind} 'bad' of " in line
    assert line.endswith("mtk --traceback shows the whole of it")
    with pytest.raises(RuntimeError, match="luck"):
        run(["--traceback", *used(kind, tmp_path / "again")])


class Short(BadTask):
    def examples(self, split: str) -> Any:
        return [("a", "b")]


class Rows(BadTask):
    row = mtk.Example("r1", "a text")

    def examples(self, split: str) -> Any:
        return [mtk.Example("r0", "a text", None, 1), self.row]


class Unparsed(Rows):
    row = mtk.Example("r1", "a text", None, "yes")


class OutOfRange(Rows):
    row = mtk.Example("r1", "a text", None, 7)


class NoText(Rows):
    row = mtk.Example("r1", None, None, 1)  # type: ignore[arg-type]


class NoPair(Rows):
    paired = True
    row = mtk.Example("r0", "a text", None, 1)


class Twice(Rows):
    row = mtk.Example("r0", "another text", None, 0)


class Wide(mtk.Head):
    """One output too many, which no loss would notice."""

    def __init__(self, hidden_size: int, target: Any) -> None:
        super().__init__(hidden_size, target)
        self.out = torch.nn.Linear(hidden_size, target.size + 1)

    def forward(self, *features: Any) -> Any:
        return self.out(features[0].pooled)


class Flat(Wide):
    def forward(self, *features: Any) -> Any:
        return super().forward(*features).sum(-1)


class Pair(Wide):
    def forward(self, *features: Any) -> Any:
        return features[0].pooled, features[0].pooled


class Vector(BadHead):
    def __init__(self, hidden_size: int, target: Any) -> None:
        super().__init__(hidden_size, target)
        self.out = torch.nn.Linear(hidden_size, target.size)

    def forward(self, *features: Any) -> Any:
        return self.out(features[0].pooled)

    def loss(self, outputs: Any, targets: Any) -> Any:
        return outputs.sum(0)


class Few(Vector):
    def loss(self, outputs: Any, targets: Any) -> Any:
        return self.target.loss(outputs, targets)

    def predict(self, outputs: Any, targets: Any) -> Any:
        return []


class Indices(Vector):
    loss = Few.loss

    def predict(self, outputs: Any, targets: Any) -> Any:
        return outputs.argmax(1).tolist()


class Remembers(Indices):
    predict = mtk.Head.predict

    def get_extra_state(self) -> Any:
        return self.fail

    def set_extra_state(self, state: Any) -> None: ...


class Lists(ToyEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.tokenizer.encode = lambda rows, max_length: [[1, 2] for _ in rows]  # type: ignore[method-assign]


class Named(ToyEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.spec = "bad"  # type: ignore[assignment]


class Nameless(BadTask):
    def __init__(self, context: mtk.TaskContext) -> None: ...


class Aimless(BadTask):
    target = None  # type: ignore[assignment]


class Listed(BadTask):
    target = ("no", "yes")  # type: ignore[assignment]


class Narrow(BadEncoder):
    def forward(self, batch: Any) -> Any:
        found = ToyEncoder.forward(self, batch)
        return mtk.Features(found.pooled[:, :3], found.tokens, found.mask)


class Matrix(BadCombiner):
    def loss_weights(self, losses: Any, info: Any) -> Any:
        return losses.repeat(2, 1)


class Keeps(BadCombiner):
    def loss_weights(self, losses: Any, info: Any) -> Any:
        return torch.ones_like(losses)

    def state_dict(self) -> Any:
        return {"kept": [torch.zeros(1), self.fail]}


class Forgets(Keeps):
    def state_dict(self) -> Any:
        return None


class Nowhere(BadCombiner):
    needs = "gradients"

    def combine(self, chunk: Any, info: Any) -> Any:
        return None


class Silent(BadScheduler):
    def factor(self, progress: Any) -> Any:
        return None


class Halves(BadMixer):
    def rows(self, sizes: Any, epoch: int, epochs: int, generator: Any) -> Any:
        return {name: size / 2 for name, size in sizes.items()}


class Nothing(BadMixer):
    def rows(self, sizes: Any, epoch: int, epochs: int, generator: Any) -> Any:
        return {}


class One(BadMixer):
    def rows(self, sizes: Any, epoch: int, epochs: int, generator: Any) -> Any:
        return {"sst": sizes["sst"]}


class Unknown(BadMixer):
    def rows(self, sizes: Any, epoch: int, epochs: int, generator: Any) -> Any:
        return {**sizes, "quora": 3}


class Texts(BadAugmentation):
    def __call__(self, task: Any, rows: Any, generator: Any) -> Any:
        return [row.text for row in rows]


class Relabels(BadAugmentation):
    def __call__(self, task: Any, rows: Any, generator: Any) -> Any:
        return [*rows, replace(rows[0], label=99)]


class Bare(BadEncoder):
    def forward(self, batch: Any) -> Any:
        return ToyEncoder.forward(self, batch).pooled


class Unsaved(ToyEncoder):
    def save(self, folder: Path) -> None: ...


class Misspelt(BadTuner):
    def next(self, state: Any) -> Any:
        return mtk.Job(1, {"optim.lrr": 0.1})


class Bagless(BadTuner):
    def next(self, state: Any) -> Any:
        return mtk.Job(1, [0.1])  # type: ignore[arg-type]


class Workless(BadExecutor):
    def open(self, folder: Path, slots: int) -> list[str]:
        return []

    def threads(self, slots: int) -> None:
        return None

    def start(self, log: Path) -> Any:
        return None


class Unasked(Workless):
    def start(self) -> Any:  # type: ignore[override]
        return None


class Unplaced:
    def __call__(self, model: Any) -> Any: ...


class Undecided(BadTuner):
    def next(self, state: Any) -> Any:
        return None if state.trials else mtk.Job(2, state.sample(0))

    def keep(self, state: Any, trial: Any) -> Any:
        return None


class Elsewhere(BadTuner):
    def next(self, state: Any) -> Any:
        return mtk.Job(1, trial=7)


def folder_of_nothing() -> Any:
    return "recipe.toml"


ANSWERS: list[tuple[str, Any, str]] = [
    ("task", Short, "the train rows of task 'bad': expected Examples, found a tuple as row 1"),
    ("task", Unparsed, "of task 'bad': row 'r1': expected a label as Classes.parse gives it, found 'yes'"),
    ("task", OutOfRange, "of task 'bad': row 'r1': expected a label as Classes.parse gives it, found 7"),
    ("task", NoText, "of task 'bad': row 'r1': expected a str as its text, found None"),
    ("task", NoPair, "of task 'bad': row 'r0': expected a str as its pair, found None"),
    ("task", Twice, "of task 'bad': expected an id of its own for each row, found 'r0' twice"),
    ("head", Wide, "forward of task 'sst': expected outputs of shape [2, 5], found [2, 6]"),
    ("head", Flat, "forward of task 'sst': expected outputs of shape [2, 5], found [2]"),
    ("head", Pair, "forward of task 'sst': expected outputs of shape [2, 5], found tuple"),
    ("encoder", Unsaved, "save: expected files in the folder that it was given, found none"),
    ("head", Vector, "loss of task 'sst': expected a tensor with one number, found [5]"),
    ("head", Few, "predict of task 'sst': expected 48 predictions, found 0"),
    ("task", Nameless, "Nameless has no name; call super().__init__(context)"),
    ("task", Aimless, "Aimless.target: expected a Target, found none"),
    ("task", Listed, "Listed.target: expected a Target, found ('no', 'yes')"),
    ("head", Indices, "predict of task 'sst': expected Predictions, found int"),
    ("head", Remembers, "state of task 'sst': _extra_state: expected a tensor, found method"),
    ("encoder", Lists, "tokenizer.encode: expected Encodings, found list"),
    ("encoder", Named, "spec: expected a registered name and a mapping of options, found 'bad'"),
    ("encoder", Bare, ", found a Tensor"),
    ("encoder", Narrow, "forward: expected Features with pooled of shape"),
    ("combiner", Matrix, "expected weights of shape (2,), found (2, 2)"),
    ("combiner", Keeps, "state_dict: expected a mapping of tensors, numbers, texts, lists and mappings, found method"),
    ("combiner", Forgets, "numbers, texts, lists and mappings, found NoneType"),
    ("combiner", Nowhere, ".combine: expected a chunk of shape"),
    ("scheduler", Silent, "factor after 0 of 2 steps: expected a number from 0 up, found None"),
    ("mixer", Halves, "rows: expected a whole number of rows for each task, found {'sst': 8.0, 'sts': 8.0}"),
    ("mixer", Nothing, "rows: expected rows of every task in some epoch of 1, found none of sst, sts"),
    ("mixer", One, "rows: expected rows of every task in some epoch of 1, found none of sts"),
    ("mixer", Unknown, "rows: expected counts of the tasks sst, sts alone, found quora"),
    ("augmentation", Texts, "rows of task 'sst': expected Examples, found a str as row 1"),
    ("augmentation", Relabels, "expected a label as Classes.parse gives it, found 99"),
    ("tuner", Undecided, "keep of trial 0: expected True or False, found None"),
    ("tuner", Misspelt, "next: expected a Job with values for optim.lr, found parameters={'optim.lrr': 0.1}"),
    ("tuner", Bagless, "next: expected a Job with values for optim.lr, found parameters=[0.1]"),
    ("tuner", Elsewhere, "tuner 'bad': expected a job"),
    ("executor", Workless, "executor 'bad' of plugin 'bad' (mtk-bad 0.3): start: expected a mtk.Worker, found None"),
    ("executor", Unasked, "plugin 'bad' (mtk-bad 0.3): Unasked.start() takes 1 positional argument but 2 were given"),
    ("recipe", folder_of_nothing, "gave 'recipe.toml', which is no Path"),
]


@pytest.mark.parametrize(("kind", "build", "text"), ANSWERS, ids=[f"{k}-{b.__name__}" for k, b, _ in ANSWERS])
def test_one_that_gives_something_wrong_is_named_in_one_line(
    kind: str, build: Any, text: str, use: Callable[[Any], Plugins], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(plugin(kind, build))
    assert run(used(kind, tmp_path)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert text in line and "bad'" in line


# ---------------------------------------------------------------------------------------------- and other work goes on


def test_a_sweep_goes_on_after_a_broken_cell_and_broken_reports(
    use: Callable[[Any], Plugins], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @mtk.hookimpl
    def register_reports(register: mtk.Register) -> None:
        register("bad", BadReport, "raises")
        register("odd", lambda: lambda table, folder: "here", "gives no path")
        register("none", lambda: lambda table, folder: folder / "none.txt", "writes no file")
        register("short", Unplaced, "takes no folder")

    found = use(plugin("head", register_reports=register_reports))
    found._registered["report"] = {
        name: found._registered["report"][name] for name in ("bad", "odd", "none", "short", "csv")
    }
    base: dict[str, Any] = {
        "encoder": "tiny",
        "data": {"sample": "always", "max_train_rows": 16},
        "train": {"epochs": 1, "max_steps": 1, "device": "cpu", "precision": "fp32", "threads": 1},
    }
    cells = [Cell(head, make_config({**base, "tasks": {"sst": {"head": head}}})) for head in ("bad", "linear")]
    sweep = Sweep(tmp_path / "out", cells, [1])
    assert sweep.conduct(title="both", command="again") == 2
    assert list(sweep.failures) == [("bad", 1)] and "head 'bad' of plugin 'bad'" in sweep.failures["bad", 1]
    assert len(sweep.results(cells[1])) == 1 and (tmp_path / "out" / "table.csv").is_file()
    shown = " ".join(capsys.readouterr().out.split())
    assert "bad: not written: report 'bad' of plugin 'bad' (mtk-bad 0.3) failed: RuntimeError" in shown
    assert "odd: not written: " in shown and "expected the path of the file that it wrote, found 'here'" in shown
    assert "short: not written: plugin 'bad' (mtk-bad 0.3): Unplaced.__call__() takes 2 positional" in shown
    assert "none: not written: " in shown and "none.txt" in shown


@pytest.mark.parametrize("answer", [None, [], ["file"]])
def test_an_exporter_that_answers_otherwise_is_named(
    use: Callable[[Any], Plugins], tmp_path: Path, answer: Any
) -> None:
    use(plugin("exporter", lambda: lambda model, folder, data: answer))
    text = (
        "no file could be written" if answer == [] else f"expected a list of mtk.Exported, one a file, found {answer}"
    )
    with pytest.raises(mtk.MTKError, match=re.escape(text)):
        export("bad", toy_model(), tmp_path)


def test_an_exporter_that_wrote_nothing_or_cannot_be_called_is_named(
    use: Callable[[Any], Plugins], tmp_path: Path
) -> None:
    use(plugin("exporter", lambda: lambda model, folder, data: [mtk.Exported(folder / "no.txt", 3)]))
    with pytest.raises(PluginError, match=r"its answer: expected files that it wrote, found no file .*no\.txt"):
        export("bad", toy_model(), tmp_path)
    found = use(plugin("exporter", Unplaced))
    with pytest.raises(TypeError) as caught:
        export("bad", toy_model(), tmp_path)
    assert "plugin 'bad' (mtk-bad 0.3): Unplaced.__call__() takes 2 positional" in str(found.blamed(caught.value))


def test_a_broken_task_of_a_run_is_left_out(use: Callable[[Any], Plugins], tmp_path: Path) -> None:
    class Sound(BadTask):
        def examples(self, split: str) -> Any:
            return [mtk.Example(str(i), "a text", None, i % 2) for i in range(4)]

    use(plugin("task", Sound))
    assert (
        run(["train", "--task", "sst", "--task", "bad", "--sample", *SMALL_OPTIONS, "--out", str(tmp_path / "r")]) == 0
    )

    class Broken(BadTask):
        def __init__(self, context: mtk.TaskContext) -> None:
            self.fail()

    use(plugin("task", Broken))
    with pytest.warns(UserWarning, match="task 'bad' is left out: .* failed: RuntimeError: out of luck"):
        model = mtk.load(tmp_path / "r", device="cpu", threads=1)
    assert list(model.tasks) == ["sst"] and len(model.predict("sst", ["a film"])) == 1


class Undefined(BadTask):
    def examples(self, split: str) -> Any:
        return [mtk.Example(str(i), "a text", None, i % 2) for i in range(4)]

    def metrics(self, predictions: Any, labels: Any) -> dict[str, float]:
        return {"accuracy": float("nan")}


def test_a_score_that_is_no_number_is_named(
    use: Callable[[Any], Plugins], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(plugin("task", Undefined))
    tasks = ["--task", "sst", "--task", "bad", "--sample"]
    assert run(["train", *tasks, *SMALL_OPTIONS, "--out", str(tmp_path / "r")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: no number: dev accuracy of task 'bad'; " in shown and "--select-on TASK.METRIC" in shown
    assert run(["train", *tasks, *SMALL_OPTIONS, "--select-on", "sst", "--out", str(tmp_path / "s")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "warning: no number: dev accuracy of task 'bad'; " in shown and "--select-on TASK" not in shown
