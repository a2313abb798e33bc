from pathlib import Path

import pytest
import torch
from mtk_cola.head import attended
from mtk_cola.task import OURS, CoLA

from mtk import DataError, Prediction, TaskContext
from mtk.testing import check_registered


def test_task():
    check_registered("task", "cola")


def test_head():
    check_registered("head", "attend")


def test_equal_scores_give_the_mean_of_real_tokens():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]])  # [1, 3, 2]
    pooled = attended(tokens, torch.zeros(1, 3), torch.tensor([[True, True, False]]))
    assert pooled.tolist() == [[2.0, 4.0]]


def test_matthews_correlation():
    task = CoLA(TaskContext("cola", sample="always"))
    labels = [1, 1, 1, 0]
    same = [Prediction(1, "acceptable", 1.0)] * 4
    assert task.metrics(same, labels)["matthews"] == 0  # though three of four are right
    mixed = [Prediction(value, "", 1.0) for value in (1, 1, 0, 0)]
    found = task.metrics(mixed, labels)["matthews"]
    assert found == pytest.approx(2 / 12**0.5)  # (2 x 1 - 0 x 1) / sqrt(2 x 3 x 1 x 2)


def test_the_sample_is_balanced_and_no_sentence_comes_twice():
    task = CoLA(TaskContext("cola", sample="always"))
    rows = [row for split in ("train", "dev", "test") for row in task.examples(split)]
    assert len({row.text for row in rows}) == len(rows) == 180
    assert sum(row.label for row in rows) == 90


def test_a_bad_row_is_named(tmp_path: Path):
    text = (OURS / "cola-dev.tsv").read_text(encoding="utf-8")
    (tmp_path / "cola-dev.tsv").write_text(text.replace("\t0\n", "\tmaybe\n", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"cola-dev\.tsv:3: .*maybe"):
        CoLA(TaskContext("cola", tmp_path)).examples("dev")


def test_a_folder_without_our_files_leaves_ours(tmp_path: Path):
    assert CoLA(TaskContext("cola", tmp_path)).source.files["dev"] == OURS / "cola-dev.tsv"
    with pytest.raises(DataError, match=f"task 'mine': expected cola-train.tsv .* in {tmp_path}, found neither"):
        _ = CoLA(TaskContext("mine"), data=str(tmp_path)).source
    (tmp_path / "cola-dev.tsv").write_bytes((OURS / "cola-dev.tsv").read_bytes())
    assert CoLA(TaskContext("cola", tmp_path)).source.origin == str(tmp_path)
