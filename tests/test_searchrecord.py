"""What a search's record says of its trials, and where their weights came from."""

from __future__ import annotations

import json
import math
import subprocess
import sys

from mtk import Dimension, SearchRecord, Stage, TrialEpoch, TrialRecord, trial_history
from mtk.domains import parse_domain
from mtk.searchrecord import lineage

A, B, C = {"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}
ZERO = TrialRecord(0, A, (0.1, 0.2, 0.3, 0.35), "finished")
ONE = TrialRecord(1, C, (0.1, 0.2, 0.5, 0.4), "finished", stages=(Stage(0, 0, A), Stage(2, 1, B), Stage(3, 1, C)))


def record(*trials: TrialRecord, best: TrialRecord | None = None, **more) -> SearchRecord:
    return SearchRecord("t", "pbt", "mean", 11, {"lr": Dimension("uniform(0, 1)")}, trials, best, 4, **more)


def test_a_trial_without_stages_has_one_of_its_own():
    assert trial_history(ZERO) == [TrialEpoch(epoch, 0, score, A) for epoch, score in enumerate(ZERO.scores, 1)]
    assert trial_history(TrialRecord(3, A)) == []


def test_every_epoch_is_told_with_the_trial_and_the_parameters_of_then():
    assert trial_history(ONE) == [
        TrialEpoch(1, 0, 0.1, A),
        TrialEpoch(2, 0, 0.2, A),
        TrialEpoch(3, 1, 0.5, B, source=0),
        TrialEpoch(4, 1, 0.4, C),
    ]


def test_a_stage_in_which_nothing_was_trained_leaves_no_epoch():
    stages = (Stage(0, 0, A), Stage(2, 7, B), Stage(2, 1, C))
    assert [(e.trial, e.source) for e in trial_history(TrialRecord(1, C, (0.1, 0.2, 0.3), stages=stages))] == [
        *((0, None), (0, None), (1, 0))
    ]


def test_the_chain_ends_with_the_best_epoch():
    assert [epoch.score for epoch in record(ZERO, ONE, best=ONE).chain] == [0.1, 0.2, 0.5]
    assert record(ZERO).chain == record(best=TrialRecord(0, A)).chain == []


def test_each_trial_counts_once():
    trials = [
        TrialRecord(0, A, (0.1,) * 4, "finished"),
        TrialRecord(1, A, (0.1,), "finished"),  # ended early by itself
        TrialRecord(2, A, (0.1,) * 4, "paused"),
        TrialRecord(3, A, (0.1,), "paused"),
        TrialRecord(4, A, (0.1,), "stopped"),
        TrialRecord(5, A, (0.1,) * 4, "failed", "broke"),
        TrialRecord(6, A, (0.1,), "running"),
    ]
    counts = record(*trials).counts
    assert counts == {
        **{"started": 7, "trained to the end": 3, "stopped early or left waiting": 2, "failed": 1, "running": 1}
    }
    assert counts.pop("started") == sum(counts.values())


def test_without_a_log_the_epochs_are_those_of_the_trials_each_once():
    known = record(ZERO, ONE, best=ONE).trained
    assert sorted((e.trial, e.epoch) for e in known) == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (1, 4)]
    log = [TrialEpoch(1, 5, 0.5, A, seconds=3.0)]
    assert record(ZERO, log=log).trained == log


def test_stages_are_seen_in_trials_best_and_log():
    assert not record(ZERO, best=ZERO).has_stages
    assert record(ONE).has_stages and record(ZERO, best=ONE).has_stages
    assert record(ZERO, log=[TrialEpoch(1, 5, 0.5, A, source=2)]).has_stages


def test_lineage_is_json_with_stages_epochs_and_the_chain():
    bad = TrialRecord(2, B, (-math.inf,), "stopped")
    found = json.loads(json.dumps(lineage(record(ZERO, ONE, bad, best=ONE)), allow_nan=False))
    assert (found["select_on"], found["epochs"], found["best"]) == ("mean", 4, 1)
    zero, one, two = found["trials"]
    assert zero["stages"] == [{"after": 0, "trial": 0, "parameters": A}]
    assert one["stages"][1] == {"after": 2, "trial": 1, "parameters": B} and one["state"] == "finished"
    assert one["epochs"][2] == {"epoch": 3, "trial": 1, "source": 0, "score": 0.5, "parameters": B}
    assert two["epochs"][0]["score"] is None
    assert found["chain"] == one["epochs"][:3]
    empty = lineage(record())
    assert (empty["trials"], empty["best"], empty["chain"]) == ([], None, [])


def test_dimensions_of_domains():
    scales = {
        "uniform(0, 1)": "linear",
        "randint(1, 4)": "linear",
        "quniform(0, 1, 0.5)": "linear",
        "loguniform(1e-5, 1)": "log",
        "choice(a, b)": "choice",
        "grid(1, 2)": "choice",
        "choice(a)": "constant",
        "8": "constant",
    }
    assert {text: Dimension.of(parse_domain(text)).scale for text in scales} == scales
    assert Dimension.of(parse_domain("choice(a,b)")) == Dimension("choice(a, b)", "choice", ("a", "b"))


def test_a_record_needs_no_torch():
    code = "import sys, mtk.searchrecord; sys.exit(any(name in sys.modules for name in ('torch', 'scipy', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
