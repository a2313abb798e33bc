"""EDA: copies of the training rows with words replaced by synonyms, inserted, swapped or deleted."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch

from mtk import Augmentation, ConfigError, Example, Task
from mtk_text.wordnet import find_wordnet

Synonyms = Callable[[str], Sequence[str]]
Operation = Callable[[Sequence[str], torch.Generator], list[str] | None]
"""Tokens -> other tokens, or None where there is nothing that it could be done to."""
Item = TypeVar("Item")

_WORD = re.compile(r"(?<!\w)[^\W\d_]+(?:[-'’][^\W\d_]+)*(?!\w)")
_STOP_WORDS = """
    a about above after again against all also although always am an and another any anybody anyone anything are around
    as at be because been before behind being below between both br but by can cannot could did do does doing down
    during each either else ever every everybody everyone everything few for from had has have having he her here hers
    herself him himself his how however i if in into is it its itself just least less let ll many may me might mine
    more most much must my myself neither never no nobody none nor not nothing now of off often on once one only onto or
    other others ought our ours ourselves out over own per quite rather re s same shall she should since so some
    somebody someone something still such t than that the their theirs them themselves then there these they this those
    though through till to too toward towards under until up upon us ve very was we were what when where whether which
    while who whom whose why will with within without would yes yet you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Not replaced, and no seed of an insertion. Contractions are not here: WordNet has none."""


class EDA(Augmentation):
    """Adds copies of the training rows with random changes to their words; labels and the rows themselves stay.

    Each copy has one of four operations done to it: random words, stop words apart, are replaced by synonyms; synonyms
    of such words are inserted anywhere; pairs of words change places; or words are deleted. The operations take turns
    in a random order of each row's own, so that all come equally often. One that has nothing to work on (no word with a
    synonym, a single word to swap or delete) leaves its turn to the next; a text that none can change is copied as it
    is, and so is one where no word happened to be deleted. Of a pair, one text is changed, drawn at random for each
    copy: changing both would wear the label down twice. So a copy and its row have a text in common, and where a
    batch's other rows are the negatives (Ranking), they are each other's when they meet. The copies of row ID are
    ID-eda-1 and so on, behind all rows.

    copies: per row. alpha_sr, alpha_ri, alpha_rs: how many words of a text's l are replaced, inserted, and how many
    pairs swapped: max(1, alpha * l) rounded down; 0 does without that operation. p_rd: the probability that a word is
    deleted; at least one stays; 0 does without. The paper recommends 16 copies with 0.05 for some 500 rows, 8 with 0.05
    for 2,000, and 4 with 0.1 for 5,000 and more.
    task: the only task whose rows are copied; default: every trained task whose labels are of whole texts (not tags).
    wordnet: a folder with a WordNet database (index.noun, data.noun and so on), which a run records as given, so name
    it in full where the run may be resumed from elsewhere. Default: the one that $MTK_WORDNET
    names, that nltk has downloaded, or that is installed (Debian: wordnet-base); where there is none, the built-in
    sample's few synonyms serve for the sample's rows, and other rows are refused.

    Source: Wei and Zou, EMNLP 2019, arXiv 1901.11196. Other than in the authors' code, letter case and punctuation stay
    (they move with the words that they are attached to; by themselves they are no words), n words are n places in the
    text and not n different words with all their occurrences, and the base form of a word is no synonym of it. Raises
    ConfigError for options out of range and for a `task` of tags; PluginError where nltk is missing and DataError where
    WordNet is, unless alpha_sr and alpha_ri are 0.
    """

    def __init__(
        self,
        *,
        copies: int = 1,
        alpha_sr: float = 0.1,
        alpha_ri: float = 0.1,
        alpha_rs: float = 0.1,
        p_rd: float = 0.1,
        task: str | None = None,
        wordnet: str | None = None,
    ) -> None:
        if copies < 1:
            raise ConfigError(f"expected copies >= 1, found {copies}")
        shares = {"alpha_sr": alpha_sr, "alpha_ri": alpha_ri, "alpha_rs": alpha_rs, "p_rd": p_rd}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"expected {name} from 0 to 1, found {share}")
        if not any(shares.values()):
            raise ConfigError(f"expected one of {', '.join(shares)} above 0, found none")
        self.copies, self.task, self.wordnet = copies, task, wordnet
        self.alpha_sr, self.alpha_ri, self.alpha_rs, self.p_rd = alpha_sr, alpha_ri, alpha_rs, p_rd

    def __call__(self, task: Task, rows: Sequence[Example], generator: torch.Generator) -> Sequence[Example]:
        tagged = task.target.level == "token"
        if tagged and self.task == task.name:
            raise ConfigError(
                f"augmentation 'eda': expected a task whose labels are of whole texts, found '{task.name}', which has "
                "one for each word, and a word that is put in or taken out has none; name another task"
            )
        wanted = not tagged if self.task is None else task.name == self.task
        if not wanted or not rows:
            return rows
        operations = self._operations(task.source.sample)
        new = [copy for row in rows for copy in self._copies(row, operations, generator)]
        ids = {row.id for row in rows}
        if twice := next((copy.id for copy in new if copy.id in ids), None):
            raise ConfigError(
                f"augmentation 'eda': task '{task.name}' has a row '{twice}' already; name 'eda' once only"
            )
        return [*rows, *new]

    def _operations(self, sample: bool) -> list[Operation]:
        """Those that are not turned off."""
        chosen: list[Operation] = []
        if self.alpha_sr or self.alpha_ri:
            synonyms = find_wordnet(self.wordnet, sample=sample)
            if self.alpha_sr:
                chosen.append(partial(replace_synonyms, share=self.alpha_sr, synonyms=synonyms))
            if self.alpha_ri:
                chosen.append(partial(insert_synonyms, share=self.alpha_ri, synonyms=synonyms))
        if self.alpha_rs:
            chosen.append(partial(swap_words, share=self.alpha_rs))
        if self.p_rd:
            chosen.append(partial(delete_words, probability=self.p_rd))
        return chosen

    def _copies(self, row: Example, operations: Sequence[Operation], generator: torch.Generator) -> Iterator[Example]:
        order = shuffled(operations, generator)
        for number in range(self.copies):
            id = f"{row.id}-eda-{number + 1}"
            if row.pair is not None and below(2, generator):
                yield dataclasses.replace(row, id=id, pair=changed(row.pair, order, generator))
            else:
                yield dataclasses.replace(row, id=id, text=changed(row.text, order, generator))
            order = [*order[1:], order[0]]


def changed(text: str, operations: Sequence[Operation], generator: torch.Generator) -> str:
    """The text after the first of the operations that has something to work on."""
    tokens = text.split()
    for operation in operations:
        if (out := operation(tokens, generator)) is not None:
            return " ".join(out)
    return text


# ---------------------------------------------------------------------------------------------- the four operations


def replace_synonyms(
    tokens: Sequence[str], generator: torch.Generator, *, share: float, synonyms: Synonyms
) -> list[str] | None:
    """SR: random words that are no stop words, each replaced by a random one of its synonyms."""
    able = with_synonyms(tokens, synonyms)
    if not able:
        return None
    out = list(tokens)
    for place in shuffled([*able], generator)[: changes(tokens, share)]:
        before, word, behind = able[place]
        new = pick(synonyms(word), generator)
        out[place] = before + (new[0].upper() + new[1:] if word[0].isupper() else new) + behind
    return out


def insert_synonyms(
    tokens: Sequence[str], generator: torch.Generator, *, share: float, synonyms: Synonyms
) -> list[str] | None:
    """RI: random synonyms of random words that are no stop words, put in at random places."""
    able = [word for _, word, _ in with_synonyms(tokens, synonyms).values()]
    if not able:
        return None
    out = list(tokens)
    for _ in range(changes(tokens, share)):
        new = pick(synonyms(pick(able, generator)), generator)
        out.insert(below(len(out) + 1, generator), new)
    return out


def swap_words(tokens: Sequence[str], generator: torch.Generator, *, share: float) -> list[str] | None:
    """RS: two random words change places, again and again."""
    places = words(tokens)
    if len(places) < 2:
        return None
    out = list(tokens)
    for _ in range(changes(tokens, share)):
        one, other = shuffled(places, generator)[:2]
        out[one], out[other] = out[other], out[one]
    return out


def delete_words(tokens: Sequence[str], generator: torch.Generator, *, probability: float) -> list[str] | None:
    """RD: each word is deleted with that probability; where all would go, a random one stays."""
    places = words(tokens)
    if len(places) < 2:
        return None
    drawn = torch.rand(len(places), generator=generator).tolist()
    gone = {place for place, number in zip(places, drawn, strict=True) if number < probability}
    if len(gone) == len(places):
        gone.remove(pick(places, generator))
    return [token for place, token in enumerate(tokens) if place not in gone]


# ---------------------------------------------------------------------------------------------- words and draws


def words(tokens: Sequence[str]) -> list[int]:
    """The places of the tokens that hold a letter or a digit."""
    return [place for place, token in enumerate(tokens) if any(character.isalnum() for character in token)]


def with_synonyms(tokens: Sequence[str], synonyms: Synonyms) -> dict[int, tuple[str, str, str]]:
    """By place, the words that are no stop words and have synonyms, between what stands around them in their tokens."""
    able = {}
    for place, token in enumerate(tokens):
        found = _WORD.search(token)
        if found is None or len(word := found[0]) < 2 or word.lower() in STOP_WORDS:
            continue
        if synonyms(word):
            able[place] = (token[: found.start()], word, token[found.end() :])
    return able


def changes(tokens: Sequence[str], share: float) -> int:
    return max(1, int(share * len(words(tokens))))


def below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def pick(items: Sequence[Item], generator: torch.Generator) -> Item:
    return items[below(len(items), generator)]


def shuffled(items: Sequence[Item], generator: torch.Generator) -> list[Item]:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]
