"""Settings that change in the middle of a run: one that turns equals one that was stopped there and resumed changed."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mtk.assembly
from mtk import session
from mtk.changes import Change, changeable
from mtk.checkpoint import load_training
from mtk.config import make_config
from mtk.display import make_console, show_plan
from mtk.errors import ConfigError, MTKError
from mtk.interfaces import Progress
from mtk.run import RunFolder
from mtk.training import EpochDone, Finished, Position, StepDone
from tests.test_docs import DOCS, blocks
from tests.test_session import metrics, refused, resume_afresh, run_all, same_run
from tests.toy_plugin import config, write_rows

pytestmark = pytest.mark.usefixtures("toys")

RATES: dict[str, Any] = {"optim": {"lr": 0.004, "weight_decay": 0.2, "layer_decay": 0.5, "max_norm": 0.5}}
BATCHES: dict[str, Any] = {"train": {"batch_size": 8}, "tasks": {"words": {"batch_size": 6}}}  # 3 steps, not 5
MANY: dict[str, Any] = {
    **RATES,
    "model": {"dropout": 0.3},
    "encoder": {"dropout": 0.4},
    "train": {"batch_size": 8, "accumulate": 2, "nonfinite": "skip"},
    "tasks": {"words": {"batch_size": 6, "weight": 0.5}, "pairs": {"head": {"dropout": 0.25, "rdrop": 0.5}}},
    "combiner": "stateful",
    "mixer": "capped:rows=9",
    "scheduler": "cosine",
}
WARM = {"model": {"head_warmup": 1, "projection": 6}}


def after(epoch: int, settings: dict[str, Any]) -> dict[str, Any]:
    return {"after": epoch, "settings": settings}


def with_changes(path: Path, *changes: dict[str, Any]) -> Path:
    """Appends changes to the configuration of a run."""
    tree = RunFolder(path).config.to_dict()
    tree["changes"] = [*tree.get("changes", []), *changes]
    (path / "config.toml").write_text(make_config(tree).to_toml())
    return path


def cut(settings, out: Path, epoch: int, step: int, kill: bool = False) -> Path:
    """What a run leaves that is stopped, or killed, after a step (0: the end of the epoch before)."""
    run = session.start(settings, out.with_name(out.name + "-alive") if kill else out)
    events = run.run()
    for event in events:
        at = run.training.position
        if (at.epoch, at.step) == (epoch, step) and not isinstance(event, Finished):
            if kill:
                run.folder.flush()
                shutil.copytree(run.folder.path, out)
                events.close()
            else:
                run.stop()
    assert RunFolder(out).facts["status"] == ("running" if kill else "stopped")
    return out


# ---------------------------------------------------------------------------------------------- turning


@pytest.mark.parametrize(
    ("over", "changes"),
    [
        ({}, [after(1, RATES)]),
        ({"combiner": "stateful"}, [after(1, MANY), after(2, {"combiner": "toy-famo", "optim": {"lr": 0.02}})]),
        ({"combiner": "pcgrad"}, [after(1, {"combiner": "sum"}), after(1, BATCHES), after(2, {"mixer": "all"})]),
        ({"combiner": "pcgrad", **WARM}, [after(1, {"train": {"batch_size": 2}})]),
        ({"train": {"max_steps": 11}}, [after(2, BATCHES)]),
    ],
)
def test_a_run_that_turns_equals_one_that_was_resumed_changed(over, changes, tmp_path):
    whole = tmp_path / "whole"
    run_all(session.start(config(**over, changes=changes), whole))
    path = tmp_path / "0"
    first = changes[0]["after"]
    cut(config(**over), path, first, 0)
    for number, epoch in enumerate(sorted({change["after"] for change in changes}), 1):
        path = shutil.copytree(path, tmp_path / str(number))
        with_changes(path, *(change for change in changes if change["after"] == epoch))
        run = session.resume(path)
        later = [change["after"] for change in changes if change["after"] > epoch]
        for event in run.run():
            if later and isinstance(event, EpochDone) and event.epoch + 1 == later[0]:
                run.stop()
    same_run(whole, path)
    plain = tmp_path / "plain"
    run_all(session.start(config(**over), plain))
    assert metrics(plain) != metrics(whole)
    same = [json.loads(line)["epoch"] <= first for line in metrics(whole)]
    assert metrics(plain)[: sum(same)] == metrics(whole)[: sum(same)]


@pytest.mark.slow
def test_a_run_that_was_cut_off_anywhere_goes_on_the_same(tmp_path):
    settings, whole = config(combiner="pcgrad", changes=[after(1, BATCHES), after(2, MANY)]), tmp_path / "whole"
    run_all(session.start(settings, whole))
    places = [(0, 3, False), (1, 0, False), (1, 0, True), (1, 2, False), (2, 0, True), (2, 1, False), (2, 1, True)]
    paths = [cut(settings, tmp_path / str(number), *place) for number, place in enumerate(places)]
    afresh = [shutil.copytree(paths[place], tmp_path / f"afresh{place}") for place in (1, 5)]
    for path in paths:
        run_all(session.resume(path))
        same_run(whole, path)
    resume_afresh(*afresh)
    for path in afresh:
        same_run(whole, path)


def test_a_run_that_is_stopped_while_it_turns(tmp_path, monkeypatch):
    settings, whole = config(combiner="stateful", changes=[after(1, MANY)]), tmp_path / "whole"
    run_all(session.start(settings, whole))
    path, turn = tmp_path / "cut", session.load_last
    run = session.start(settings, path)

    def interrupted(*args):
        run.stop()
        return turn(*args)

    with monkeypatch.context() as patch:
        patch.setattr(session, "load_last", interrupted)
        assert run_all(run)[-1] == Finished("stopped")
    for _ in range(2):  # a resume turns what has turned
        position = load_training(path / "last")["position"]
        assert (position["epoch"], position["step"], position["done"]) == (1, 0, 2)  # 9 rows of words, 6 a step
        run = session.resume(path)
        run.stop()
        assert run_all(run) == [Finished("stopped")]
    run_all(session.resume(path))
    same_run(whole, path)


def test_the_configuration_makes_the_same_run_again(tmp_path):
    settings = config(changes=[after(1, MANY), after(2, {"combiner": "cagrad:c=0.2"})])
    for name in ("a", "b"):
        run_all(session.start(settings, tmp_path / name))
    same_run(tmp_path / "a", tmp_path / "b")
    run_all(session.start(RunFolder(tmp_path / "a").config, tmp_path / "again"))
    same_run(tmp_path / "a", tmp_path / "again")
    assert (tmp_path / "a" / "config.toml").read_text() == (tmp_path / "again" / "config.toml").read_text()


def test_what_is_in_force_after_a_turn(tmp_path):
    seen: dict[int, Any] = {}
    run = session.start(config(changes=[after(1, MANY)]), tmp_path / "run")
    for event in run.run():
        if isinstance(event, StepDone) and event.epoch not in seen:
            seen[event.epoch] = event
            in_force(run, event) if event.epoch == 1 else None
    assert [seen[epoch].steps for epoch in seen] == [5, 2, 2]
    path = cut(config(changes=[after(1, MANY)]), tmp_path / "cut", 1, 1)
    again = session.resume(path)
    in_force(again, seen[1])  # also where a run goes on inside an epoch
    assert again.training.position.done == 3


def in_force(run: session.Session, event: StepDone) -> None:
    parts, groups = run.parts, run.training.optimizer.param_groups
    assert (event.done, event.total) == (3, 6)
    assert event.lr == pytest.approx(0.004 * parts.scheduler.factor(Progress(2, 6)))
    assert {group["peak_lr"] for group in groups} == {0.004, 0.002, 0.001}
    assert {group["weight_decay"] for group in groups} == {0.2, 0.0}
    assert {m.p for m in parts.model.heads["words"].modules() if isinstance(m, nn.Dropout)} == {0.3}
    assert {m.p for m in parts.model.heads["pairs"].modules() if isinstance(m, nn.Dropout)} == {0.25}
    assert parts.model.encoder.config.hidden_dropout_prob == 0.4
    assert parts.train["pairs"].views == 2 and parts.weight("words") == 0.5
    assert dict(parts.plan.batch_sizes) == {"words": 6, "pairs": 8, "tags": 8}
    assert type(parts.combiner).__name__ == "Stateful" and type(parts.scheduler).__name__ == "Cosine"
    assert parts.plan.rows(parts.train, 1) == {"words": 9, "pairs": 9, "tags": 9}
    assert (run.training.config.train.accumulate, run.training.config.train.nonfinite) == (2, "skip")


def test_weights_and_moments_are_kept_and_combiners_begin_anew(tmp_path):
    run = session.start(config(combiner="stateful", changes=[after(1, RATES)]), tmp_path / "run")
    events = run.run()
    saved = next(load_training(tmp_path / "run" / "last") for event in events if isinstance(event, EpochDone))
    before = {name: tensor.clone() for name, tensor in run.parts.model.state_dict().items()}
    assert saved["combiner"]["seen"]["words"] == 5
    turned = session.load_last(run.folder, run.config, run.parts.hardware, saved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in turned.parts.model.state_dict().items())
    moments = turned.state_dict()["moments"]
    assert moments.keys() == saved["moments"].keys() and turned.parts.combiner.seen == {}
    for name, moment in moments.items():
        assert all(torch.equal(value, saved["moments"][name][key]) for key, value in moment.items())
    next(events)
    assert max(int(state["step"]) for state in run.training.optimizer.state.values()) == 6


def test_every_turn_draws_its_own(tmp_path):
    settings = config(train={"epochs": 4}, changes=[after(epoch, RATES) for epoch in (1, 2, 3)])
    run, states = session.start(settings, tmp_path / "run"), set()
    states.add(run.training.generator.get_state().numpy().tobytes())
    real = session.load_last
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "load_last", lambda *a: noted(real(*a), states))
        run_all(run)
    assert len(states) == 1 + 3 * 2


def noted(training, states: set[bytes]):
    states.update(state.numpy().tobytes() for state in (training.generator.get_state(), torch.get_rng_state()))
    return training


def test_what_early_stopping_remembers_survives(tmp_path):
    """The script begins anew where the task is built anew: 3, then 3, 1 after the turn."""
    tasks = {"a": {"kind": "scripted", "script": [3.0, 1.0, 0.5], "main": True}}
    train = {"epochs": 5, "patience": 2, "select_on": "a", "min_gain": 0.3}
    run = session.start(config(tasks, train=train, changes=[after(1, RATES)]), tmp_path / "run")
    events = run_all(run)
    assert events[-1] == Finished("patience")
    assert [event.is_best for event in events if isinstance(event, EpochDone)] == [True, False, False]
    assert run.folder.facts["best_epoch"] == 1
    at = run.training.position
    assert (at.best, at.best_epoch, at.gained, at.bad_epochs) == (3.0, 0, 3.0, 2)


def test_no_turn_behind_an_epoch_that_ended_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "load_last", None)
    tasks = {"a": {"kind": "scripted", "script": [3.0, 1.0], "main": True}}
    train = {"epochs": 5, "patience": 1, "select_on": "a"}
    run = session.start(config(tasks, train=train, changes=[after(2, RATES)]), tmp_path / "run")
    assert run_all(run)[-1] == Finished("patience")


def test_other_rows_at_the_turn_are_refused(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data, "a")
    settings = config({"a": {"kind": "filed"}}, data={"folder": str(data)}, changes=[after(1, RATES)])
    with pytest.raises(ConfigError, match="the train rows of task 'a' are not those"):
        for event in session.start(settings, tmp_path / "run").run():
            if isinstance(event, EpochDone):
                write_rows(data, "a", seed=1)
    write_rows(data, "a")
    run_all(session.resume(tmp_path / "run"))


@pytest.mark.parametrize(
    ("max_steps", "at", "settings", "made"),
    [
        (8, 1, BATCHES, [5, 3]),  # 5 of 8, then 5 of 8
        (8, 1, {"train": {"batch_size": 2}, "tasks": {"words": {"batch_size": 2}}}, [5, 3]),
        (12, 1, BATCHES, [5, 3, 2]),  # 5 of 12, then 4 of 9: the fraction
        (11, 2, {"train": {"batch_size": 13}, "tasks": {"words": {"batch_size": 13}}}, [5, 5, 1]),  # a step is left
        (99, 1, BATCHES, [5, 3, 3]),
    ],
)
def test_a_bound_on_steps(max_steps, at, settings, made, tmp_path):
    run = session.start(config(train={"max_steps": max_steps}, changes=[after(at, settings)]), tmp_path / "run")
    steps = [event for event in run_all(run) if isinstance(event, StepDone)]
    assert [sum(step.epoch == epoch for step in steps) for epoch in range(len(made))] == made
    assert len(steps) == sum(made) <= max_steps and steps[-1].done == steps[-1].total


def test_coverage_counts_what_earlier_epochs_drew(tmp_path):
    settings = config(mixer="capped:rows=7", changes=[after(1, {"mixer": {"rows": 3}})])
    events = run_all(session.start(settings, tmp_path / "run"))
    seen: dict[str, set[int]] = {"words": set(), "pairs": set(), "tags": set()}
    for event in events:
        if isinstance(event, EpochDone):
            parts = session.start(settings.at(event.epoch), None).parts
            for step in parts.plan.steps(parts.train, event.epoch):
                for name, rows in step.rows.items():
                    seen[name] |= set(rows.tolist())
            assert event.coverage == {name: len(rows) / len(parts.train[name]) for name, rows in seen.items()}
    assert any(len(rows) > 9 for rows in seen.values())
    path = cut(settings, tmp_path / "cut", 2, 0)
    assert [e.coverage for e in run_all(session.resume(path)) if isinstance(e, EpochDone)] == [events[-2].coverage]


# ---------------------------------------------------------------------------------------------- in the folder


@pytest.mark.parametrize(
    ("position", "kept"),
    [
        (Position(1, 0, 2), [1, 2, "1"]),  # larger batches: done went back
        (Position(1, 0, 9), [1, 2, "1"]),  # smaller ones: what came after was counted otherwise
        (Position(1, 2, 9), [1, 2, "1", 8, 9]),
        (Position(1, 3, 10), [1, 2, "1", 8, 9, 10]),
        (Position(2, 0, 4), [1, 2, "1", 8, 9, 10, "2"]),
        (Position(2, 1, 5), [1, 2, "1", 8, 9, 10, "2", 5]),
    ],
)
def test_rewinding_where_the_count_of_steps_jumps(position, kept, tmp_path):
    lines: list[dict[str, Any]] = []
    for epoch, dones in ((1, [1, 2]), (2, [8, 9, 10]), (3, [5, 6])):
        lines += [{"event": "step", "epoch": epoch, "done": done} for done in dones]
        lines.append({"event": "epoch", "epoch": epoch, "done": dones[-1]})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = RunFolder(tmp_path)
    folder.rewind(position)
    found = [line["done"] if line["event"] == "step" else str(line["epoch"]) for line in folder.metrics()]
    assert found == kept


def test_the_folder_holds_all_changes_spelled_out(tmp_path):
    settings = config(changes=[after(1, {"combiner": "cagrad", "optim": {"lr": 0.02}}), after(2, {"combiner": "sum"})])
    run = session.start(settings, tmp_path / "run")
    first, second = run.folder.config.changes
    assert first.settings["combiner"]["name"] == "cagrad" and "c" in first.settings["combiner"]
    assert first.settings["optim"] == {"lr": 0.02} and second.settings == {"combiner": {"name": "sum"}}
    assert run.folder.facts["plugins"]["combiner cagrad"].startswith("multitask-toolkit")
    text = (tmp_path / "run" / "config.toml").read_text()
    run_all(run)
    assert (tmp_path / "run" / "config.toml").read_text() == text
    assert run.config == run.folder.config and run.parts.config.changes == []


def test_changes_beside_resume_are_the_run_s_own_or_refused(tmp_path):
    changes = [after(1, {"combiner": "cagrad"})]
    path = cut(config(changes=changes), tmp_path / "run", 0, 2)
    refused(ConfigError, "changes", "--init RUN", path=path, changes={"changes": []})
    other = {"changes": [after(2, {"combiner": "cagrad"})]}
    refused(ConfigError, "changes.0.after is 1 in the run, found 2", path=path, changes=other)
    run_all(session.resume(path, {"changes": changes, "optim": {"lr": 0.01}}))


def test_forks_and_warm_starts(tmp_path):
    path = tmp_path / "run"
    run_all(session.start(config(changes=[after(1, RATES)]), path))
    further = config(train={"epochs": 6}, changes=[after(1, RATES), after(4, {"combiner": "pcgrad"})])
    fork = session.fork(path / "last", further, tmp_path / "fork")
    own = fork.folder.config
    assert own.optim.lr == 0.004 and [change.after for change in own.changes] == [4]
    run_all(fork)
    assert type(fork.parts.combiner).__name__ == "PCGrad"
    warm = session.start(config(init=str(path), changes=[after(2, RATES)]), tmp_path / "warm")
    run_all(warm)
    assert warm.folder.config.changes == [Change(after=2, settings=RATES)] and warm.parts.config.optim.lr == 0.004


def test_the_plan_shows_what_will_change(capsys):
    changes = [after(1, {"combiner": "cagrad:c=0.2", **RATES}), after(2, BATCHES)]
    show_plan(session.start(config(changes=changes), None), make_console())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("from epoch")]
    assert len(lines) == 2
    assert lines[0].startswith("from epoch 2: combiner cagrad, combiner.c 0.2")
    assert "optim.lr 0.004, optim.weight_decay 0.2" in lines[0]
    assert lines[1] == "from epoch 3: train.batch_size 8, tasks.words.batch_size 6"


# ---------------------------------------------------------------------------------------------- the configuration


def test_what_is_in_force_in_an_epoch():
    changes = [
        after(1, {"mixer": {"rows": 5}, "optim": {"lr": 0.5}}),
        after(2, {"mixer": "all", "optim": {"weight_decay": 0}}),
        after(2, {"combiner": "pcgrad"}),
        after(4, {"optim": {"lr": 0.25}}),
    ]
    settings = config(train={"epochs": 5}, changes=changes)
    assert settings.at(0) is settings
    found = [
        (one.mixer.name, one.mixer.options, one.optim.lr, one.optim.weight_decay, one.combiner.name, len(one.changes))
        for one in map(settings.at, range(5))
    ]
    assert found == [
        ("capped", {"rows": "13"}, 0.01, 0.01, "sum", 4),
        ("capped", {"rows": 5}, 0.5, 0.01, "sum", 3),
        ("all", {}, 0.5, 0.0, "pcgrad", 1),
        ("all", {}, 0.5, 0.0, "pcgrad", 1),
        ("all", {}, 0.25, 0.0, "pcgrad", 0),
    ]
    assert all(settings.at(a).at(b) == settings.at(b) for b in range(5) for a in range(b + 1))
    assert make_config(tomllib.loads(settings.to_toml())) == settings
    assert make_config(json.loads(json.dumps(settings.to_dict()))) == settings
    assert "changes" not in settings.at(4).to_dict() and "changes" not in config().to_dict()


def test_changes_in_a_file():
    (text,) = blocks(DOCS / "tutorials" / "first-run.md", "toml")
    again = "[[changes]]\nafter = 2\n[changes.settings.train]\nbatch_size = 32\n"
    settings = config(**tomllib.loads(text + again))
    found = [(one.optim.lr, one.train.batch_size) for one in map(settings.at, range(3))]
    assert found == [(0.01, 4), (3e-5, 16), (3e-5, 32)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([after(1, {"optim": {"lr": 0}})], "changes[0] (after epoch 1): optim.lr: input should be greater than 0"),
        ([after(1, RATES), after(2, {"optim": {"lr": "x"}})], "changes[1] (after epoch 2): optim.lr: input should be"),
        ([after(3, RATES)], "changes[0] (after epoch 3): expected fewer than train.epochs (3); leave it out, or"),
        ([after(2, RATES), after(1, RATES)], "changes[1] (after epoch 1): expected ascending epochs, found 1 behind 2"),
        ([after(0, RATES)], "changes[0].after: input should be greater than or equal to 1, found 0"),
        ([{"after": True, "settings": RATES}], "changes[0].after: input should be a valid integer, found True"),
        ([{"after": 1}], "'changes[0].settings' is missing"),
        ([after(1, {})], "changes[0].settings: expected a table of settings that change, found {}"),
        ([{**after(1, RATES), "aftr": 2}], "unknown key 'changes[0].aftr'; did you mean 'after'?"),
        ([after(1, {"optim": {"lrr": 1}})], "unknown key 'optim.lrr'; did you mean 'lr'?"),
        ([after(1, {"optim": 3})], "optim: expected a table of settings, found 3"),
        ([after(1, {"optm": {"lr": 1}})], "unknown key 'optm'; did you mean 'optim'?"),
        (
            [after(1, {"tasks": {"wrods": {"weight": 1}}})],
            "tasks.wrods: no such task in this run; did you mean 'words'",
        ),
        ([after(1, {"tasks": {"more": {}, "words": {"weight": 2}}})], "tasks.more: no such task in this run"),
        ([after(1, {"tasks": {"words": {"head": "linear"}}})], "tasks.words.head cannot change in the middle of a run"),
        ([after(1, {"train": {"epochs": 9}})], "train.epochs cannot change in the middle of a run; what can: optim"),
        ([after(1, {"model": {"projection": 4}})], "model.projection cannot change"),
        ([after(1, {"encoder": "minilm"})], "encoder cannot change"),
        ([after(1, {"train": {"accumulate": 4}})], "(after epoch 1): task 'words': 3 rows a step cannot be split over"),
        ([after(1, {"mixer": "all:"})], "(after epoch 1): 'all:': expected OPTION=VALUE"),
        (
            [after(1, {"model": {"encoder_dropout": 0.1}})],
            "the encoder's own dropout overrides it; change encoder.dropo",
        ),
        ([after(1, {"changes": []}), after(1, RATES)], "changes[0].settings: expected a table"),
        (3, "changes: input should be a valid list, found 3"),
    ],
)
def test_bad_changes_in_one_line(changes, said):
    if changes == [after(1, {"changes": []}), after(1, RATES)]:
        said = "changes cannot change"
    with pytest.raises(ConfigError) as caught:
        config(changes=changes)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("over", "settings", "said"),
    [
        ({}, {"combiner": "pcgrd"}, "unknown combiner 'pcgrd'; did you mean 'pcgrad'"),
        ({}, {"combiner": "cagrad:d=1"}, "combiner 'cagrad' has no option 'd'"),
        ({}, {"scheduler": "liner"}, "unknown scheduler 'liner'; did you mean 'linear'"),
        ({}, {"mixer": {"rows": "x"}}, "mixer 'capped': option 'rows' must be"),
        ({"train": {"step": "one"}}, {"combiner": "pcgrad"}, "a step holds one task, so there is nothing to combine"),
        ({}, {"encoder": {"dropout": 1.5}}, "encoder.dropout: expected a number from 0 up to, not including, 1"),
        ({}, {"encoder": {"dropout": "much"}}, "option 'dropout' must be"),
        ({}, {"tasks": {"pairs": {"head": {"dropout": 1.5}}}}, "dropout: expected a number from 0 up to"),
        ({"tasks": {"words": {"head": "rdrop"}}}, {"tasks": {"words": {"head": {"rdrop": 1.0}}}}, "no option 'rdrop'"),
    ],
)
def test_what_a_plugin_refuses_is_said_before_anything_is_trained(over, settings, said, tmp_path):
    with pytest.raises(MTKError) as caught:
        session.start(config(**over, changes=[after(2, settings)]), tmp_path / "out")
    text = str(caught.value)
    assert text.startswith("changes[0] (after epoch 2): ") and said in text and "\n" not in text
    assert not (tmp_path / "out").exists()


def test_looking_ahead_draws_nothing(monkeypatch):
    """Dropout of the first epochs is the same whatever will change later, also where a plugin draws as it is built."""
    real, states = mtk.assembly.build_methods, []
    monkeypatch.setattr(mtk.assembly, "build_methods", lambda config: (torch.rand(1), real(config))[1])
    for changes in ([], [after(1, RATES), after(2, MANY)]):
        session.start(config(changes=changes), None)
        states.append(torch.get_rng_state())
    assert states[0].equal(states[1])


@pytest.mark.parametrize(
    ("keys", "can"),
    [
        ("optim.lr optim.head_lr optim.layer_decay optim.weight_decay optim.max_norm", True),
        ("model.dropout model.encoder_dropout encoder.dropout", True),
        ("train.batch_size train.accumulate train.nonfinite", True),
        ("combiner combiner.c mixer mixer.per_task.sst scheduler scheduler.warmup", True),
        ("tasks.sst.weight tasks.a-b.batch_size tasks.sst.head.dropout tasks.sst.head.rdrop", True),
        ("optim model.freeze model.projection model.head_warmup encoder encoder.name encoder.pair", False),
        ("train.epochs train.max_steps train.seed train.step train.select_on train.patience train.device", False),
        ("data.max_length augment init changes mixers tasks.sst.head tasks.sst.head.name tasks.sst.trained", False),
        ("tasks.sst.kind tasks.sst.head.hidden tasks.a.head.weight tasks.weight", False),
    ],
)
def test_what_can_change(keys, can):
    assert {key: changeable(key) for key in keys.split()} == dict.fromkeys(keys.split(), can)
