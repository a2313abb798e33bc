"""Our scores beside NumPy's, scikit-learn's and the course's way to count, and submission files that score the same.

"The course" is evaluation.py and multitask_classifier.py of github.com/gpoesia/minbert-default-final-project at commit
7ac8260: accuracy is the mean of ==, similarity np.corrcoef, and a prediction file is a header and `id , value` lines.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

import mtk
from mtk import Prediction, TrainedModel
from mtk.cli.app import run as command
from mtk.data import fuse, tokenise
from mtk.evaluation import Scores

TASKS = ("sst", "quora", "sts")
HEADERS = {
    "sst": "id \t Predicted_Sentiment \n",
    "para": "id \t Predicted_Is_Paraphrase \n",
    "sts": "id \t Predicted_Similiary \n",  # the course's spelling
}
PRIMARY = {"sst": "accuracy", "quora": "accuracy", "sts": "pearson"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run on the sample, trained just long enough that it predicts more than one class."""
    out = tmp_path_factory.mktemp("runs") / "run"
    mtk.train(
        TASKS, out=out, quiet=True, sample=True, encoder="tiny:layers=1,hidden_size=16", encoder_dropout=0.0,
        dropout=0.0, epochs=4, lr=0.01, scheduler="constant", batch_size=16, max_train_rows=160, device="cpu",
        precision="fp32", threads=1,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> TrainedModel:
    return mtk.load(run, device="cpu", threads=1)


@pytest.fixture(scope="module")
def predicted(model: TrainedModel) -> dict[str, list[Prediction]]:
    return {name: model.predict(name, model.tasks[name].examples("dev")) for name in TASKS}


def gold(model: TrainedModel, name: str) -> list[Any]:
    return [row.label for row in model.tasks[name].examples("dev")]


def values(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([p.value for p in predictions])


# ---------------------------------------------------------------------------------------------- scores


def test_accuracy_is_numpy_s_and_scikit_learn_s(model: TrainedModel, predicted: dict[str, list[Prediction]]) -> None:
    scores = model.evaluate()
    for name in ("sst", "quora"):
        guesses, labels = values(predicted[name]), np.array(gold(model, name))
        found = scores.tasks[name]
        assert len(set(guesses)) > 1 and 0 < found["accuracy"] < 1
        assert found["accuracy"] == pytest.approx(np.mean(guesses == labels), abs=1e-12)
        assert found["accuracy"] == pytest.approx(accuracy_score(labels, guesses), abs=1e-12)
        assert found["macro_f1"] == pytest.approx(f1_score(labels, guesses, average="macro"), abs=1e-12)


def test_pearson_is_numpy_s(model: TrainedModel, predicted: dict[str, list[Prediction]]) -> None:
    guesses, labels = values(predicted["sts"]), np.array(gold(model, "sts"))
    assert len(set(guesses)) > 20 and any(label % 1 for label in labels)
    assert model.evaluate().tasks["sts"]["pearson"] == pytest.approx(np.corrcoef(guesses, labels)[1][0], abs=1e-9)


def test_the_aggregate_is_the_plain_mean(run: Path, model: TrainedModel, capsys: pytest.CaptureFixture[str]) -> None:
    """Of accuracy, accuracy and Pearson's r as it is, whatever the sizes of the splits: also on the command line."""
    scores = model.evaluate()
    assert scores.primary == PRIMARY
    three = [scores.tasks[name][metric] for name, metric in PRIMARY.items()]
    assert scores.aggregate == pytest.approx(np.mean(three), abs=1e-12)
    assert Scores({"a": {"x": 0.2}, "b": {"x": -0.6}}, {"a": "x", "b": "x"}).aggregate == pytest.approx(-0.2)
    assert command(["evaluate", str(run), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["aggregate"] == pytest.approx(np.mean(three), abs=1e-9)
    for name, metric in PRIMARY.items():
        assert shown["tasks"][name]["metrics"][metric] == pytest.approx(scores.tasks[name][metric], abs=1e-9)


def test_the_course_s_way_from_outputs_to_predictions(
    model: TrainedModel, predicted: dict[str, list[Prediction]]
) -> None:
    """argmax for sentiment, the rounded sigmoid of a logit for paraphrase, the raw number for similarity.

    Two logits are one: the second less the first. Numbers are kept inside their range here, and not in the course.
    """
    parts = model.model.eval()
    raw = {}
    for name in TASKS:
        task = model.tasks[name]
        rows = tokenise(parts.encoder, parts.head(name), task.paired, task.examples("dev"), 128)
        with torch.no_grad():
            raw[name] = parts(fuse({name: rows}, {name: np.arange(len(rows))}, parts.encoder.tokenizer.pad_id))[name]
    assert (values(predicted["sst"]) == raw["sst"].argmax(dim=-1).numpy()).all()
    logit = raw["quora"][:, 1] - raw["quora"][:, 0]
    assert (values(predicted["quora"]) == logit.sigmoid().round().numpy()).all()
    numbers = raw["sts"].flatten().numpy() * 1.25 + 2.5
    assert values(predicted["sts"]) == pytest.approx(np.clip(numbers, 0, 5), abs=1e-5)


# ---------------------------------------------------------------------------------------------- submission files


def read_submission(file: Path) -> dict[str, float]:
    """As an evaluator would: past the header, comma-separated, blanks around fields ignored."""
    with file.open(newline="") as stream:
        next(stream)
        rows = [[field.strip() for field in row] for row in csv.reader(stream)]
    assert all(len(row) == 2 for row in rows)
    found = {identity: float(value) for identity, value in rows}
    assert len(found) == len(rows)
    return found


def test_submission_files_of_a_run_score_what_the_run_scores(
    run: Path, model: TrainedModel, predicted: dict[str, list[Prediction]], tmp_path: Path
) -> None:
    """The dev files that `mtk predict --cs224n` writes for a trained run, in the course's form and read back."""
    out = tmp_path / "predictions"
    assert command(["predict", str(run), "--cs224n", str(out)]) == 0
    forms = {"sst": r"[0-4]", "para": r"[01]\.0", "sts": r"[0-5](\.\d+)?(e-\d+)?"}
    scored = {}
    for prefix, name in (("sst", "sst"), ("para", "quora"), ("sts", "sts")):
        file = out / f"{prefix}-dev-output.csv"
        lines = file.read_bytes().decode("utf-8").splitlines(keepends=True)
        assert lines[0] == HEADERS[prefix]
        assert all(re.fullmatch(rf"\S+ , {forms[prefix]} \n", line) for line in lines[1:])
        rows = model.tasks[name].examples("dev")
        found = read_submission(file)
        assert list(found) == [row.id for row in rows]
        assert list(found.values()) == [float(p.value) for p in predicted[name]]
        labels = np.array([float(row.label) for row in rows])
        guesses = np.array([found[row.id] for row in rows])
        scored[name] = np.corrcoef(guesses, labels)[1][0] if name == "sts" else np.mean(guesses == labels)
    scores = model.evaluate()
    for name, metric in PRIMARY.items():
        assert scored[name] == pytest.approx(scores.tasks[name][metric], abs=1e-9)
    assert np.mean(list(scored.values())) == pytest.approx(scores.aggregate, abs=1e-9)


def test_a_test_file_of_the_course_is_answered_row_for_row(run: Path, tmp_path: Path) -> None:
    """The course's test files: no label, an index column (two of them for SST), ids as they stand."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    texts = ["a bad film", "what a lovely and funny story this is", "dull", "fine music , but too long a film"]
    ids = ["e0c7d51ab", "03b2f", "9a9d", "77aa01"]
    single = "\t\tid\tsentence\n" + "".join(f"{i}\t{i}\t{ids[i]}\t{texts[i]}\n" for i in range(4))
    paired = "\tid\tsentence1\tsentence2\n" + "".join(f"{i}\t{ids[i]}\t{texts[i]}\t{texts[-i]}\n" for i in range(4))
    (data / "ids-sst-test-student.csv").write_text(single)
    (data / "quora-test-student.csv").write_text(paired)
    (data / "sts-test-student.csv").write_text(paired)
    assert command(["predict", str(run), "--cs224n", str(out), "--data", str(data)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [f"{name}-test-output.csv" for name in ("para", "sst", "sts")]
    for prefix in HEADERS:
        assert (out / f"{prefix}-test-output.csv").read_text().splitlines(keepends=True)[0] == HEADERS[prefix]
        assert list(read_submission(out / f"{prefix}-test-output.csv")) == ids
