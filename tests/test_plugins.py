"""The plugin manager, with toy plugin modules: what is registered, what is refused, and how it is said."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

import mtk
from mtk.interfaces import GradientCombiner, Head, Mixer, Task, TaskContext
from mtk.plugins import KINDS, Plugins, parse_spec


class Weighted(GradientCombiner):
    """Weights
    by hand.

    Not part of the summary.
    """

    def __init__(
        self,
        *,
        c: float = 0.4,
        mode: Literal["cone", "mean"] = "mean",
        steps: list[int] | None = None,
        flag: bool = False,
        share: Annotated[float, Field(ge=0, le=1)] = 0.5,
        folder: Path | None = None,
    ) -> None:
        if c < 0:
            raise ValueError("c must not be\nnegative")
        self.given = {"c": c, "mode": mode, "steps": steps, "flag": flag, "share": share, "folder": folder}


class Inherited(Weighted):
    def __init__(self, *, extra: int, **options: Any) -> None:
        super().__init__(**options)
        self.extra = extra


class Abstract(Mixer):
    pass


def lacking() -> GradientCombiner:
    raise ImportError("No module named 'cvxpy'; pip install cvxpy")


def bug() -> GradientCombiner:
    raise RuntimeError("a bug")


def plugin(hook: str, *calls: tuple, **named: Any) -> types.ModuleType:
    """A module whose hook makes these calls: a tuple of positional arguments, with `named` added to each."""

    def run(register: Callable[..., None]) -> None:
        for call in calls:
            register(*call, **named)

    module = types.ModuleType("toy")
    run.__name__ = hook
    setattr(module, hook, mtk.hookimpl(run))
    return module


@dataclass
class Point:
    """An entry point, or one that fails to load."""

    name: str
    module: Any
    dist: Any = None

    def load(self) -> Any:
        if isinstance(self.module, BaseException):
            raise self.module
        return self.module


def combiners(*calls: tuple, **named: Any) -> Plugins:
    return Plugins([Point("toy", plugin("register_combiners", *calls, **named))])


@pytest.fixture
def toys() -> Plugins:
    found = combiners(
        ("weighted", Weighted, "weights by hand"),
        ("inherited", f"{__name__}:Inherited", "more"),
        ("lacking", lacking, "needs cvxpy"),
        ("bug", bug, "fails"),
        ("gone", "mtk_no_such_module:X", "wrong target"),
        ("no-attribute", "mtk.errors:Nope", "wrong target"),
        ("constant", "mtk:__version__", "not callable"),
        ("other", "mtk.interfaces:Mixer", "wrong kind"),
        ("wrong", lambda: 3, "wrong kind"),
        ("context", lambda size: Weighted(), "wants context"),
    )
    assert found.broken() == []
    return found


# ---------------------------------------------------------------------------------------------- specs


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("pcgrad", "pcgrad", {}),
        ("cagrad:c=0.4,mode=x", "cagrad", {"c": "0.4", "mode": "x"}),
        ("step:milestones=[1,2],by-epoch=yes", "step", {"milestones": "[1,2]", "by_epoch": "yes"}),
        ("step:milestones='1,2',c=0", "step", {"milestones": "1,2", "c": "0"}),
        ("hf:owner/name", "hf", {"": "owner/name"}),
        ("hf:owner/name,pooling=cls", "hf", {"": "owner/name", "pooling": "cls"}),
        ("hf:./it's", "hf", {"": "./it's"}),
        ("C:\\models\\x", "C:\\models\\x", {}),
        ("./a:b", "./a:b", {}),
        ("owner/name", "owner/name", {}),
        ("https://host/x=1", "https://host/x=1", {}),
    ],
)
def test_specs(text: str, name: str, options: dict[str, str]) -> None:
    assert parse_spec(text) == (name, options)


@pytest.mark.parametrize("text", ["cagrad:", "cagrad:c=", "cagrad:c=1,c=2", "cagrad:c=1,2", "cagrad:c=[1", "x:a='1"])
def test_malformed_specs(text: str) -> None:
    with pytest.raises(mtk.ConfigError, match=r"cagrad|x:a"):
        parse_spec(text)


# ---------------------------------------------------------------------------------------------- find and build


def test_registered_names_and_aliases() -> None:
    found = combiners(("weighted", Weighted, "by hand"), aliases=["hand"], paper="arXiv 1")
    registration = found.registered("combiner")["weighted"]
    assert (registration.plugin, registration.paper, registration.aliases) == ("toy", "arXiv 1", ("hand",))
    assert found.find("combiner", "hand") == (registration, {})
    assert [found.registered(kind) for kind in KINDS if kind != "combiner"] == [{}] * (len(KINDS) - 1)
    with pytest.raises(mtk.PluginError, match="unknown plugin kind 'combiners'; did you mean 'combiner'"):
        found.registered("combiners")


def test_accepts_gives_options() -> None:
    found = combiners(("weighted", Weighted, "by hand"), accepts=lambda text: {"folder": text} if "/" in text else None)
    assert found.build("combiner", "a/b", c="0.1").given["folder"] == Path("a/b")
    with pytest.raises(mtk.PluginError, match="unknown combiner 'ab'"):
        found.build("combiner", "ab")


@pytest.mark.parametrize("wrong", [lambda text: 3, lambda text: 1 / 0])
def test_wrong_accepts(wrong: Any) -> None:
    with pytest.raises(mtk.PluginError, match="plugin 'toy', hook 'register_combiners', name 'w', argument 'accepts'"):
        combiners(("w", Weighted, "by hand"), accepts=wrong).find("combiner", "x")


def test_values_are_coerced(toys: Plugins) -> None:
    built = toys.build("combiner", "weighted", c="1", steps="1, 2", flag="yes", share=1, folder="none")
    assert built.given == {"c": 1.0, "mode": "mean", "steps": [1, 2], "flag": True, "share": 1.0, "folder": None}
    assert toys.build("combiner", "weighted", **{"": "0.2", "steps": "[]"}).given["c"] == 0.2
    assert toys.build("combiner", "weighted", steps=[3]).given["steps"] == [3]
    assert toys.build("combiner", "inherited", extra="3", c="0.1").given["c"] == 0.1


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        ("weighted", {"cc": 1}, mtk.PluginError, "combiner 'weighted' has no option 'cc'; did you mean 'c'?"),
        ("weighted", {"c": "x"}, mtk.ConfigError, "option 'c' must be float, found 'x'"),
        ("weighted", {"c": "nan"}, mtk.ConfigError, "option 'c' must be float, found 'nan'"),
        ("weighted", {"mode": "con"}, mtk.ConfigError, "must be 'cone' | 'mean', found 'con'; did you mean 'cone'?"),
        ("weighted", {"steps": "1,x"}, mtk.ConfigError, "option 'steps' must be list[int] | None, found '1,x'"),
        ("weighted", {"share": 2}, mtk.ConfigError, "found 2: input should be less than or equal to 1"),
        ("weighted", {"": "1", "c": 2}, mtk.ConfigError, "option 'c' is given twice"),
        ("weighted", {"c": -1}, mtk.ConfigError, "combiner 'weighted': c must not be negative (options: c=-1.0)"),
        ("inherited", {}, mtk.ConfigError, "combiner 'inherited' needs option 'extra' (int)"),
        ("lacking", {"a": 1}, mtk.PluginError, "combiner 'lacking' takes no options, found 'a'"),
        ("lacking", {}, mtk.PluginError, "combiner 'lacking' of plugin 'toy' lacks a package: ImportError: No m"),
        ("weightd", {}, mtk.PluginError, "unknown combiner 'weightd'; did you mean 'weighted'?"),
        ("Weighted", {}, mtk.PluginError, "did you mean 'weighted'?"),
    ],
)
def test_wrong_options(toys: Plugins, name: str, options: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        toys.build("combiner", name, **options)
    assert text in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gone", "No module named 'mtk_no_such_module'"),
        ("no-attribute", "has no attribute 'Nope'"),
        ("constant", "is not callable"),
        ("other", "Mixer is no GradientCombiner"),
        ("wrong", "gave 3, which is no GradientCombiner"),
        ("context", "missing a required argument: 'size'"),
    ],
)
def test_wrong_targets(toys: Plugins, name: str, text: str) -> None:
    with pytest.raises(mtk.PluginError) as caught:
        toys.build("combiner", name)
    place = f"plugin 'toy', hook 'register_combiners', name '{name}', argument 'build': "
    assert str(caught.value).startswith(place) and text in str(caught.value)


def test_unfinished_class_and_bugs(toys: Plugins) -> None:
    with pytest.raises(mtk.PluginError, match="Abstract does not define rows"):
        Plugins([Point("toy", plugin("register_mixers", ("abstract", Abstract, "x")))]).build("mixer", "abstract")
    with pytest.raises(RuntimeError, match="a bug") as caught:
        toys.build("combiner", "bug")
    assert caught.value.__notes__ == ["while building combiner 'bug' of plugin 'toy'"]


def test_unresolvable_hint() -> None:
    def build(*, c: NoSuchType = 1) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    with pytest.raises(mtk.PluginError, match=r"argument 'build': .*hint 'NoSuchType' of option 'c'"):
        combiners(("x", build, "x")).build("combiner", "x")


def test_context_is_positional() -> None:
    class Toy(Head):
        def __init__(self, hidden_size: int, target: mtk.Target, *, wide: bool = False) -> None:
            super().__init__(hidden_size, target)
            self.wide = wide

        def forward(self, *features: Any) -> Any:
            return None

    found = Plugins([Point("toy", plugin("register_heads", ("toy", Toy, "x")))])
    head = found.build("head", "toy", 8, mtk.Range(0, 5), wide="true")
    assert (head.hidden_size, head.wide) == (8, True)


def test_other_errors_of_ours_pass() -> None:
    def missing(context: TaskContext) -> Task:
        raise mtk.DataError("no such file")

    found = Plugins([Point("toy", plugin("register_tasks", ("toy", missing, "x")))])
    with pytest.raises(mtk.DataError, match=r"^no such file$"):
        found.build("task", "toy", TaskContext("toy"))


def test_describe(toys: Plugins) -> None:
    described = toys.describe("combiner", "weighted")
    assert described.doc == "Weights by hand."
    assert [(o.name, o.type, o.default) for o in described.options][:3] == [
        ("c", "float", 0.4),
        ("mode", "'cone' | 'mean'", "mean"),
        ("steps", "list[int] | None", None),
    ]
    assert [o.type for o in described.options][3:] == ["bool", "float", "Path | None"]
    assert [(o.name, o.required) for o in toys.options("combiner", "inherited")][:2] == [("extra", True), ("c", False)]


# ---------------------------------------------------------------------------------------------- broken plugins


def misspelt() -> types.ModuleType:
    return plugin("register_combinerz", ("a", Weighted, "x"))


def wrong_argument() -> types.ModuleType:
    module = types.ModuleType("toy")

    @mtk.hookimpl
    def register_combiners(registry: Any) -> None:
        pass

    module.register_combiners = register_combiners  # type: ignore[attr-defined]
    return module


def one(*call: Any, hook: str = "register_combiners", **named: Any) -> types.ModuleType:
    return plugin(hook, call, **named)


HOOK = "plugin 'toy', hook 'register_combiners'"
WRONG = {
    "import": (ImportError("no nose"), "plugin 'toy' is left out: ImportError: no nose (tests/test_plugins.py:"),
    "exit": (SystemExit(3), "plugin 'toy' is left out: SystemExit: 3"),
    "misspelt hook": (misspelt(), "plugin 'toy': there is no hook 'register_combinerz'; did you mean 'register_comb"),
    "hook argument": (wrong_argument(), "'registry'"),
    "no hook": (types.ModuleType("toy"), "plugin 'toy': no function is marked with mtk.hookimpl"),
    "name": (one("PCGrad", Weighted, "x"), f"{HOOK}, name 'PCGrad', argument 'name'"),
    "name type": (one(3, Weighted, "x"), f"{HOOK}, name 3, argument 'name'"),
    "empty summary": (one("a", Weighted, " "), f"{HOOK}, name 'a', argument 'summary'"),
    "long summary": (one("a", Weighted, "x\ny"), f"{HOOK}, name 'a', argument 'summary'"),
    "build text": (one("a", "mtk_toy.Weighted", "x"), f"{HOOK}, name 'a', argument 'build'"),
    "build": (one("a", 3, "x"), f"{HOOK}, name 'a', argument 'build'"),
    "accepts": (one("a", Weighted, "x", accepts="*"), f"{HOOK}, name 'a', argument 'accepts'"),
    "aliases": (one("a", Weighted, "x", aliases="ab"), f"{HOOK}, name 'a', argument 'aliases'"),
    "paper": (one("a", Weighted, "x", paper=None), f"{HOOK}, name 'a', argument 'paper'"),
    "too few": (one("a", Weighted), f"{HOOK}, name 'a': register: missing a required argument: 'summary'"),
    "too many": (one("a", Weighted, "x", "y"), f"{HOOK}, name 'a': register: too many positional arguments"),
    "unknown argument": (
        one("a", Weighted, "x", papr="y"),
        f"{HOOK}, name 'a', argument 'papr': register takes no such argument; did you mean 'paper'?",
    ),
    "unknown argument of a command": (
        one("a", print, "x", hook="register_commands", sumary="y"),
        "name 'a', argument 'sumary': register takes no such argument; did you mean 'summary'?",
    ),
    "twice": (plugin("register_combiners", ("a", Weighted, "x"), ("a", Weighted, "x")), "from plugin 'toy'"),
    "path": (one("Data", print, "x", hook="register_commands"), "name 'Data', argument 'path'"),
    "command": (one("data", 3, "x", hook="register_commands"), "name 'data', argument 'command'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_broken_plugin_is_set_aside_and_others_go_on(case: str) -> None:
    module, text = WRONG[case]
    if isinstance(module, types.ModuleType) and case != "no hook":  # what it registers before counts for nothing
        other = plugin("register_augmentations", ("early", print, "x"))
        module.register_augmentations = other.register_augmentations  # type: ignore[attr-defined]
    found = Plugins([Point("toy", module), Point("sound", plugin("register_combiners", ("a", Weighted, "x")))])
    (broken,) = found.broken()
    assert broken.plugin == "toy" and text in broken.reason and "\n" not in broken.reason
    assert list(found.registered("combiner")) == ["a"] and found.registered("augmentation") == {}
    with pytest.raises(mtk.PluginError, match=r"unknown combiner 'b'; known: a; .*lugin 'toy'.*left out"):
        found.find("combiner", "b")
    with pytest.raises(mtk.PluginError, match=r"unknown combiner 'toy'; .*lugin 'toy'.*left out") as caught:
        found.find("combiner", "toy")
    assert "known: " not in str(caught.value) and "did you mean 'a'" not in str(caught.value)


@pytest.mark.parametrize("second", [("b", ["a"]), ("a", []), ("c", ["z"])])
def test_duplicates_break_the_second_plugin_and_built_ins_come_first(second: tuple[str, list[str]]) -> None:
    name, aliases = second
    own = types.SimpleNamespace(name="multitask-toolkit", version="1")
    stranger = types.SimpleNamespace(name="a-stranger", version="2")
    theirs = plugin("register_combiners", (name, Weighted, "theirs"), aliases=aliases)
    points = [
        Point("theirs", theirs, stranger),
        Point("ours", plugin("register_combiners", ("a", Weighted, "ours"), aliases=["z"]), own),
    ]
    found = Plugins(points)
    assert [r.summary for r in found.registered("combiner").values()] == ["ours"]
    (broken,) = found.broken()
    assert (broken.plugin, broken.distribution, broken.version) == ("theirs", "a-stranger", "2")
    assert "plugin 'theirs'" in broken.reason and "from plugin 'ours'" in broken.reason


def test_commands_and_their_duplicates() -> None:
    first = Point("first", plugin("register_commands", ("data fetch", print, "fetch")))
    found = Plugins([first, Point("second", plugin("register_commands", ("data", print, "no group")))])
    assert [tuple(c)[:3] for c in found.commands()] == [("data fetch", print, "fetch")]
    assert "argument 'path': command 'data fetch' is already there" in found.broken()[0].reason


def test_disabled_and_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTK_DISABLE_PLUGINS", "toy, ")
    found = combiners(("a", Weighted, "x"))
    assert found.registered("combiner") == {} and found.broken() == []
    found.add("mine", plugin("register_combiners", ("b", Weighted, "x")))
    assert list(found.registered("combiner")) == ["b"]


def test_a_distribution_is_disabled_by_its_name_and_an_unknown_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = types.SimpleNamespace(name="My_Plugins", version="1")
    module = plugin("register_combiners", ("a", Weighted, "x"))
    points = [Point("one", module, mine), Point("two", module, mine), Point("three", module)]
    monkeypatch.setenv("MTK_DISABLE_PLUGINS", "my-plugins,thre")
    found = Plugins(points)
    assert [r.plugin for r in found.registered("combiner").values()] == ["three"]
    (notice,) = found.broken()
    assert notice.plugin == "thre"
    assert notice.reason == (
        "MTK_DISABLE_PLUGINS (or --no-plugins) names 'thre', but no installed plugin or distribution is called so; "
        "did you mean 'three'?"
    )


def test_two_packages_that_share_a_name_are_disabled_and_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTK_DISABLE_PLUGINS", "toy")
    module = plugin("register_combiners", ("toy", Weighted, "x"))
    found = Plugins([Point("toy", module, types.SimpleNamespace(name=name, version="1")) for name in ("one", "two")])
    assert found.disabled() == {"toy": "one, two"}
    with pytest.raises(
        mtk.PluginError, match=r"^unknown combiner 'toy'; plugin 'toy' \(one, two\) is disabled by MTK_"
    ):
        found.find("combiner", "toy")


def unhinted(*, c=1):  # type: ignore[no-untyped-def]
    """An option whose text could not be read."""
    return Weighted()


def early(c: float = 1.0) -> GradientCombiner:
    return Weighted()


def early_and_required(losses: int, c: float) -> GradientCombiner:
    return Weighted()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (unhinted, "option 'c' of unhinted has no type hint to read its value by; write one: c: float, say"),
        (early, "argument 'c' of early: an option is keyword-only; move it behind a '*'"),
        (early_and_required, "argument 'c' of early_and_required: an option is keyword-only; move it behind a '*'"),
    ],
)
def test_options_are_keyword_only_and_have_hints(build: Any, text: str) -> None:
    found = combiners(("a", build, "x"))
    place = "plugin 'toy', hook 'register_combiners', name 'a', argument 'build': "
    with pytest.raises(mtk.PluginError) as caught:
        found.build("combiner", "a", 3, c="2")
    assert str(caught.value) == place + text
    if build is not early_and_required:  # what the core gives is known when it is built alone
        with pytest.raises(mtk.PluginError, match=text.partition(";")[0]):
            found.describe("combiner", "a")


def test_installed_plugins_are_sound() -> None:
    assert mtk.plugins.broken() == []
    for kind in KINDS:
        for name in mtk.plugins.registered(kind):
            mtk.plugins.describe(kind, name)


def test_import_is_light() -> None:
    code = (
        "import sys, mtk.plugins as p; [p.registered(k) for k in p.KINDS]; p.commands(); p.parse_spec('a:b=1');"
        "print([m for m in ('torch', 'pydantic', 'transformers', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
