"""A matrix file becomes cells whose names say what they are, or one line says why not."""

from __future__ import annotations

import pytest

from mtk.errors import ConfigError
from mtk.matrix import read_matrix, seeds_from

SST = "[base]\ntasks = { sst = {} }\n"


@pytest.fixture
def cells(tmp_path):
    def read(text: str, **flat):
        (tmp_path / "runs.toml").write_text(text)
        return {cell.name: cell for cell in read_matrix(tmp_path / "runs.toml", **flat)[1]}

    return read


@pytest.fixture
def refused(cells):
    def read(text: str, **flat) -> str:
        with pytest.raises(ConfigError) as error:
            cells(text, **flat)
        assert "runs.toml" in str(error.value) and "\n" not in str(error.value)
        return str(error.value)

    return read


def test_recipes_times_variants_times_settings(cells):
    found = cells(
        """
        title = "All"
        recipes = ["paper/surgery", "paper/surgery-sick"]
        [base]
        encoder = "minilm"
        train = { epochs = 2 }
        [settings]
        combiner = ["sum", "pcgrad"]
        "optim.lr" = [3e-5, 1e-4]
        [variants.plain]
        [variants.short]
        train.epochs = 1
        """
    )
    assert len(found) == 2 * 2 * 2 * 2
    one = found["paper/surgery-sick short combiner=sum lr=3e-05"].config
    assert (one.combiner.name, one.optim.lr, one.train.epochs, one.encoder.name) == ("sum", 3e-5, 1, "minilm")
    assert [choice.name for choice in one.augment] == ["sick"]
    assert found["paper/surgery plain combiner=pcgrad lr=0.0001"].config.train.epochs == 2


def test_without_anything_to_cross_a_matrix_is_one_cell(tmp_path, cells):
    assert list(cells(SST)) == ["runs"]
    (tmp_path / "m.toml").write_text(f'title = "T"\nseeds = [7, 5]\n{SST}')
    title, found, seeds = read_matrix(tmp_path / "m.toml")
    assert (title, [cell.name for cell in found], seeds) == ("T", ["m"], [7, 5])
    (tmp_path / "m.toml").write_text(SST)
    assert read_matrix(tmp_path / "m.toml")[::2] == ("m", 1)


def test_an_encoder_as_an_axis_picks_the_recipes_settings_for_it(cells):
    found = cells('recipes = ["paper/final"]\n[settings]\nencoder = ["minilm", "tiny", "bert-base"]\n')
    epochs = {name: (cell.config.encoder.name, cell.config.train.epochs) for name, cell in found.items()}
    assert epochs == {
        "paper/final encoder=minilm": ("minilm", 4),
        "paper/final encoder=tiny": ("tiny", 20),
        "paper/final encoder=bert-base": ("bert-base", 20),
    }
    assert found["paper/final encoder=minilm"].config.encoder.options["pair"] == "no-final-sep"


@pytest.mark.parametrize("keys", [("encoder", '"encoder.pooling"'), ('"encoder.pooling"', "encoder")])
def test_a_plugin_and_its_option_cross_in_either_order(cells, keys):
    values = {"encoder": '["tiny", "minilm"]', '"encoder.pooling"': '["cls", "mean"]'}
    found = cells(f"{SST}[settings]\n" + "\n".join(f"{key} = {values[key]}" for key in keys))
    made = {(cell.config.encoder.name, cell.config.encoder.options["pooling"]) for cell in found.values()}
    assert made == {("tiny", "cls"), ("tiny", "mean"), ("minilm", "cls"), ("minilm", "mean")}
    for name, cell in found.items():
        assert f"encoder={cell.config.encoder.name}" in name
        assert f"pooling={cell.config.encoder.options['pooling']}" in name


def test_keys_with_the_same_last_part_are_named_in_full(cells):
    found = cells(
        '[base]\ntasks = { sst = {}, sts = {} }\n[settings]\n"tasks.sst.weight" = [1, 2]\n"tasks.sts.weight" = [3]\n'
        '"train.epochs" = [1]\n'
    )
    assert list(found) == [f"tasks.sst.weight={w} tasks.sts.weight=3 epochs=1" for w in (1, 2)]
    assert [cell.config.tasks["sst"].weight for cell in found.values()] == [1.0, 2.0]


def test_lists_and_tables_are_values_too(cells):
    found = cells(f'{SST}[settings]\naugment = [[], ["eda"]]\nmixer = ["all", {{ name = "capped", rows = 3 }}]\n')
    assert len(found) == 4 and len({cell.slug for cell in found.values()}) == 4
    assert {cell.config.mixer.name for cell in found.values()} == {"all", "capped"}


def test_published_figures_are_a_plain_recipes_alone(cells):
    assert cells('recipes = ["paper/final"]')["paper/final"].published["mean"] == 0.7
    assert not cells('recipes = ["paper/final"]\n[settings]\nencoder=["tiny"]')["paper/final encoder=tiny"].published
    assert not cells('recipes = ["paper/final"]\n[variants.a]\naugment=[]')["paper/final a"].published


def test_the_command_line_overrides_the_base(cells, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = f'{SST}train = {{ epochs = 5 }}\n[settings]\ncombiner = ["sum", "pcgrad"]\n'
    for cell in cells(text, epochs=2, data="rows", settings=["optim.lr=1e-3"]).values():
        assert (cell.config.train.epochs, cell.config.optim.lr) == (2, 1e-3)
        assert cell.config.data.folder == str(tmp_path / "elsewhere" / "rows")
    found = cells(f'{SST}[settings]\nencoder = ["tiny"]\n', settings=["encoder.pooling=cls"])
    assert found["encoder=tiny"].config.encoder.options == {"pooling": "cls"}


@pytest.mark.parametrize(
    ("axis", "flat", "option"),
    [
        ('"train.epochs" = [1, 2]', {"epochs": 3}, "--epochs"),
        ('"train.max_steps" = [1, 2]', {"max_steps": 3}, "--max-steps"),
        ('"optim.lr" = [1e-5]', {"settings": ["optim.lr=1"]}, "--set optim.lr"),
        ('"encoder.pooling" = ["cls"]', {"settings": ["encoder=tiny"]}, "--set encoder"),
    ],
)
def test_an_option_cannot_override_what_the_cells_are_named_by(refused, axis, flat, option):
    said = refused(f"{SST}[settings]\n{axis}\n", **flat)
    assert option in said and "leave out the option" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recipe = []", "unknown key 'recipe'; did you mean 'recipes'"),
        ("title = 3", "title: expected a text, found 3"),
        ('recipes = "paper/final"', "recipes: expected a list, found 'paper/final'"),
        ("recipes = [3]", "recipes: expected names of recipes, found 3"),
        ('recipes = ["paper/fina"]', "cell 'paper/fina': unknown recipe 'paper/fina'; did you mean 'paper/final'"),
        ("base = []", "base: expected a table, found []"),
        ("settings = 3", "settings: expected a table"),
        (f"{SST}[settings]\ncombiner = []", "settings.combiner: expected a list of values to cross, found []"),
        (f'{SST}[settings]\ncombiner = "sum"', "settings.combiner: expected a list of values to cross, found 'sum'"),
        (f"{SST}[settings]\noptim.lr = [1e-3]", "settings.optim: expected a list of values"),
        (f"{SST}[variants]\na = 3", "variants.a: expected a table of settings, found 3"),
        (f'{SST}[settings]\noptim = [3]\n"optim.lr" = [1]', "settings.optim.lr: 'optim' has values of its own"),
        (f'{SST}[settings]\n"optim.lr" = [1]\noptim = [{{}}]', "settings.optim.lr: 'optim' has values of its own"),
        (
            f'{SST}[settings]\nencoder = [{{ name = "tiny" }}]\n"encoder.pooling" = ["cls"]',
            "settings.encoder.pooling: 'encoder' has values of its own",
        ),
        (f'{SST}[settings]\n"optim.lrr" = [1]', "cell 'lrr=1': configuration: unknown key 'optim.lrr'"),
        (f'{SST}[settings]\n"train.epochs" = [1, 0]', "cell 'epochs=0': configuration: train.epochs"),
        ('[settings]\n"train.epochs" = [1]', "cell 'epochs=1': no task"),
        (f'{SST}[settings]\n"train.seed" = [1, 2]', "seeds are replicates, not a setting"),
        (f"{SST}train.seed = 3", "seeds are replicates, not a setting"),
        (f"{SST}[variants.a]\n[variants.b]\n", "variants 'a' and 'b' have the same configurations"),
        (
            f'{SST}[settings]\n"train.epochs" = [1, 2]\n[variants.a]\n[variants.long]\ntrain.epochs = 9',
            "variants 'a' and 'long' have the same configurations",
        ),
        (f"seeds = 0\n{SST}", "seeds: expected at least one, found 0"),
        (f"seeds = []\n{SST}", "seeds: expected how many, or a list of whole numbers, found []"),
        (f"seeds = true\n{SST}", "seeds: expected how many"),
        (f"seeds = 1.5\n{SST}", "seeds: expected how many"),
        (f"seeds = [-1]\n{SST}", "seeds: expected how many"),
        (f"seeds = [1, 1]\n{SST}", "seeds: expected different ones"),
        ("[", "not a TOML file"),
    ],
)
def test_a_mistake_is_named(refused, text, said):
    assert said in refused(text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read \(No such file"):
        read_matrix(tmp_path / "none.toml")


def test_seeds_count_up_or_are_those_of_the_file():
    assert seeds_from(3, 10) == [10, 11, 12]
    assert seeds_from([7, 5], 10) == [7, 5]


def test_the_docstring_is_a_matrix(tmp_path):
    import mtk.matrix

    text = (mtk.matrix.__doc__ or "").partition("\n\n")[2]
    file = tmp_path / "documented.toml"
    file.write_text(text)
    title, found, seeds = read_matrix(file)
    assert (title, len(found), seeds) == ("Combiners", 2 * 2 * 2 * 2, 3)
