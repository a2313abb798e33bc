"""Flat settings become a configuration tree."""

from __future__ import annotations

import pytest

from mtk.errors import ConfigError, PluginError
from mtk.settings import configure, task_choice, tree_of


def test_a_task_written_as_text_in_a_file_takes_flat_settings(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[tasks]\nsst = "sst:bad_rows=2"\n')
    config = configure(config=file, tasks=["sst", "sts"], task_weight=["sst=0.5"], head={"sts": "cosine"})
    assert config.tasks["sst"].options == {"bad_rows": "2"} and config.tasks["sst"].weight == 0.5
    assert config.tasks["sts"].head is not None and config.tasks["sts"].head.name == "cosine"
    assert configure(config=file, task_weight=2).tasks["sst"].weight == 2.0


def test_later_settings_win(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('mixer = "capped:rows=10"\n[tasks.sst]\n[optim]\nlr = 1e-3\n[train]\nepochs = 9\n')
    tree = tree_of(config=file, lr=1e-4, settings=["train.epochs=2", "mixer.rows=20"])
    assert tree["optim"]["lr"] == 1e-4 and tree["train"]["epochs"] == 2
    assert configure(config=file, settings=["mixer.rows=20"]).mixer.options == {"rows": 20}
    assert configure(config=file, mixer="all").mixer.options == {}


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("sst", ("sst", {"kind": "sst"})),
        ("para", ("quora", {"kind": "quora"})),
        ("quora:bad_rows=2", ("quora", {"kind": "quora", "bad_rows": "2"})),
        ("films=sst", ("films", {"kind": "sst"})),
        ("films=sst:bad_rows=1", ("films", {"kind": "sst", "bad_rows": "1"})),
    ],
)
def test_task_forms(spec, found):
    assert task_choice(spec) == found


def test_one_value_for_all_tasks_or_one_each():
    config = configure(tasks=["sst", "sts"], batch_size=["16", "sts=4"], task_weight={"sst": 0.25})
    assert config.train.batch_size == 16 and config.batch_size("sts") == 4 and config.batch_size("sst") == 16
    assert config.tasks["sst"].weight == 0.25 and config.tasks["sts"].weight is None


def test_folders_hold_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configure(tasks=["sst"], data="rows").data.folder == str(tmp_path / "rows")

    (tmp_path / "weights").mkdir()
    for spec in ("weights", "bert:weights", "bert:source=weights"):
        encoder = configure(tasks=["sst"], encoder=spec).encoder
        assert str(tmp_path / "weights") in (encoder.name, *encoder.options.values())
    assert configure(tasks=["sst"], settings=["data.folder=rows"]).data.folder == str(tmp_path / "rows")


def test_names_of_aliases_and_of_no_task(tmp_path):
    assert configure(tasks=["para"], batch_size="para=4").batch_size("quora") == 4
    for settings, said in (
        ({"settings": ["tasks.sts.trained=false"]}, "no such task in this run"),
        ({"sample": True, "data": "x"}, "leave out the other"),
    ):
        with pytest.raises(ConfigError, match=said):
            configure(tasks=["sst"], **settings)
    with pytest.raises(ConfigError, match="cannot be named 'aggregate'"):
        configure(tasks=["aggregate=sst"])
    with pytest.raises(ConfigError, match="found no name"):
        configure(tasks=["=sst"])


def test_tasks_replace_those_of_the_file_with_a_word(tmp_path):
    file = tmp_path / "project.toml"
    file.write_text('[tasks.one]\nkind = "sst"\n[tasks.two]\nkind = "sst"\n')
    with pytest.warns(UserWarning, match=r"--task replaces the tasks of .*project.toml: one, two; .*name them"):
        assert list(configure(config=file, tasks=["sts"]).tasks) == ["sts"]
    with pytest.warns(UserWarning, match=r"project.toml: one;"):
        assert list(configure(config=file, tasks=["sts", "two"]).tasks) == ["sts", "two"]
    assert list(configure(config=file, tasks=["two"]).tasks) == ["two"], "a plain choice, no warning"
    assert list(configure(config=file, tasks=["sts", "one", "two"]).tasks) == ["sts", "one", "two"]


@pytest.mark.parametrize(
    "content, said",
    [
        ('[task.c]\nkind = "sst"\n', r"x.toml: no task, found \[task.c\]; did you mean \[tasks.c\]"),
        ('data = "x.csv"\nlabel = "y"\n', r"x.toml: expected tables .*; a task file goes to --task \S*x.toml"),
        ('kind = "classes"\nhub = "ag_news"\n', r"found a single task; a task file goes to --task"),
        ("[train]\nepochs = 1\n", r"x.toml: no task: expected at least one --task NAME"),
    ],
)
def test_a_file_without_tasks_says_what_it_is(tmp_path, content, said):
    (tmp_path / "x.toml").write_text(content)
    with pytest.raises(ConfigError, match=said):
        configure(config=tmp_path / "x.toml")


def test_a_table_or_a_task_file_without_its_suffix_in_the_place_of_a_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tickets.csv").write_text("text,label\na,b\n")
    with pytest.raises(
        ConfigError, match=r"tickets.csv: expected .* mtk task init tickets.csv writes one: --task tick"
    ):
        configure(tasks=["tickets.csv"])
    with pytest.raises(PluginError, match="unknown task 'tickets'"):
        configure(tasks=["tickets"])
    with pytest.raises(PluginError, match="unknown task"):
        configure(tasks=["t" * 5000])
    (tmp_path / "tickets.toml").write_text('data = "tickets.csv"\n')
    with pytest.raises(ConfigError, match=r"unknown task 'tickets'; did you mean the file tickets.toml"):
        configure(tasks=["tickets"])
    with pytest.raises(ConfigError, match=r"found another file; --task tickets.toml"):
        configure(tasks=["tickets.csv"])


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        configure(tasks=["sst"], epoch=3)
