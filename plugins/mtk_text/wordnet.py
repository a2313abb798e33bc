"""Synonyms out of a WordNet database, which nltk reads; and where such a database is found."""

from __future__ import annotations

import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from mtk import DataError, PluginError
from mtk_text.sources import SAMPLE

NEEDED = tuple(f"{kind}.{pos}" for kind in ("index", "data") for pos in ("noun", "verb", "adj", "adv"))
SAMPLE_WORDNET = SAMPLE / "wordnet"
INSTALLED = (Path("/usr/share/wordnet"), Path("/usr/local/WordNet-3.0/dict"))
"""Where Debian's wordnet-base and WordNet's own installation put it."""
_LEXICOGRAPHER_FILES = 45  # that synsets are numbered by; their names are of no use here
_KEPT = 1  # open databases; a run needs one


class WordNet:
    """A word's synonyms, in any part of speech. Built with a root: a database's folder, or `FILE.zip/FOLDER/`.

    Raises PluginError where nltk is not installed, DataError where the database cannot be read.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._known: dict[str, tuple[str, ...]] = {}
        try:
            self._reader = _reader(root)
        except _faults() as error:
            raise self._damaged(error) from None

    def __call__(self, word: str) -> tuple[str, ...]:
        """The other words of every synset that the word, or a base form of it, stands in: sorted, without that form.

        Words of several parts have spaces. () for a word that WordNet does not know, or that stands alone.
        """
        word = word.lower()
        if word not in self._known:
            try:
                self._known[word] = self._look_up(word)
            except _faults() as error:
                raise self._damaged(error) from None
        return self._known[word]

    def _look_up(self, word: str) -> tuple[str, ...]:
        own = {word, *(self._reader.morphy(word, pos) for pos in "nvar")}
        names = {name.replace("_", " ") for synset in self._reader.synsets(word) for name in synset.lemma_names()}
        return tuple(sorted(name for name in names if name.lower() not in own))

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self.root}: cannot be read as a WordNet database: {' '.join(str(error).split())}")


def find_wordnet(folder: str | None = None, *, sample: bool = False) -> WordNet:
    """The first of: the folder, $MTK_WORDNET, nltk's own data, an installed WordNet; with `sample`, the sample's words.

    Raises PluginError where nltk is not installed, DataError that names the ways out where there is none.
    """
    _faults()
    if folder is not None:
        return _opened(_database(folder, "option 'wordnet': "))
    if variable := os.environ.get("MTK_WORDNET"):
        return _opened(_database(variable, "MTK_WORDNET: "))
    found = [*_nltk_data(), *(str(place) for place in INSTALLED if not _lacks(place))]
    if sample:
        found.append(str(SAMPLE_WORDNET))
    if found:
        return _opened(found[0])
    raise DataError(
        "no WordNet on this machine: get it with `python -m nltk.downloader wordnet`, or install Debian's package "
        "wordnet-base, or name a folder that holds index.noun, data.noun and so on, with the option wordnet=DIR or in "
        "MTK_WORDNET; alpha_sr=0,alpha_ri=0 does without synonyms"
    )


@lru_cache(maxsize=_KEPT)
def _opened(root: str) -> WordNet:
    return WordNet(root)


def _database(folder: str, prefix: str) -> str:
    """The folder, or its `dict`, that holds a database. Raises DataError."""
    place = Path(folder).expanduser().resolve()
    for choice in (place, place / "dict"):
        lacking = _lacks(choice)
        if not lacking:
            return str(choice)
    found = "an incomplete one" if len(_lacks(place)) < len(NEEDED) else "none" if place.is_dir() else "no such folder"
    raise DataError(f"{prefix}{place}: expected a WordNet database ({', '.join(NEEDED)}), found {found}")


def _lacks(folder: Path) -> list[str]:
    return [name for name in NEEDED if not (folder / name).is_file()]


def _nltk_data() -> list[str]:
    """What `python -m nltk.downloader wordnet` leaves: a folder or a zip file."""
    import nltk.data  # type: ignore[import-untyped]

    found = []
    for place in nltk.data.path:
        folder = Path(place) / "corpora" / "wordnet"
        if not _lacks(folder):
            found.append(str(folder))
        elif folder.with_suffix(".zip").is_file():
            found.append(f"{folder.with_suffix('.zip')}/wordnet/")
    return found


def _reader(root: str) -> Any:
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader  # type: ignore[import-untyped]

    class Reader(WordNetCorpusReader):
        """nltk's reader for a folder that holds the eight files that we need, and maybe none of the others."""

        def open(self, file: str) -> Any:
            try:
                return super().open(file)
            except OSError:
                if file in NEEDED:
                    raise
            names = "".join(f"{number:02d} unnamed 0\n" for number in range(_LEXICOGRAPHER_FILES))
            return io.StringIO(names if file == "lexnames" else "")

        def map_wn(self, version: str = "wordnet") -> None:
            """No map to WordNet 3.0, which serves other languages and needs further files."""

    # nltk opens nothing outside the folders that are named here.
    if ".zip" not in root and root not in nltk.data.path:
        nltk.data.path.append(root)
    return Reader(root, omw_reader=False)  # None would warn that there are no other languages


def _faults() -> tuple[type[Exception], ...]:
    """What nltk raises for a database that it cannot read. Raises PluginError where there is no nltk."""
    try:
        from nltk.corpus.reader.wordnet import WordNetError
    except ImportError as error:
        raise PluginError("augmentation 'eda' needs nltk for synonyms: pip install 'multitask-toolkit[eda]'") from error
    # AttributeError: it gives None for a synset that is not where the index says.
    return (OSError, ValueError, LookupError, AssertionError, AttributeError, StopIteration, RuntimeError, WordNetError)
