"""The published CS 224N files: names, git blob ids, whose they are; and the folder that keeps them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of a GitHub repository, at a commit."""

    repository: str
    commit: str
    folder: str

    @property
    def url(self) -> str:
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{self.folder}"

    def __str__(self) -> str:
        return f"github.com/{self.repository}, {self.folder}/, commit {self.commit[:7]}"


COURSE = Place("gpoesia/minbert-default-final-project", "7ac8260", "data")


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of the place; `blob` is its git blob id, `size` its bytes where known."""

    name: str
    blob: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """One data set: its files by split, whom to cite, and the terms that it comes under."""

    title: str
    files: Mapping[str, PublishedFile]
    citation: str
    terms: str
    place: Place = COURSE


PUBLISHED: Mapping[str, Published] = {
    "sst": Published(
        "Stanford Sentiment Treebank",
        {
            "train": PublishedFile("ids-sst-train.csv", "9cb7333cb1dae49c2bd2a4b56a24882a6e8704b5", 1_175_139),
            "dev": PublishedFile("ids-sst-dev.csv", "3171aa629a340809d2db4a50df8f6e5ec9420ab0", 151_384),
            "test": PublishedFile("ids-sst-test-student.csv", "bbd2313758825f86e24416d6aad64cd93370cf7a", 313_202),
        },
        "Socher et al.: Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank. EMNLP 2013.",
        "No licence is stated by its authors (film reviews from Rotten Tomatoes); use it for research.",
    ),
    "cfimdb": Published(
        "CFIMDB, the revised reviews of Counterfactually-Augmented IMDB",
        {
            "train": PublishedFile("ids-cfimdb-train.csv", "cd57bcbd2f7214ea6dd1783d3e885d324b1f478d", 1_693_182),
            "dev": PublishedFile("ids-cfimdb-dev.csv", "8a0f5dcf3d40189b96c801a12cd79bf8003e61de", 249_095),
            "test": PublishedFile("ids-cfimdb-test-student.csv", "1e789c709b3ca0511f027a309b6d8bd21cde41b2", 495_595),
        },
        "Kaushik, Hovy and Lipton: Learning the Difference that Makes a Difference with Counterfactually-Augmented "
        "Data. ICLR 2020, arXiv 1909.12434.",
        "Apache-2.0 by their authors' repository; they rework film reviews from IMDB, for which no licence is stated.",
    ),
    "quora": Published(
        "Quora Question Pairs",
        {
            "train": PublishedFile("quora-train.csv", "a3b5546f6a0e65b60a328a5d294d1038f5bed1da"),
            "dev": PublishedFile("quora-dev.csv", "de7cfa32428fd470b93f778fccc45a619e01336f", 3_205_321),
            "test": PublishedFile("quora-test-student.csv", "f257ef00558555afb50819578a58205732b16354"),
        },
        "Iyer, Dandekar and Csernai: First Quora Dataset Release: Question Pairs. Quora, 2017.",
        "Quora's terms of service: non-commercial use only.",
    ),
    "sts": Published(
        "STS benchmark",
        {
            "train": PublishedFile("sts-train.csv", "12b17760e7795fee35aeeabc290d5651de02622a", 928_832),
            "dev": PublishedFile("sts-dev.csv", "9392860e584717976b8d817cc40c9e6ceeec27e0", 132_265),
            "test": PublishedFile("sts-test-student.csv", "25f0cf8fafdd1f82b9e2bb460c708af34341ce60", 256_677),
        },
        "Cer et al.: SemEval-2017 Task 1: Semantic Textual Similarity. SemEval 2017, arXiv 1708.00055.",
        "Several sources, each under its own terms: see LICENSE.txt in the benchmark's own download.",
    ),
    "sick": Published(
        "SICK, Sentences Involving Compositional Knowledge",
        {
            "train": PublishedFile("SICK_train.txt", "3df595634e3350f7a081571b2246ff51dbaca5fd", 506_243),
            "trial": PublishedFile("SICK_trial.txt", "60daa162f8f323d6f2cd287ffde0124305299e79", 57_225),
        },
        "Marelli et al.: A SICK cure for the evaluation of compositional distributional semantic models. LREC 2014.",
        "CC BY-NC-SA 3.0: non-commercial use, share alike.",
        Place("FTAsr/STS", "4949362922263c87bf8ecd79c50da7a5d3fcb461", "data/SICK"),
    ),
}


def cache_folder() -> Path:
    """Where fetched files live: $MTK_CACHE, else $XDG_CACHE_HOME/mtk, else ~/.cache/mtk; always its `cs224n`."""
    own, shared = os.environ.get("MTK_CACHE"), os.environ.get("XDG_CACHE_HOME")
    root = Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "mtk"
    return root.expanduser() / "cs224n"
