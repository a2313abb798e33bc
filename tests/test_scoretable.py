"""Differences paired over seeds against scipy's, and what a row says of its seeds."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest
from scipy.stats import ttest_rel

from mtk import Difference, ScoreRow, paired_difference

OURS = {3: 0.71, 1: 0.74, 2: 0.70, 4: 0.735}
THEIRS = {1: 0.72, 2: 0.69, 3: 0.705, 4: 0.70}


def test_the_interval_is_that_of_the_paired_t_test():
    found = paired_difference(OURS, THEIRS)
    seeds = sorted(OURS)
    test = ttest_rel([OURS[s] for s in seeds], [THEIRS[s] for s in seeds])
    interval = test.confidence_interval(0.95)
    assert found is not None and found.pairs == 4
    assert found.low == pytest.approx(interval.low, abs=1e-12) and found.high == pytest.approx(interval.high, abs=1e-12)
    assert found.mean == pytest.approx(statistics.fmean(OURS[s] - THEIRS[s] for s in seeds))
    assert found.exceeds_noise == (test.pvalue < 0.05)


def test_the_other_way_round_is_the_negative():
    one, other = paired_difference(OURS, THEIRS), paired_difference(THEIRS, OURS)
    assert one is not None and other is not None
    assert (one.mean, one.low) == (pytest.approx(-other.mean), pytest.approx(-other.high))


def test_only_seeds_that_both_have_count():
    found = paired_difference({**OURS, 9: 100.0}, {**THEIRS, 8: -100.0})
    assert found == paired_difference(OURS, THEIRS)
    assert paired_difference({1: 0.5}, {2: 0.5}) is None
    assert paired_difference({}, {}) is None


def test_one_pair_has_no_interval():
    found = paired_difference({1: 0.6, 5: 0.1}, {1: 0.5, 6: 0.1})
    assert found is not None and found.mean == pytest.approx(0.1)
    assert (found.low, found.high, found.pairs, found.exceeds_noise) == (None, None, 1, None)


@pytest.mark.parametrize(
    ("low", "high", "beyond"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.0, False)]
)
def test_noise_is_exceeded_where_the_interval_leaves_0_out(low, high, beyond):
    assert Difference((low + high) / 2, low, high, 3).exceeds_noise is beyond


def test_mean_and_spread_of_a_row():
    row = ScoreRow("row", {"sst": [0.5, 0.7], "sts": [0.25], "none": []})
    assert row.mean("sst") == pytest.approx(0.6) and row.spread("sst") == pytest.approx(statistics.stdev([0.5, 0.7]))
    assert (row.mean("sts"), row.spread("sts")) == (0.25, None)
    assert row.mean("none") is row.mean("quora") is row.spread("quora") is None


def test_a_table_of_scores_needs_no_torch():
    code = "import sys, mtk.scoretable; sys.exit(any(name in sys.modules for name in ('torch', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
