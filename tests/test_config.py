"""The configuration: what is refused and how it is said, how trees are merged, and that a file makes it again."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from mtk.config import RunConfig, make_config, merge, parse_settings, read_toml
from mtk.errors import ConfigError
from tests.toy_plugin import TREE

TASKS = {"tasks": {"sst": {}}}


def problem(tree) -> str:
    with pytest.raises(ConfigError) as caught:
        make_config({**TASKS, **tree}, "here.toml")
    text = str(caught.value)
    assert text.startswith("here.toml: ") and "\n" not in text
    return text.removeprefix("here.toml: ")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"optm": {"lr": 1e-3}}, ["unknown key 'optm'", "did you mean 'optim'"]),
        ({"optim": {"lrr": 1e-3}}, ["unknown key 'optim.lrr'", "did you mean 'lr'"]),
        ({"train": {"epoch": 1}}, ["unknown key 'train.epoch'", "did you mean 'epochs'"]),
        ({"data": {"maxlength": 1}}, ["unknown key 'data.maxlength'", "did you mean 'max_length'"]),
        ({"zzz": 1}, ["unknown key 'zzz'", "known: augment, changes"]),
        ({"optim": {"lr": "fast"}}, ["optim.lr", "valid number", "'fast'"]),
        ({"optim": {"lr": 0}}, ["optim.lr", "greater than 0", "found 0"]),
        ({"optim": {"lr": float("nan")}}, ["optim.lr", "finite", "nan"]),
        ({"optim": {"lr": float("inf")}}, ["optim.lr", "finite", "inf"]),
        ({"optim": 3}, ["optim: expected a table of settings, found 3"]),
        ({"optim": True}, ["optim", "not true or false"]),
        ({"train": {"epochs": 1.5}}, ["train.epochs", "1.5"]),
        ({"train": {"epochs": 0}}, ["train.epochs", "greater than or equal to 1"]),
        ({"train": {"epochs": True}}, ["train.epochs", "not true or false"]),
        ({"train": {"epochs": [1]}}, ["train.epochs", "[1]"]),
        ({"train": {"seed": 2**63}}, ["train.seed", "less than"]),
        ({"train": {"seed": -1}}, ["train.seed", "greater than or equal to 0"]),
        ({"train": {"threads": 10**9}}, ["train.threads", "1024"]),
        ({"train": {"step": "both"}}, ["train.step", "'all' or 'one'", "'both'"]),
        ({"train": {"device": "gpu"}}, ["train.device", "'auto', 'cpu', 'cuda' or 'mps'"]),
        ({"train": {"accumulate": 17, "batch_size": 16}}, ["task 'sst'", "16 rows", "17 parts"]),
        ({"model": {"dropout": 1.0}}, ["model.dropout", "less than 1"]),
        ({"data": {"max_length": 4}}, ["data.max_length", "greater than or equal to 8"]),
        ({"data": {"folder": 3}}, ["data.folder", "valid string"]),
        ({"encoder": 3}, ["encoder: expected a table of settings, found 3"]),
        ({"mixer": "capped:rows="}, ["'capped:rows='", "expected OPTION=VALUE"]),
        ({"mixer": "capped:rows=1,\nrows=2"}, ["option 'rows' is given twice"]),
        ({"augment": "eda"}, ["augment", "valid list", "'eda'"]),
        ({"tasks": {}}, ["at least one task"]),
        ({"tasks": ["sst"]}, ["tasks: expected a table of settings"]),
        ({"tasks": {"SST": {}}}, ["lower-case letters", "'SST'"]),
        ({"tasks": {"a.b": {}}}, ["'a.b'"]),
        ({"tasks": {"a\nb": {}}}, ["'a b'"]),
        ({"tasks": {"sst": {"weight": -1}}}, ["tasks.sst.weight", "greater than or equal to 0", "-1"]),
        ({"tasks": {"sst": {"weight": "heavy"}}}, ["tasks.sst.weight", "'heavy'"]),
        ({"tasks": {"sst": {"weight": float("inf")}}}, ["tasks.sst.weight", "finite"]),
        ({"tasks": {"sst": {"batch_size": 0}}}, ["tasks.sst.batch_size"]),
        ({"tasks": {"sst": {"batch_size": 2}}, "train": {"accumulate": 3}}, ["task 'sst'", "2 rows", "3 parts"]),
        ({"tasks": {"sst": {"head": {}}}}, ["tasks.sst.head.name"]),
        ({"train": {"select_on": "x" * 500, "sed": 1}}, ["unknown key 'train.sed'"]),
        ({"train": {"epochs": "x\ny" * 300}}, ["train.epochs", "..."]),
    ],
)
def test_what_is_refused_in_one_line(tree, words):
    text = problem(tree)
    for word in words:
        assert word in text, text
    assert len(text) < 500


def test_no_tasks_at_all():
    with pytest.raises(ConfigError, match="'tasks' is missing"):
        make_config({})


def test_values_are_those_of_the_types():
    found = make_config({**TASKS, "optim": {"lr": "3e-5"}, "train": {"epochs": "4"}})
    assert (found.optim.lr, found.train.epochs) == (3e-5, 4)


def test_a_task_by_its_kind_a_text_or_neither():
    tree = {"sst": {}, "reviews": {"kind": "sst", "bad_rows": 3}, "short": "sst:bad_rows=2"}
    found = make_config({"tasks": tree}).tasks
    assert {name: (task.name, task.options) for name, task in found.items()} == {
        "sst": ("sst", {}),
        "reviews": ("sst", {"bad_rows": 3}),
        "short": ("sst", {"bad_rows": "2"}),
    }


def test_a_plugin_by_a_table_or_a_text():
    table = make_config({**TASKS, "mixer": {"name": "capped", "rows": 500}}).mixer
    text = make_config({**TASKS, "mixer": "capped:rows=500"}).mixer
    assert (table.name, table.options) == ("capped", {"rows": 500})
    assert (text.name, text.options) == ("capped", {"rows": "500"})
    assert make_config({**TASKS, "encoder": "hf:owner/name"}).encoder.options == {"": "owner/name"}


def test_an_option_that_is_no_setting_of_the_task_is_the_plugin_s_own(toys):
    from mtk import session
    from mtk.errors import PluginError

    found = make_config({"tasks": {"words": {"wieght": 2}}})
    assert found.tasks["words"].options == {"wieght": 2}
    with pytest.raises(PluginError, match="'wieght'; did you mean 'weight'"):
        session.start(found, None)


def test_batch_sizes():
    found = make_config({"tasks": {"sst": {"batch_size": 3}, "sts": {}}, "train": {"batch_size": 5}})
    assert [found.batch_size(name) for name in found.tasks] == [3, 5]


# ---------------------------------------------------------------------------------------------- TOML

EVERYTHING = {
    "tasks": {
        "sst": {
            "kind": "sst", "head": {"name": "mlp", "hidden": 8, "activation": "tanh"}, "weight": 0.5, "batch_size": 7,
            "trained": False, "bad_rows": 2,
        },
        "sts": {"kind": "sts", "head": {"name": "cosine"}},
        "reviews": {"kind": "sst"},
    },
    "encoder": {"name": "hf", "": "owner/name", "dropout": None},
    "combiner": {"name": "cagrad", "c": 0.4, "names": ["a", "b"]},
    "scheduler": {"name": "linear", "warmup": 0.25},
    "mixer": {"name": "capped", "rows": None, "per_task": {"sst": 5}},
    "augment": [{"name": "eda", "alpha": 0.1}, {"name": "sick"}],
    "data": {"folder": "C:\\data \"x\"\né", "max_length": 64, "max_train_rows": 9, "sample": "always"},
    "model": {
        "dropout": 0.2, "encoder_dropout": 0.0, "projection": "hidden", "freeze": 2, "head_warmup": 1,
    },
    "optim": {"lr": 1 / 3, "head_lr": 0.1, "layer_decay": 0.9, "weight_decay": 0.0, "max_norm": 0.1 + 0.2},
    "train": {
        "epochs": 2, "max_steps": 11, "batch_size": 12, "accumulate": 2, "step": "one", "patience": 0,
        "min_gain": 0.001, "score_train": 50,
        "select_on": "sst.accuracy", "seed": 2**63 - 1, "precision": "bf16", "device": "mps", "threads": 3,
        "nonfinite": "skip", "diagnose": "layers", "diagnose_every": 7,
    },
    "init": "runs/a",
    "changes": [
        {"after": 1, "settings": {"optim": {"lr": 0.1 + 0.2}, "combiner": "pcgrad", "mixer": {"rows": None}}},
        {"after": 1, "settings": {"tasks": {"sst": {"weight": 2, "head": {"dropout": 0.3}}}, "encoder": {"dropout": 0}}}
    ],
}  # fmt: skip


def test_the_round_trip_tree_holds_every_field():
    for name, field in RunConfig.model_fields.items():
        assert name in EVERYTHING
        inner = getattr(field.annotation, "model_fields", {})
        if name in ("data", "model", "optim", "train"):
            assert set(EVERYTHING[name]) == set(inner), name


@pytest.mark.parametrize("tree", [EVERYTHING, TREE, TASKS, {**TASKS, "mixer": "capped:rows=none"}])
def test_the_file_makes_an_equal_configuration(tree):
    found = make_config(tree)
    again = make_config(tomllib.loads(found.to_toml()))
    assert again == found
    assert again.to_toml() == found.to_toml()
    assert make_config(found.to_dict()) == found


def test_an_option_that_is_none_stays_none(toys):
    from mtk import plugins

    found = make_config(tomllib.loads(make_config(EVERYTHING).to_toml()))
    assert plugins.build("mixer", found.mixer.name, **found.mixer.options).cap is None


def test_an_option_that_no_file_can_hold():
    found = make_config({**TASKS, "mixer": {"name": "capped", "rows": object()}})
    with pytest.raises(ConfigError, match=r"cannot be written to config\.toml"):
        found.to_toml()


def test_errors_of_a_file_name_it_and_the_line(tmp_path):
    file = tmp_path / "a.toml"
    with pytest.raises(ConfigError, match=r"a\.toml: cannot be read \(No such file"):
        read_toml(file)
    file.write_text("[train]\nepochs = 3\nseed = = 4\n")
    with pytest.raises(ConfigError, match=r"a\.toml: not a TOML file: .*line 3") as caught:
        read_toml(file)
    assert "\n" not in str(caught.value)
    file.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"a\.toml: not a TOML file"):
        read_toml(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path)
    file.write_text("[train]\nepochs = 3\n")
    assert read_toml(Path(file)) == {"train": {"epochs": 3}}


# ---------------------------------------------------------------------------------------------- --set


@pytest.mark.parametrize(
    ("settings", "tree"),
    [
        ([], {}),
        (["optim.lr=3e-5"], {"optim": {"lr": 3e-5}}),
        (["optim.lr = 3e-5", "optim.max_norm=2"], {"optim": {"lr": 3e-5, "max_norm": 2}}),
        (["encoder=hf:owner/name"], {"encoder": "hf:owner/name"}),
        (["train.select_on=sst"], {"train": {"select_on": "sst"}}),
        (["tasks.sst.trained=false"], {"tasks": {"sst": {"trained": False}}}),
        (["mixer.per_task={a = 1}"], {"mixer": {"per_task": {"a": 1}}}),
        (['init="runs/a=b"'], {"init": "runs/a=b"}),
        (["init=runs/a=b"], {"init": "runs/a=b"}),
        (["init="], {"init": ""}),
        (["init=1\nseed = 2"], {"init": "1\nseed = 2"}),
        (["train.seed=1", "train.seed=2"], {"train": {"seed": 2}}),
    ],
)
def test_settings(settings, tree):
    assert parse_settings(settings) == tree


@pytest.mark.parametrize("setting", ["optim.lr", "=3", " = 3", ""])
def test_settings_without_a_key_or_value(setting):
    with pytest.raises(ConfigError, match=r"--set: expected section\.key=value"):
        parse_settings([setting])


def test_a_value_is_no_section():
    with pytest.raises(ConfigError, match="'mixer' was already given a value"):
        parse_settings(["mixer=capped", "mixer.rows=3"])


# ---------------------------------------------------------------------------------------------- merge


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"optim": {"lr": 1}}, {"optim": {"max_norm": 2}}, {"optim": {"lr": 1, "max_norm": 2}}),
        ({"augment": ["a"]}, {"augment": ["b"]}, {"augment": ["b"]}),
        # a plugin whose name changes takes no options along
        ({"mixer": {"name": "capped", "rows": 3}}, {"mixer": {"name": "all"}}, {"mixer": {"name": "all"}}),
        ({"mixer": {"name": "capped", "rows": 3}}, {"mixer": "all"}, {"mixer": {"name": "all"}}),
        ({"mixer": "capped:rows=3"}, {"mixer": "all"}, {"mixer": {"name": "all"}}),
        ({"mixer": "capped:rows=3"}, {"mixer": {"name": "all"}}, {"mixer": {"name": "all"}}),
        # one whose name stays keeps those that are not given
        (
            {"mixer": {"name": "capped", "rows": 3}},
            {"mixer": {"name": "capped", "per_task": {}}},
            {"mixer": {"name": "capped", "rows": 3, "per_task": {}}},
        ),
        ({"mixer": {"name": "capped", "rows": 3}}, {"mixer": {"rows": 4}}, {"mixer": {"name": "capped", "rows": 4}}),
        ({"mixer": "capped:rows=3"}, {"mixer": {"rows": 4}}, {"mixer": {"name": "capped", "rows": 4}}),
        ({"mixer": "capped:rows=3"}, {"mixer": "capped"}, {"mixer": {"name": "capped", "rows": "3"}}),
        ({"mixer": {"name": "capped", "rows": 3}}, {"mixer": "capped"}, {"mixer": {"name": "capped", "rows": 3}}),
        ({"encoder": {"name": "hf", "source": "a/b"}}, {"encoder": "hf:c/d"}, {"encoder": {"name": "hf", "": "c/d"}}),
        # a task's head is a plugin, too; a folder is none
        (
            {"tasks": {"a": {"head": "mlp:hidden=3", "weight": 2}}},
            {"tasks": {"a": {"head": "linear"}}},
            {"tasks": {"a": {"head": {"name": "linear"}, "weight": 2}}},
        ),
        ({"tasks": {"a": "sst:bad_rows=2"}}, {"tasks": {"a": {"weight": 1}}},
         {"tasks": {"a": {"name": "sst", "bad_rows": "2", "weight": 1}}}),
        ({"data": {"folder": "a:b=c"}}, {"data": {"folder": "d"}}, {"data": {"folder": "d"}}),
    ],
)  # fmt: skip
def test_merge(base, over, merged):
    kept = repr(base)
    assert merge(base, over) == merged
    assert repr(base) == kept


def test_options_without_a_name_are_the_default_plugin_s():
    config = make_config({**TASKS, "mixer": {"rows": 500}})
    assert (config.mixer.name, config.mixer.options) == ("capped", {"rows": 500})


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("freeze", "layers", "model.freeze: expected a whole number, embeddings, encoder or none, found 'layers'"),
        ("freeze", -1, "model.freeze: input should be greater than or equal to 0, found -1"),
        ("projection", "big", "model.projection: expected a whole number, hidden or none, found 'big'"),
        ("projection", 0, "model.projection: input should be greater than or equal to 1, found 0"),
    ],
)
def test_words_or_numbers(key, value, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make_config({**TASKS, "model": {key: value}})
    assert getattr(make_config({**TASKS, "model": {key: "none"}}).model, key) is None
    assert getattr(make_config({**TASKS, "model": {key: "2"}}).model, key) == 2
