"""EDA's four operations, whose rows get copies, and where the synonyms come from."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from mtk import (
    Classes,
    ConfigError,
    DataError,
    Example,
    MultiLabel,
    Number,
    Ordinal,
    PluginError,
    Range,
    Ranking,
    Source,
    Tags,
    Target,
    Task,
    TaskContext,
    build,
)
from mtk.cli.app import run as command
from mtk.testing import check_augmentation
from mtk_text import wordnet
from mtk_text.eda import (
    EDA,
    STOP_WORDS,
    changes,
    delete_words,
    insert_synonyms,
    replace_synonyms,
    shuffled,
    swap_words,
    with_synonyms,
    words,
)
from mtk_text.tasks import SST, STS
from mtk_text.wordnet import NEEDED, SAMPLE_WORDNET, find_wordnet

pytest.importorskip("nltk", reason="nltk is not installed: EDA's synonyms are read by it")

SYNSETS = {
    "noun": [["film", "movie", "motion_picture"], ["film", "membrane"], ["dog", "domestic_dog"], ["Rome", "Roma"]],
    "verb": [["film", "shoot"], ["run", "race"]],
    "adj": [["good", "fine"], ["well-known", "long-familiar"], ["lonely", "lonely"]],
    "adv": [["fast", "quickly"]],
}


def write_wordnet(folder: Path, synsets: Mapping[str, Sequence[Sequence[str]]]) -> Path:
    """The eight files that hold the synsets (lists of lemmas, by part of speech) as WordNet's own files do."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, number, letter in (("noun", "03", "n"), ("verb", "30", "v"), ("adj", "00", "a"), ("adv", "02", "r")):
        data, offsets = "  1 A few synsets in the format of WordNet 3.0.\n", {}
        for lemmas in synsets[kind]:
            offset = len(data)
            for lemma in dict.fromkeys(lemma.lower() for lemma in lemmas):
                offsets.setdefault(lemma, []).append(offset)
            parts = " ".join(f"{lemma} 0" for lemma in lemmas)
            frames = " 00" if kind == "verb" else ""
            data += f"{offset:08d} {number} {letter} {len(lemmas):02x} {parts} 000{frames} | words of like meaning\n"
        index = "  1 A few lemmas in the format of WordNet 3.0.\n"
        for lemma, places in sorted(offsets.items()):
            synset_offsets = " ".join(f"{place:08d}" for place in places)
            index += f"{lemma} {letter} {len(places)} 0 {len(places)} 0 {synset_offsets}\n"
        (folder / f"data.{kind}").write_bytes(data.encode())
        (folder / f"index.{kind}").write_bytes(index.encode())
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_wordnet(tmp_path / "wordnet", SYNSETS)


@pytest.fixture(autouse=True)
def no_wordnet_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing but what a test puts there, and nltk's search path as it was."""
    import nltk.data

    monkeypatch.delenv("MTK_WORDNET", raising=False)
    monkeypatch.setattr(wordnet, "INSTALLED", ())
    before = list(nltk.data.path)
    nltk.data.path[:] = [str(tmp_path / "nltk_data")]
    wordnet._opened.cache_clear()
    yield
    nltk.data.path[:] = before
    wordnet._opened.cache_clear()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


KNOWN = {"film": ("movie", "motion picture"), "good": ("fine",)}


def synonyms(word: str) -> Sequence[str]:
    return KNOWN.get(word.lower(), ())


class Memory(Task):
    """Rows in memory; `sample` as the built-in sample's own."""

    def __init__(self, rows: Sequence[Example], name: str = "memory", *, sample: bool = False) -> None:
        super().__init__(TaskContext(name))
        self.rows, self.sample = rows, sample
        self.paired = rows[0].pair is not None
        self.target = Range(0, 5) if self.paired else Classes(["no", "yes"])

    @property
    def source(self) -> Source:
        return Source("memory", sample=self.sample)

    def examples(self, split: str) -> Sequence[Example]:
        return self.rows


TEXT = "The film was a really good one , and Rome looked splendid ."
SINGLE = Memory([Example(f"s{i}", f"{TEXT} Number {i}", None, i % 2) for i in range(40)])
PAIRS = Memory([Example(f"p{i}", f"{TEXT} {i}", f"A dog runs very fast {i}", 2.5) for i in range(40)])


def copies(of: Task, seed: int = 0, **options: object) -> list[Example]:
    rows = build("augmentation", "eda", **options)(of, of.examples("train"), seeded(seed))
    return list(rows[len(of.examples("train")) :])


# ---------------------------------------------------------------------------------------------- the operations


@pytest.mark.parametrize(("length", "share", "count"), [(1, 0.1, 1), (9, 0.1, 1), (29, 0.1, 2), (30, 0.5, 15)])
def test_how_many_words_change(length: int, share: float, count: int) -> None:
    """n = max(1, alpha * l), rounded down; punctuation by itself is no word."""
    assert changes([*["word"] * length, ",", "."], share) == count


def test_synonyms_replace_words_and_nothing_else() -> None:
    tokens = ["The", "film", ",", "(", "Good", "films", ")", "and", "a", "``", "good", "film,", "''"]
    seen = set()
    for seed in range(40):
        out = replace_synonyms(tokens, seeded(seed), share=0.3, synonyms=synonyms)
        assert out is not None and len(out) == len(tokens)
        different = [(old, new) for old, new in zip(tokens, out, strict=True) if old != new]
        assert len(different) == 2  # 0.3 of 8 words
        seen |= set(different)
    assert seen == {
        ("film", "movie"), ("film", "motion picture"), ("Good", "Fine"), ("good", "fine"),
        ("film,", "movie,"), ("film,", "motion picture,"),
    }  # fmt: skip
    assert replace_synonyms(tokens, seeded(0), share=1, synonyms=synonyms) == (
        replace_synonyms(tokens, seeded(0), share=0.5, synonyms=synonyms)
    ), "no more than there are with synonyms"


def test_stop_words_numbers_and_single_letters_have_no_synonyms() -> None:
    def anything(word: str) -> Sequence[str]:
        return () if "'" in word else ("other",)

    tokens = ["It", "'s", "2", "Don't", "a", "I", "n't", "s", "...", "(", "the", "<br", "/>", "10th"]
    assert with_synonyms(tokens, anything) == {}
    assert all(word == word.lower() for word in STOP_WORDS)
    assert replace_synonyms(tokens, seeded(0), share=1, synonyms=anything) is None
    assert insert_synonyms(tokens, seeded(0), share=1, synonyms=anything) is None


def test_synonyms_are_inserted_at_every_place() -> None:
    tokens = ["a", "film", "."]
    places = Counter()
    for seed in range(200):
        out = insert_synonyms(tokens, seeded(seed), share=0.1, synonyms=synonyms)
        assert out is not None and len(out) == 4
        (place,) = [i for i, token in enumerate(out) if token in KNOWN["film"]]
        assert [token for i, token in enumerate(out) if i != place] == tokens
        places[place] += 1
    assert set(places) == {0, 1, 2, 3} and min(places.values()) > 25
    many = insert_synonyms(tokens, seeded(0), share=1, synonyms=synonyms)
    assert many is not None and len(many) == 5, "two words, so two are put in"


def test_swapped_words_are_the_same_words() -> None:
    tokens = ["one", "two", ",", "three", "four", "."]
    for seed in range(20):
        out = swap_words(tokens, seeded(seed), share=0.1)
        assert out is not None and sorted(out) == sorted(tokens)
        assert sum(a != b for a, b in zip(tokens, out, strict=True)) == 2
        assert (out[2], out[5]) == (",", "."), "punctuation stays in its place"
    assert swap_words(["one", "!"], seeded(0), share=1) is None


def test_deletion_takes_each_word_with_the_probability_and_leaves_one() -> None:
    tokens = [f"w{i}" for i in range(2000)]
    out = delete_words(tokens, seeded(0), probability=0.1)
    assert out is not None and 1750 < len(out) < 1850
    assert out == [token for token in tokens if token in set(out)], "the others keep their order"
    left = {tuple(delete_words(["a", "b", ".", "c"], seeded(seed), probability=1.0) or ()) for seed in range(50)}
    assert left == {("a", "."), ("b", "."), (".", "c")}
    assert delete_words(["a", "."], seeded(0), probability=1.0) is None
    assert words(["a", ".", "1", "-"]) == [0, 2]


# ---------------------------------------------------------------------------------------------- the rows


def test_rows_stay_and_copies_come_behind_with_their_labels(small: Path) -> None:
    rows = build("augmentation", "eda", copies="2", wordnet=str(small))(SINGLE, SINGLE.rows, seeded(1))
    assert list(rows[:40]) == SINGLE.rows
    assert [row.id for row in rows[40:44]] == ["s0-eda-1", "s0-eda-2", "s1-eda-1", "s1-eda-2"]
    assert [row.label for row in rows[40:]] == [i // 2 % 2 for i in range(80)]
    assert sum(copy.text == SINGLE.rows[i // 2].text for i, copy in enumerate(rows[40:])) < 12
    assert all(row.text.strip() for row in rows)


def test_the_same_seed_gives_the_same_copies_whatever_else_is_drawn(small: Path) -> None:
    torch.manual_seed(1)
    first = copies(PAIRS, 3, wordnet=str(small))
    torch.manual_seed(2)
    copies(SINGLE, 3, wordnet=str(small))
    assert copies(PAIRS, 3, wordnet=str(small)) == first != copies(PAIRS, 4, wordnet=str(small))
    check_augmentation(partial(build, "augmentation", "eda", copies=5, wordnet=str(small)))
    check_augmentation(partial(build, "augmentation", "eda", alpha_sr=0, alpha_ri=0, task="toy"))


def test_of_a_pair_one_text_changes(small: Path) -> None:
    changed = Counter()
    for i, copy in enumerate(copies(PAIRS, wordnet=str(small), p_rd=0)):
        row = PAIRS.rows[i]
        changed[(copy.text != row.text, copy.pair != row.pair)] += 1
        assert copy.label == 2.5
    assert set(changed) == {(True, False), (False, True)} and min(changed.values()) >= 10, changed


def test_the_operations_take_turns(small: Path) -> None:
    """Four copies of a row are one of each operation, told apart by their words."""
    kinds = Counter()
    for i, copy in enumerate(copies(SINGLE, copies=4, wordnet=str(small), p_rd=1)):
        old, new = SINGLE.rows[i // 4].text.split(), copy.text.split()
        extra = set(new) - set(old)
        if len(words(new)) == 1:
            kinds["deletion"] += 1
        elif sorted(new) == sorted(old):
            kinds["swap"] += 1
        else:
            assert extra
            kinds["insertion" if set(old) <= set(new) else "replacement"] += 1
    assert kinds == {"deletion": 40, "swap": 40, "insertion": 40, "replacement": 40}
    first = Counter(next(iter(shuffled("abcd", seeded(seed)))) for seed in range(400))
    assert min(first.values()) > 70, "with one copy every operation comes as often"


def test_an_operation_that_is_off_is_never_done(small: Path) -> None:
    only = {"alpha_sr": 0, "alpha_ri": 0, "alpha_rs": 0, "p_rd": 0}
    for copy in copies(SINGLE, **{**only, "alpha_rs": 0.1}):
        assert sorted(copy.text.split()) == sorted(f"{TEXT} Number {copy.id[1:].split('-')[0]}".split())
    for copy in copies(SINGLE, wordnet=str(small), **{**only, "alpha_sr": 0.1}):
        assert len(set(copy.text.split()) - set(TEXT.split())) >= 2  # the synonym and the number


def test_a_text_that_nothing_can_be_done_to_is_copied(small: Path) -> None:
    task = Memory([Example("a", "Unheard-of", None, 1), Example("b", ":-)", None, 0), Example("c", "film", None, 0)])
    texts = [copy.text for copy in copies(task, copies=8, wordnet=str(small))]
    assert set(texts[:8]) == {"Unheard-of"} and set(texts[8:16]) == {":-)"}
    assert all(texts[16:]) and not {"film"} & set(texts[16:]), "the turn goes to an operation that can"


def test_which_tasks_rows_are_copied(small: Path) -> None:
    assert len(copies(SINGLE, wordnet=str(small))) == len(copies(PAIRS, wordnet=str(small))) == 40
    assert copies(SINGLE, wordnet=str(small), task="other") == []
    assert len(copies(SINGLE, wordnet=str(small), task="memory")) == 40
    assert EDA()(SINGLE, [], seeded(0)) == []


class Strange(Classes):
    """A target of somebody else's, which says no more of itself than it must."""


@pytest.mark.parametrize(
    ("target", "label", "paired"),
    [
        (Ordinal(["low", "middle", "high"]), 2, False),
        (MultiLabel(["a", "b", "c"]), (0, 2), False),
        (MultiLabel(["a", "b", "c"]), (), True),
        (Number(), -7.5, False),
        (Number(), None, True),
        (Ranking(), 1, True),
        (Strange(["no", "yes"]), 1, False),
    ],
    ids=["ordinal", "multilabel", "multilabel-none", "number", "number-missing", "ranking", "strange"],
)
def test_every_label_of_a_whole_text_is_served(target: Target, label: object, paired: bool, small: Path) -> None:
    """Whatever the label is, the copies have it, and one text of a pair stays as it is."""
    task = Memory([dataclasses.replace(row, label=label) for row in (PAIRS if paired else SINGLE).rows])
    task.target = target
    found = copies(task, wordnet=str(small), p_rd=0)
    assert len(found) == 40 and all(copy.label == label for copy in found)
    for row, copy in zip(task.rows, found, strict=True):
        assert (copy.text == row.text) + (copy.pair == row.pair) == 1
    if label is not None:
        check_augmentation(partial(build, "augmentation", "eda", wordnet=str(small)), [task])


def test_tags_are_refused_where_they_are_named_and_left_alone_elsewhere(small: Path) -> None:
    """A word that is put in, taken out or moved would have no tag, or another's."""
    tagged = Memory([Example("a", "The film was good", None, (0, 1, 0, 0))], "words")
    tagged.target = Tags(["other", "noun"])
    assert copies(tagged, wordnet=str(small)) == copies(tagged, wordnet=str(small), task="other") == []
    with pytest.raises(ConfigError) as caught:
        copies(tagged, wordnet=str(small), task="words")
    assert str(caught.value) == (
        "augmentation 'eda': expected a task whose labels are of whole texts, found 'words', which has one for each "
        "word, and a word that is put in or taken out has none; name another task"
    )


def test_named_twice(small: Path) -> None:
    eda = build("augmentation", "eda", wordnet=str(small))
    with pytest.raises(ConfigError, match=r"task 'memory' has a row 's0-eda-1' already; name 'eda' once only$"):
        eda(SINGLE, eda(SINGLE, SINGLE.rows, seeded(0)), seeded(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 0}, "expected copies >= 1, found 0"),
        ({"alpha_sr": -0.1}, "expected alpha_sr from 0 to 1, found -0.1"),
        ({"p_rd": 1.5}, "expected p_rd from 0 to 1, found 1.5"),
        ({"alpha_sr": 0, "alpha_ri": 0, "alpha_rs": 0, "p_rd": 0}, "expected one of alpha_sr, .* above 0, found none"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("augmentation", "eda", **options)


# ---------------------------------------------------------------------------------------------- WordNet


def test_synonyms_of_a_database(small: Path) -> None:
    known = find_wordnet(str(small))
    assert known("film") == known("Films") == ("membrane", "motion picture", "movie", "shoot")
    assert known("dog") == ("domestic dog",), "of several parts, with spaces"
    assert known("dogs") == ("domestic dog",), "its base form is no synonym of a word"
    assert known("rome") == ("Roma",) and known("lonely") == known("unheard-of") == ()
    assert known("well-known") == ("long-familiar",) and known("runs") == ("race",)


def test_irregular_forms_where_the_database_has_them(small: Path) -> None:
    assert find_wordnet(str(small))("ran") == ()
    wordnet._opened.cache_clear()
    (small / "verb.exc").write_text("ran run\n")
    assert find_wordnet(str(small))("ran") == ("race",)


def test_where_a_database_is_looked_for(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(place: Path, word: str) -> Path:
        return write_wordnet(place, {**SYNSETS, "noun": [["film", word]]})

    def found(folder: str | None = None) -> str:
        return next(word for word in find_wordnet(folder, sample=True)("film") if word != "shoot")

    assert found() == "movie", "the sample's own, for the sample's rows"
    monkeypatch.setattr(wordnet, "INSTALLED", (tmp_path / "none", put(tmp_path / "installed", "installed")))
    assert found() == "installed"
    put(tmp_path / "nltk_data" / "corpora" / "wordnet", "folder")
    assert found() == "folder"
    monkeypatch.setenv("MTK_WORDNET", str(put(tmp_path / "variable", "variable")))
    assert found() == "variable"
    assert found(str(put(tmp_path / "mine" / "dict", "mine").parent)) == "mine", "its folder `dict`"
    monkeypatch.chdir(tmp_path)
    assert found("mine/dict") == "mine"


def test_what_nltk_downloads_is_a_zip_file(tmp_path: Path) -> None:
    corpora = tmp_path / "nltk_data" / "corpora"
    write_wordnet(tmp_path / "unpacked" / "wordnet", SYNSETS)
    corpora.mkdir(parents=True)
    shutil.make_archive(str(corpora / "wordnet"), "zip", tmp_path / "unpacked", "wordnet")
    assert find_wordnet()("dog") == ("domestic dog",)


def test_no_database_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"^no WordNet on this machine: .*nltk.downloader wordnet.*wordnet-base.*wordnet=DIR.*MTK_WORDNET"
    refused(message)
    refused(r"option 'wordnet': .*gone: expected .*, found no such folder$", wordnet=str(tmp_path / "gone"))
    refused(r"found none$", wordnet=str(tmp_path))
    (write_wordnet(tmp_path / "half", SYNSETS) / "data.adv").unlink()
    refused(r"half: expected .*, found an incomplete one$", wordnet=str(tmp_path / "half"))
    monkeypatch.setenv("MTK_WORDNET", str(tmp_path / "gone"))
    refused(r"^MTK_WORDNET: .*gone: expected")
    assert len(copies(SINGLE, alpha_sr=0, alpha_ri=0)) == 40, "swaps and deletions need none"


@pytest.mark.filterwarnings("ignore:No WordNet synset found")
def test_a_damaged_database(tmp_path: Path) -> None:
    folder = write_wordnet(tmp_path / "damaged", SYNSETS)
    noun = (folder / "data.noun").read_bytes()
    for name, content in {"data.noun": noun.replace(b"\n", b"\r\n"), "index.noun": b"film n one\n"}.items():
        wordnet._opened.cache_clear()
        (folder / name).write_bytes(content)
        refused(r"damaged: cannot be read as a WordNet database: ", wordnet=str(folder))


def refused(message: str, **options: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        copies(SINGLE, **options)
    assert "\n" not in str(caught.value)


def test_without_nltk(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    monkeypatch.setitem(sys.modules, "nltk.corpus.reader.wordnet", None)
    message = r"^augmentation 'eda' needs nltk for synonyms: pip install 'multitask-toolkit\[eda\]'$"
    with pytest.raises(PluginError, match=message):
        copies(SINGLE, wordnet=str(small))
    assert len(copies(SINGLE, alpha_sr=0, alpha_ri=0)) == 40


def test_the_samples_synonyms_are_ours_and_readable() -> None:
    assert all((SAMPLE_WORDNET / name).is_file() for name in NEEDED)
    known = find_wordnet(sample=True)
    assert known("films") == ("movie", "picture") and known("terribly") == ("awfully",)
    for kind in (SST, STS):
        task = kind(TaskContext(kind.kind, sample="always"))
        tokens = [row.text.split() for row in task.examples("train")]
        assert sum(bool(with_synonyms(row, known)) for row in tokens) > len(tokens) / 2


def test_in_a_run(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line; a dry run trains nothing."""
    line = "train --task sst --task sts --sample --encoder tiny --dry-run --device cpu --threads 1"
    assert command([*line.split(), "--augment", f"eda:copies=2,task=sts,wordnet={small}"]) == 0
    told = {
        cells[1].strip(): cells[3].strip()
        for row in capsys.readouterr().out.splitlines()
        if (cells := row.split("│"))[3:]
    }
    assert (told["sst"], told["sts"]) == ("360", "1,080")
