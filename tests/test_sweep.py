"""A sweep makes each run once, whatever ends it in between, and tells of them in one table."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import statistics
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

import mtk.device
import mtk.plugins
import mtk.sweep
from mtk import api
from mtk.errors import CheckpointError, ConfigError, DataError
from mtk.hookspecs import hookimpl
from mtk.results import result_of
from mtk.sweep import Cell, Sweep, parse_shard, probe
from mtk.training import EpochDone, StepDone
from tests import toy_plugin

TASKS = {"words": {"batch_size": 8}, "pairs": {"head": "cosine"}}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """The toys without the reports; no time is spent on the disk, on estimates or on trying the hardware."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("MTK_DISABLE_PLUGINS", "report")
    monkeypatch.setattr(mtk.plugins, "_default", toy_plugin.manager())
    monkeypatch.setattr(mtk.sweep, "_PROBE_STEPS", 1)
    monkeypatch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")


def cell(name: str = "a", tasks=TASKS, **over) -> Cell:
    return Cell(name, toy_plugin.config(tasks, **{"train": {"epochs": 2}, **over}))


A, B = cell("a"), cell("b", combiner="pcgrad")
BROKEN = cell("broken", combiner="cagrad:c=-3")  # wrong only once it is built


def conduct(folder: Path, cells=(A,), seeds=(1,), **more) -> tuple[int, str, Sweep]:
    sweep = Sweep(folder, cells, seeds)
    out = io.StringIO()
    code = sweep.conduct(title="T", command="mtk again", console=Console(file=out, width=200, markup=False), **more)
    return code, out.getvalue(), sweep


def written(folder: Path) -> dict[str, int]:
    """When each run of a sweep was last written to."""
    return {str(f.parent.relative_to(folder)): f.stat().st_mtime_ns for f in folder.rglob("run.json")}


@pytest.fixture
def watched(monkeypatch):
    """Calls a function with every event of every run."""

    def install(watch: Callable) -> None:
        monkeypatch.setattr(mtk.sweep, "drive", lambda one, display: api.drive(one, display, watch))

    return install


# ---------------------------------------------------------------------------------------------- once, and to the end


def test_every_cell_with_every_seed(tmp_path):
    code, said, sweep = conduct(tmp_path / "s", [A, B], [1, 2])
    assert code == 0 and "2 configurations x 2 seeds = 4 runs; 0 runs done, 4 to go" in said
    runs = {f"runs/{name}/seed-{seed}" for name in "ab" for seed in (1, 2)}
    assert set(written(tmp_path / "s")) == runs
    facts = json.loads((tmp_path / "s/runs/b/seed-2/run.json").read_text())
    assert facts["status"] == "finished" and facts["seed"] == 2 and facts["command"] == "b, seed 2"
    assert '"seed"' not in (tmp_path / "s/sweep.json").read_text()
    assert [result.seed for result in sweep.results(B)] == [1, 2]
    row = sweep.table().rows[1]
    assert row.name == "b" and row.status == "" and len(row.curves) == 2
    assert list(row.scores["mean"]) == [result.aggregate for result in sweep.results(B)]


def test_the_same_command_again_trains_nothing(tmp_path):
    code, _, _ = conduct(tmp_path / "s", [A])
    before = written(tmp_path / "s")
    again, said, _ = conduct(tmp_path / "s", [A])
    assert code == again == 0 and "1 run done, 0 to go" in said and "estimating" not in said
    assert written(tmp_path / "s") == before


def test_more_seeds_and_more_cells_add_to_it(tmp_path):
    conduct(tmp_path / "s", [A], [1])
    before = written(tmp_path / "s")
    _, said, sweep = conduct(tmp_path / "s", [B], [2, 3])
    assert "0 runs done, 2 to go" in said
    assert {name: written(tmp_path / "s")[name] for name in before} == before
    assert [row.name for row in sweep.table().rows] == ["a", "b"]
    _, said, sweep = conduct(tmp_path / "s", [A], [3])
    assert [result.seed for result in sweep.results(A)] == [1, 3]
    assert "1 run done" not in said and "1 to go" in said


def test_another_configuration_under_the_same_name_is_refused(tmp_path):
    conduct(tmp_path / "s", [A])
    with pytest.raises(ConfigError, match=r"cell 'a' has optim\.lr = 0\.01, found 0\.5; .*choose another --out"):
        Sweep(tmp_path / "s", [cell("a", optim={"lr": 0.5})], [1])
    Sweep(tmp_path / "s", [cell("a", train={"epochs": 2, "seed": 9})], [1])  # the seed is the sweep's


def test_a_dry_run_writes_nothing(tmp_path):
    code, said, _ = conduct(tmp_path / "s", [A, B], dry_run=True)
    assert code == 0 and "estimated: at most" in said and "nothing was trained or written" in said
    assert not (tmp_path / "s").exists()


def test_the_runs_equal_those_that_are_made_by_themselves(tmp_path):
    from mtk import session

    conduct(tmp_path / "s", [A], [5])
    config = A.config.model_copy(deep=True)
    config.train.seed = 5
    for _ in session.start(config, tmp_path / "alone").run():
        pass
    ours = result_of(tmp_path / "s/runs/a/seed-5")
    alone = result_of(tmp_path / "alone")
    assert ours is not None and alone is not None
    assert (ours.scores, ours.curve, ours.best_epoch) == (alone.scores, alone.curve, alone.best_epoch)


# ---------------------------------------------------------------------------------------------- what ends it


def test_interrupted_in_a_run_it_goes_on_exactly(tmp_path, watched):
    conduct(tmp_path / "whole", [A, B])

    def press(event):
        if isinstance(event, StepDone) and event.done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    watched(press)
    code, said, _ = conduct(tmp_path / "s", [A, B])
    assert code == 130 and "the sweep goes on where it stopped: mtk again" in said
    assert set(written(tmp_path / "s")) == {"runs/a/seed-1"} and "not run" in said
    watched(lambda event: None)
    code, said, sweep = conduct(tmp_path / "s", [A, B])
    assert code == 0 and "resuming at epoch" in said
    whole = Sweep(tmp_path / "whole", [A, B], [1])
    for one in (A, B):
        assert sweep.results(one)[0].scores == whole.results(one)[0].scores


def test_interrupted_between_runs(tmp_path, monkeypatch):
    start = mtk.sweep.session.start

    def pressed(config, out, command=""):
        if out is not None and out.parent.name == "b":
            raise KeyboardInterrupt
        return start(config, out, command)

    monkeypatch.setattr(mtk.sweep.session, "start", pressed)
    code, said, _ = conduct(tmp_path / "s", [A, B])
    assert code == 130 and "goes on where it stopped: mtk again" in said
    monkeypatch.setattr(mtk.sweep.session, "start", start)
    code, said, _ = conduct(tmp_path / "s", [A, B])
    assert code == 0 and "1 run done, 1 to go" in said


def killed(folder: Path, **facts) -> None:
    """What a run folder says after SIGKILL."""
    file = folder / "run.json"
    left = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("ended", "seconds")}
    file.write_text(json.dumps({**left, "status": "running", **facts}))


def test_killed_before_it_could_say_that_the_run_is_finished(tmp_path):
    _, _, before = conduct(tmp_path / "s")
    killed(tmp_path / "s/runs/a/seed-1")
    code, said, sweep = conduct(tmp_path / "s")
    assert code == 0 and "error" not in said and "1 to go" in said
    result = sweep.results(A)[0]
    assert result.scores == before.results(A)[0].scores
    assert 0 < result.seconds < 60  # of the epochs, since nobody wrote down the whole


@pytest.mark.parametrize("left", [[], ["config.toml"], ["config.toml", ".run.json.new"]])
def test_killed_while_a_run_folder_was_made(tmp_path, left):
    run = tmp_path / "s/runs/a/seed-1"
    conduct(tmp_path / "s")
    shutil.rmtree(run)
    run.mkdir()
    for name in left:
        (run / name).write_text("half")
    assert conduct(tmp_path / "s")[0] == 0
    assert result_of(run) is not None and not (run / ".run.json.new").exists()


def test_killed_while_the_sweeps_first_file_was_written(tmp_path):
    (tmp_path / "s").mkdir()
    for name in (".sweep.json.new", ".sweep.lock"):
        (tmp_path / "s" / name).write_text("{")
    assert conduct(tmp_path / "s")[0] == 0


def test_a_run_folder_with_checkpoints_but_no_facts_is_left_alone(tmp_path):
    conduct(tmp_path / "s")
    (tmp_path / "s/runs/a/seed-1/run.json").unlink()
    code, said, _ = conduct(tmp_path / "s")
    assert code == 2 and "expected a new or empty folder, found files in it" in said
    assert (tmp_path / "s/runs/a/seed-1/best").exists()


@pytest.mark.parametrize("damage", ["{", "[]", '{"status": "finished"}', '{"status": "finished", "scores": 3}'])
def test_a_damaged_run_is_a_failure_and_the_others_go_on(tmp_path, damage):
    conduct(tmp_path / "s")
    file = tmp_path / "s/runs/a/seed-1/run.json"
    file.write_text(damage)
    with pytest.raises(CheckpointError, match=r"run\.json: damaged"):
        result_of(file.parent)
    code, said, sweep = conduct(tmp_path / "s", [A, B])
    assert code == 2 and "1 run failed" in said and f"delete {file.parent} to make the run again" in said
    assert sweep.table().rows[0].status.startswith("failed: ") and len(sweep.results(B)) == 1
    shutil.rmtree(file.parent)
    assert conduct(tmp_path / "s", [A, B])[0] == 0


# ---------------------------------------------------------------------------------------------- what fails


def test_a_cell_that_fails_is_said_and_tried_again(tmp_path):
    code, said, sweep = conduct(tmp_path / "s", [BROKEN, A], [1, 2])
    assert code == 2 and "2 runs failed; the same command tries again: mtk again" in said
    assert "error: broken: combiner 'cagrad'" in said and "error: broken, seed 2: combiner" in said
    rows = {row.name: row for row in sweep.table().rows}
    assert rows["broken"].status.startswith("failed: combiner 'cagrad'") and not rows["broken"].scores
    assert len(sweep.results(A)) == 2
    assert "2 runs done, 2 to go" in conduct(tmp_path / "s", [BROKEN, A], [1, 2])[1]


def test_a_dry_run_tells_of_a_cell_that_cannot_be_built(tmp_path):
    code, said, _ = conduct(tmp_path / "s", [A, BROKEN], dry_run=True)
    assert code == 2 and "error: broken: combiner 'cagrad'" in said


def test_a_run_that_fails_half_way_is_tried_again_from_there(tmp_path, watched):
    def fail(event):
        if isinstance(event, EpochDone):
            raise DataError("no more")

    watched(fail)
    code, said, _ = conduct(tmp_path / "s")
    assert code == 2 and "error: a, seed 1: no more" in said
    watched(lambda event: None)
    code, said, _ = conduct(tmp_path / "s")
    assert code == 0 and "failed" not in said and "resuming at epoch 2" in said


def test_a_report_that_cannot_be_written_keeps_no_other_from_it(tmp_path, monkeypatch):
    plugin = types.ModuleType("reports")

    def full(table, folder):
        raise DataError("no space left")

    def names(table, folder):
        (folder / "names.txt").write_text(" ".join(row.name for row in table.rows))
        return folder / "names.txt"

    @hookimpl
    def register_reports(register):
        register("full", lambda: full, "fails")
        register("names", lambda: names, "works")

    plugin.register_reports = register_reports
    manager = toy_plugin.manager()
    manager.add("reports", plugin, "reports", "1")
    assert not manager.broken()
    monkeypatch.setattr(mtk.plugins, "_default", manager)
    monkeypatch.setitem(sys.modules, "reports", plugin)
    code, said, _ = conduct(tmp_path / "s")
    assert code == 0 and "full: not written: no space left" in said
    assert (tmp_path / "s/names.txt").read_text() == "a"


# ---------------------------------------------------------------------------------------------- several processes


def test_parts_in_one_folder(tmp_path):
    for part in ("1/2", "2/2"):
        code, said, sweep = conduct(tmp_path / "s", [A, B], [1, 2, 3], shard=part)
        assert code == 0 and f"part {part[0]} of 2: 3 runs" in said
    assert [len(sweep.results(one)) for one in (A, B)] == [3, 3]


def test_parts_in_different_folders_make_different_runs_which_join_by_copying(tmp_path):
    for part in (1, 2):
        conduct(tmp_path / f"s{part}", [A, B], [1], shard=f"{part}/2")
    one, other = (set(written(tmp_path / f"s{part}")) for part in (1, 2))
    assert one | other == {"runs/a/seed-1", "runs/b/seed-1"} and not one & other
    shutil.copytree(tmp_path / "s2/runs", tmp_path / "s1/runs", dirs_exist_ok=True)
    code, said, sweep = conduct(tmp_path / "s1", [A, B], [1])
    assert code == 0 and "2 runs done, 0 to go" in said and all(row.status == "" for row in sweep.table().rows)


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path):
    lock = tmp_path / "s/runs/a/.seed-1.lock"
    lock.parent.mkdir(parents=True)
    (tmp_path / "s/sweep.json").write_text('{"format": 1, "cells": {}}')
    with FileLock(lock):
        code, said, _ = conduct(tmp_path / "s", [A, B])
    assert code == 0 and "a, seed 1: another process trains it" in said
    assert set(written(tmp_path / "s")) == {"runs/b/seed-1"}


def test_a_run_that_another_process_made_meanwhile_is_not_made_again(tmp_path, monkeypatch):
    estimate = Sweep.estimate

    def other(self, runs):
        monkeypatch.setattr(Sweep, "estimate", estimate)
        conduct(tmp_path / "s", [A])
        self.before = written(tmp_path / "s")
        return 0.0

    monkeypatch.setattr(Sweep, "estimate", other)
    code, _, sweep = conduct(tmp_path / "s", [A])
    assert code == 0 and written(tmp_path / "s") == sweep.before and len(sweep.before) == 1


def test_two_processes_that_begin_at_once_both_leave_their_cells(tmp_path):
    one, other = Sweep(tmp_path / "s", [A], [1]), Sweep(tmp_path / "s", [B], [2])
    for sweep in (one, other):
        sweep.conduct(title="T", command="", console=Console(file=io.StringIO()))
    cells = json.loads((tmp_path / "s/sweep.json").read_text())["cells"]
    assert {name: found["seeds"] for name, found in cells.items()} == {"a": [1], "b": [2]}
    assert [row.name for row in other.table().rows] == ["a", "b"]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", "", "1/0"])
def test_a_part_that_is_none(text):
    with pytest.raises(ConfigError, match=r"--shard: expected i/n"):
        parse_shard(text)
    assert parse_shard("2/3") == (2, 3) and parse_shard(None) == (1, 1)


# ---------------------------------------------------------------------------------------------- where it is


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="expected a new folder, or an earlier sweep's, found other files"):
            Sweep(place, [A], [1])
    with pytest.raises(ConfigError, match="cannot be written"):
        conduct(tmp_path / "file" / "below")
    (tmp_path / "empty").mkdir()
    Sweep(tmp_path / "empty", [A], [1])


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"format": 2, "cells": {}}', '{"format": 1}', '{"format": 1, "cells": {"a": {"seeds": [1]}}}'],
)
def test_a_sweep_file_that_cannot_be_read(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises((ConfigError, CheckpointError), match=r"sweep\.json"):
        Sweep(tmp_path, [A], [1])


def test_names_as_folders():
    assert Cell("paper/final encoder=tiny lr=1e-05", A.config).slug == "paper-final-encoder=tiny-lr=1e-05"
    assert {Cell(name, A.config).slug for name in ("..", "/", "größe"[2:3], "")} == {"cell"}
    long = [Cell(f"{'x' * 300}{end}", A.config).slug for end in "ab"]
    assert len(set(long)) == 2 and max(map(len, long)) <= 100


@pytest.mark.parametrize("names", [("a b", "a/b"), ("A", "a"), ("ä", "ö")])
def test_names_that_would_share_a_folder(tmp_path, names):
    cells = [Cell(name, A.config) for name in names]
    with pytest.raises(ConfigError, match="would share"):
        Sweep(tmp_path / "s", cells, [1])
    conduct(tmp_path / "s", cells[:1])
    with pytest.raises(ConfigError, match=f"cells '{names[0]}' and '{names[1]}'"):
        Sweep(tmp_path / "s", cells[1:], [1])  # a cell of an earlier call is in its place


def test_cells_and_seeds_that_make_no_sweep(tmp_path):
    for cells, seeds in (([], [1]), ([A, A], [1]), ([A], []), ([A], [1, 1]), ([A], [-1]), ([A], [2**63])):
        with pytest.raises(ConfigError, match="a sweep needs"):
            Sweep(tmp_path / "s", cells, seeds)
    with pytest.raises(ConfigError, match="cannot be named 'mean'"):
        Sweep(tmp_path / "s", [cell(tasks={"mean": {"kind": "words"}})], [1])


# ---------------------------------------------------------------------------------------------- what it tells


def test_columns_and_caption_where_cells_have_other_tasks(tmp_path):
    fewer = cell("fewer", {"words": {}}, train={"epochs": 1, "max_steps": 2}, encoder={"name": "tiny"})
    _, _, sweep = conduct(tmp_path / "s", [A, fewer], [1, 2])
    table = sweep.table()
    assert table.columns == ["words", "pairs", "mean"]
    one, other = table.rows
    assert set(one.scores) == {"words", "pairs", "mean"} and set(other.scores) == {"words", "mean"}
    assert other.scores["mean"] == other.scores["words"]
    assert one.mean("mean") == pytest.approx(statistics.fmean([one.mean("words"), one.mean("pairs")]))
    caption = "\n".join(table.caption)
    for part in (
        "words accuracy",
        "pairs pearson",
        "Encoder tiny; at most 1, 2 epochs; seeds 1, 2.",
        "cpu, fp32",
        "A reduced run",
        "A row's mean is that of its own tasks",
        "Data: toy rows.",
    ):
        assert part in caption
    alone = "\n".join(sweep.caption([A]))
    assert "reduced" not in alone and "own tasks" not in alone and "at most 2 epochs" in alone
    assert sweep.caption([]) == []


def test_what_is_missing_is_said(tmp_path):
    conduct(tmp_path / "s", [A], [1])
    sweep = Sweep(tmp_path / "s", [A, B], [1, 2])
    a, b = sweep.table().rows
    assert (a.status, b.status) == ("1 of 2 seeds", "not run")
    assert len(a.scores["mean"]) == 1 and not b.scores and a.best_epochs == [sweep.results(A)[0].best_epoch]


def test_a_resumed_runs_curve_has_each_epoch_once(tmp_path, watched):
    def press(event):
        if isinstance(event, StepDone) and event.done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    watched(press)
    conduct(tmp_path / "s", [cell(train={"epochs": 3, "score_train": 5})])
    watched(lambda event: None)
    _, _, sweep = conduct(tmp_path / "s", [cell(train={"epochs": 3, "score_train": 5})])
    curve = sweep.results(sweep.cells[0])[0].curve
    assert {len(scores) for scores in (*curve.dev.values(), *curve.train.values())} == {3}
    assert set(curve.dev) == set(curve.train) == {"words", "pairs", "mean"}


def test_the_estimate_is_of_steps_at_first_and_of_finished_runs_then(tmp_path, monkeypatch):
    steps = toy_plugin.config(TASKS, train={"epochs": 1}), toy_plugin.config(TASKS, train={"epochs": 100})
    monkeypatch.setattr(mtk.sweep, "_PROBE_STEPS", 6)
    assert probe(steps[1]) > 10 * probe(steps[0]) > 0
    _, _, sweep = conduct(tmp_path / "s", [A], [1])
    monkeypatch.setattr(mtk.sweep, "probe", lambda config: 1000.0)
    more = Sweep(tmp_path / "s", [A, B], [1, 2, 3])
    done = sweep.results(A)[0].seconds
    assert more.estimate([run for run in more.runs() if run.seed > 1]) == pytest.approx(2 * done + 2 * 1000.0)
