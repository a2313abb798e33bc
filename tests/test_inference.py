"""A tiny trained run, used from Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mtk
from mtk import DataError, Example, MTKError, TrainedModel, session
from mtk.config import make_config
from mtk.inference import to_json

CONFIG: dict[str, Any] = {
    "tasks": {"sst": {}, "sts": {}, "quora": {"head": "cosine"}},
    "encoder": {"name": "tiny"},
    "data": {"max_train_rows": 64, "sample": "always"},
    "train": {"epochs": 1, "precision": "fp32", "device": "cpu", "threads": 1},
}
TEXTS = ["A fine film.", "bad", "it is not a long story, and the actor knows it; " * 12]
PAIRS = [("A man is eating.", "A man eats."), ("bad", TEXTS[2]), ("A cat sleeps.", "The stock fell.")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> session.Session:
    started = session.start(make_config(CONFIG), tmp_path_factory.mktemp("runs") / "run")
    for _ in started.run():
        pass
    return started


@pytest.fixture(scope="module")
def run(trained: session.Session) -> Path:
    assert trained.folder is not None
    return trained.folder.path


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return mtk.load(run, device="cpu", threads=1)


def test_a_loaded_model_predicts_as_the_one_that_was_saved(trained: session.Session, model: TrainedModel) -> None:
    parts = trained.parts
    before = TrainedModel(parts.config, parts.tasks, parts.model, parts.hardware)
    assert before.predict("sst", TEXTS) == model.predict("sst", TEXTS)
    assert before.predict_all(PAIRS) == model.predict_all(PAIRS)
    assert before.evaluate() == model.evaluate()
    assert not model.model.training


def test_the_scores_of_the_run_come_again(trained: session.Session, run: Path, model: TrainedModel) -> None:
    scores = json.loads((run / "run.json").read_text())["scores"]
    found = model.evaluate()
    assert found.aggregate == pytest.approx(scores["aggregate"], abs=1e-6)
    assert model.evaluate(tasks=["sts"]).tasks == {"sts": pytest.approx(scores["tasks"]["sts"], abs=1e-6)}


@pytest.mark.parametrize("task, rows", [("sst", TEXTS), ("sts", PAIRS), ("quora", PAIRS)])
def test_no_row_depends_on_its_batch_mates(model: TrainedModel, task: str, rows: list[Any]) -> None:
    together = model.predict(task, rows)
    alone = [model.predict(task, [row])[0] for row in rows]
    assert [p.score for p in together] == pytest.approx([p.score for p in alone], abs=1e-5)
    twice = model.predict(task, [rows[2], rows[0], rows[2]])
    assert [p.score for p in twice] == pytest.approx([together[i].score for i in (2, 0, 2)], abs=1e-5)


def test_all_tasks_of_a_row(model: TrainedModel) -> None:
    assert [list(row) for row in model.predict_all(TEXTS)] == [["sst"]] * 3
    both = model.predict_all(PAIRS)
    assert [list(row) for row in both] == [["sts", "quora"]] * 3
    for task in ("sts", "quora"):
        assert [row[task].score for row in both] == pytest.approx(
            [p.score for p in model.predict(task, PAIRS)], abs=1e-5
        )
    assert [list(row) for row in model.predict_all(PAIRS, tasks=["quora"])] == [["quora"]] * 3


def test_tasks_that_read_alike_share_one_encoder_pass(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = TrainedModel(model.config, {**model.tasks, "twin": model.tasks["sts"]}, model.model, model.hardware)
    model.model.heads["twin"] = model.model.heads["sts"]
    passes = []
    handle = model.model.encoder.register_forward_hook(lambda *_: passes.append(1))
    try:
        (row,) = extra.predict_all(PAIRS[:1], tasks=["sts", "twin"])
    finally:
        handle.remove()
        del model.model.heads["twin"]
    assert len(passes) == 1 and row["sts"] == row["twin"]


def test_rows_of_every_form_say_the_same(model: TrainedModel) -> None:
    a, b = PAIRS[0]
    mapping = {"sentence1": a, "sentence2": b}
    forms: list[Any] = [(a, b), [a, b], mapping, Example("x", a, b, 3.0), (f" {a} ", b)]
    values = [p.value for p in model.predict("sts", forms)]
    assert values == pytest.approx([values[0]] * len(forms), abs=1e-5)  # a place in the batch is worth a rounding
    assert list(model.predict_all([mapping])[0]) == ["sts", "quora"]
    assert list(model.predict_all([{"sentence": a, **mapping}])[0]) == ["sst", "sts", "quora"]
    assert list(model.predict_all([["one text in a list"]])[0]) == ["sst"]
    assert model.predict("sst", iter(["x"])) == model.predict("sst", ("x",))


def test_no_rows_no_predictions(model: TrainedModel) -> None:
    assert model.predict("sst", []) == [] == model.predict_all([])
    with pytest.raises(DataError, match="no task 'stt'; did you mean"):
        model.predict("stt", [])
    with pytest.raises(DataError, match="no task 'stt'"):
        model.predict_all([], tasks=["stt"])


ONE: dict[str, tuple[str, Any, str]] = {
    "a bare text": ("sst", "good", r"expected a list of rows, found one str; put it in a list: \[row\]"),
    "a bare mapping": ("sst", {"sentence": "x"}, "expected a list of rows, found one dict"),
    "a bare example": ("sst", Example("x", "y"), "expected a list of rows, found one Example"),
    "empty text": ("sst", ["good", " \n"], "row 2: task 'sst': sentence: expected a text, found an empty one"),
    "needless text": ("sst", [("a", "b")], r"row 1: task 'sst' reads one text \(sentence\), found two texts"),
    "no second text": ("sts", ["a"], r"'sts' reads two texts \(sentence1, sentence2\), found one text"),
    "three texts": ("sts", [("a", "b", "c")], "found 3 texts"),
    "second text empty": ("sts", [("a", "")], "sentence2: expected a text, found an empty one"),
    "a number": ("sst", [3], r"reads one text \(sentence\), found a row of type int"),
    "none": ("sts", [("a", None)], "sentence2: expected a text, found type NoneType"),
    "bytes": ("sst", [b"ab"], "found a row of type bytes"),
    "a column is missing": ("sts", [{"sentence1": "a", "sentense2": "b"}], "sentence2 is missing.* mean 'sentense2'"),
    "unknown task": ("stss", ["a"], "the run has no task 'stss'; did you mean 'sts'"),
}


@pytest.mark.parametrize("task, rows, message", ONE.values(), ids=ONE)
def test_a_wrong_row_is_one_clear_line(model: TrainedModel, task: str, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        model.predict(task, rows)
    assert "\n" not in str(caught.value)


ALL: dict[str, tuple[Any, str]] = {
    "a bare text": ("good", "expected a list of rows"),
    "mixed": (["a", ("a", "b")], r"row 2: task 'sst' reads one text \(sentence\), found two texts"),
    "mixed the other way": ([("a", "b"), "a"], "row 2: task 'sts' reads two texts"),
    "columns of nobody": ([{"x": "a"}], "row 1: no task of this run can read it, found the columns x; 'sst' reads one"),
    "three texts": ([("a", "b", "c")], "no task of this run can read it, found 3 texts"),
}


@pytest.mark.parametrize("rows, message", ALL.values(), ids=ALL)
def test_rows_that_no_task_or_not_all_tasks_can_read(model: TrainedModel, rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        model.predict_all(rows)


def test_a_range_stays_in_its_range(run: Path) -> None:
    model = mtk.load(run, device="cpu", threads=1)
    for bias, bound in ((100.0, 5.0), (-100.0, 0.0)):
        with torch.no_grad():
            for parameter in model.model.head("sts").parameters():
                parameter.fill_(bias if parameter.ndim == 1 else 0.0)
        assert [p.value for p in model.predict("sts", PAIRS)] == [bound] * 3


def test_json_of_predictions(model: TrainedModel) -> None:
    (sst,), (sts,) = model.predict("sst", TEXTS[:1]), model.predict("sts", PAIRS[:1])
    shown = json.loads(json.dumps(to_json(sst)))
    assert sum(shown["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert shown["score"] == shown["probabilities"][shown["label"]] == max(shown["probabilities"].values())
    assert list(to_json(sts)) == ["label", "score"]


# ---------------------------------------------------------------------------------------------- other data


def test_another_folder_and_a_file(model: TrainedModel, tmp_path: Path) -> None:
    header = "\tid\tsentence1\tsentence2\tsimilarity\n"
    (tmp_path / "sts-dev.csv").write_text(header + "0\ta\tone\tone\t5\n1\tb\ta dog\tthe sea\t0\n2\tc\tx\ty\t1\n")
    (tmp_path / "sts-test-student.csv").write_text("\tid\tsentence1\tsentence2\n0\ta\tone\ttwo\n")
    of_folder = model.evaluate(data=tmp_path, tasks=["sts"])
    assert of_folder == model.evaluate(data=tmp_path / "sts-dev.csv", tasks=["sts"])
    (tmp_path / "part.csv").write_text((tmp_path / "sts-dev.csv").read_text() + "3\td\tno\tlabel\t\n")
    assert of_folder == model.evaluate(data=tmp_path / "part.csv", tasks=["sts"]), "rows without labels are left out"
    with pytest.raises(DataError, match=r"'sts': none of the 1 rows of the test split of .* has a label"):
        model.evaluate("test", data=tmp_path, tasks=["sts"])
    with pytest.raises(DataError, match="expected a folder of data files, found a file; a single file serves a single"):
        model.evaluate(data=tmp_path / "sts-dev.csv")
    with pytest.raises(DataError, match="found no such file or folder"):
        model.evaluate(data=tmp_path / "nothing")
    with pytest.raises(DataError, match="expected a file of task 'sst'"):
        model.evaluate(data=tmp_path)
    with pytest.raises(DataError, match="at least one task"):
        model.evaluate(tasks=[])
    assert model.tasks["sts"].source.sample, "the run's own tasks stay where they were"


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path]:
    """A run of a table whose dev and test rows are carved, and the table."""
    table = tmp_path / "own.csv"
    rows = [f"{i},{'good' if i % 2 else 'bad'} text {i},{'yes' if i % 2 else 'no'}" for i in range(60)]
    table.write_text("\n".join(["id,text,label", *rows]) + "\n")
    tasks = {"own": {"kind": "classes", "data": str(table), "labels": ["no", "yes"], "id": "id"}}
    for _ in session.start(make_config({**CONFIG, "tasks": tasks, "data": {}}), tmp_path / "run").run():
        pass
    return tmp_path / "run", table


def test_a_changed_table_is_carved_with_a_warning(
    own: tuple[Path, Path], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    run, table = own
    mtk.load(run).evaluate()
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "moved").mkdir()
    shutil.copy(table, tmp_path / "moved")
    mtk.load(tmp_path / "copy").evaluate("test", data=tmp_path / "moved")
    assert not recwarn.list, "the same rows"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *rows[::-1][3:]]) + "\n")
    said = r"'own': dev is carved from files other than those of the run \(own.csv changed\); some of these rows may"
    with pytest.warns(UserWarning, match=said):
        mtk.load(run).evaluate()
    with pytest.warns(UserWarning, match=r"'own': test is carved"):
        mtk.load(run, data=tmp_path).evaluate("test", data=tmp_path)
    mtk.load(run).evaluate("train")
    assert not recwarn.list, "train rows are trained on anyway"


def test_the_file_that_a_task_was_trained_from_is_not_scored_whole(own: tuple[Path, Path], tmp_path: Path) -> None:
    run, table = own
    model = mtk.load(run)
    shutil.copy(table, tmp_path / "two.csv")
    with pytest.raises(DataError, match=r"two.csv: task 'own' was trained on rows of this file.* folder of own.csv"):
        model.evaluate(data=tmp_path / "two.csv")
    new = tmp_path / "new"
    new.mkdir()
    (new / "own.csv").write_text("id,text,label\na,good text 1,yes\n")
    with pytest.warns(UserWarning, match="trained on a file of this name, with other content"):
        model.evaluate(data=new / "own.csv")
    (new / "own.csv").rename(new / "other.csv")
    assert len(model.examples("own", data=new / "other.csv").examples) == 1, "a new file is scored, all of it"


# ---------------------------------------------------------------------------------------------- damaged runs


def half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))


def unfinished(run: Path) -> None:
    shutil.rmtree(run / "best")
    edit(run / "run.json", lambda facts: facts.pop("best_epoch"))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "before its first epoch": (unfinished, r"no best/ model yet.*first epoch.*mtk train --resume"),
    "best lost": (lambda run: shutil.rmtree(run / "best"), r"best: missing, though the run's epoch 1 was saved there"),
    "best empty": (lambda run: (shutil.rmtree(run / "best"), (run / "best").mkdir()), "best: no checkpoint here"),
    "heads cut off": (lambda run: half(run / "best/heads.safetensors"), r"heads.safetensors: corrupt or truncated"),
    "heads lost": (lambda run: (run / "best/heads.safetensors").unlink(), r"heads.safetensors: missing"),
    "encoder cut off": (lambda run: half(run / "best/encoder/model.safetensors"), r"model.safetensors: corrupt"),
    "model.json cut off": (lambda run: half(run / "best/model.json"), r"model.json: damaged, not JSON"),
    "model.json of another shape": (
        lambda run: edit(run / "best/model.json", lambda tree: tree.pop("encoder")),
        r"model.json: damaged, expected an encoder",
    ),
    "best of another version": (
        lambda run: edit(run / "best/model.json", lambda tree: tree.update(format=7)),
        "a checkpoint of format 7, but this mtk reads",
    ),
    "run of another version": (
        lambda run: edit(run / "run.json", lambda tree: tree.update(format=7, mtk="3.0")),
        r"a run folder of format 7 \(mtk 3.0\), but this mtk",
    ),
    "run.json cut off": (lambda run: half(run / "run.json"), "run.json: damaged, not JSON"),
    "config.toml lost": (lambda run: (run / "config.toml").unlink(), "config.toml: cannot be read"),
    "no run": (lambda run: (run / "run.json").unlink(), "not a run folder"),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_one_clear_line(
    run: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    damage(copy)
    with pytest.raises(MTKError, match=message):
        mtk.load(copy, device="cpu")


def test_options_of_load(run: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"device": "gpu"}, "device: .*'cuda' or 'mps', found 'gpu'"),
        ({"threads": 0}, "threads:"),
    ):
        with pytest.raises(MTKError, match=message):
            mtk.load(run, **options)  # type: ignore[arg-type]
    with pytest.raises(MTKError, match="no such run folder"):
        mtk.load(tmp_path / "nothing")
    with pytest.raises(MTKError, match="expected a file of task 'sst'"):
        mtk.load(run, device="cpu", data=tmp_path).evaluate()


def test_precision_follows_the_device(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for device, precision in (("cuda", "fp32"), ("cpu", "bf16")):
        edit(copy / "run.json", lambda facts: facts["hardware"].update(device=device, precision="bf16"))  # noqa: B023
        assert mtk.load(copy, device="cpu").hardware.precision == precision
