"""The plugin kinds and the value types that they exchange. Nothing here knows a concrete plugin.

Shapes: T tasks, B rows, L tokens, D features, C outputs, P shared parameters.
Every plugin class takes what the core gives it as positional arguments (named in its kind's docstring) and its
options as typed keyword-only arguments, which `mtk.plugins.build` validates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from mtk.errors import ConfigError

# ---------------------------------------------------------------------------------------------- rows and tokens


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a task: `label` is what the task's Target parsed, or None where it is missing."""

    id: str
    text: str
    pair: str | None = None
    label: Any = None


@dataclass(frozen=True, slots=True)
class Encoding:
    """One tokenised sequence: `words[i]` is the index of the word that token i belongs to, None for special tokens."""

    ids: list[int]
    types: list[int]
    words: list[int | None]
    truncated: bool = False


class Tokenizer(Protocol):
    """Turns texts, or pairs joined into one sequence, into encodings no longer than `max_length` tokens."""

    pad_id: int

    def encode(self, rows: Sequence[tuple[str, str | None]], max_length: int) -> list[Encoding]: ...


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Padded token arrays: ids, types [B, L] int64; mask [B, L] bool, True on real tokens."""

    ids: Tensor
    types: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> TokenBatch:
        return TokenBatch(*(t.to(device, non_blocking=True) for t in (self.ids, self.types, self.mask)))


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder says of B rows: pooled [B, D]; tokens [B, L, D] or None; mask [B, L]."""

    pooled: Tensor
    tokens: Tensor | None
    mask: Tensor

    def rows(self, start: int, stop: int) -> Features:
        tokens = None if self.tokens is None else self.tokens[start:stop]
        return Features(self.pooled[start:stop], tokens, self.mask[start:stop])


# ---------------------------------------------------------------------------------------------- targets


@dataclass(frozen=True, slots=True)
class Targets:
    """Collated labels of B rows: labels [B, ...]; mask of the same leading shape, True where a label is present.

    count: how many items the loss sums over (rows, or tagged tokens): known before any forward, so that a step of
        several micro-batches divides by the count of the whole step.
    places: [B, L] bool, where a token-level target wants a prediction; None for row-level targets.
    """

    labels: Tensor
    mask: Tensor
    count: int
    places: Tensor | None = None

    def to(self, device: torch.device) -> Targets:
        places = None if self.places is None else self.places.to(device, non_blocking=True)
        labels, mask = (t.to(device, non_blocking=True) for t in (self.labels, self.mask))
        return Targets(labels, mask, self.count, places)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row's answer: `value` compares with a parsed label, `label` is for people and JSON, `score` its strength.

    vectors: of the row's texts, NumPy [D] each, where the metrics compare rows with each other.
    """

    value: Any
    label: Any
    score: float
    probabilities: Mapping[str, float] | None = None
    vectors: Any = field(default=None, compare=False, repr=False)


Level = Literal["row", "token", "text"]


class Target(ABC):
    """What a label is. `size` is the number of outputs C that a plain head needs; `primary` names the main metric.

    level: what gets outputs: each `row` [B, C], each `token` [B, L, C], or each `text` of a pair: two vectors [B, D].
    head: the name of a head that serves it, for messages.
    A target with a state of its own (what `fit` found) is an nn.Module too: each head gets a copy, which is saved and
    loaded with it.
    """

    size: int
    primary: str
    level: ClassVar[Level] = "row"
    head: ClassVar[str] = "linear"

    @abstractmethod
    def parse(self, raw: Any) -> Any:
        """A raw label from a file as a parsed one. Raises ValueError that says what was expected."""

    def check(self, row: Example) -> None:
        """Raises ValueError where a parsed label does not fit the text beside it."""
        return

    def fit(self, labels: Sequence[Any]) -> None:
        """Takes what it needs to know from the parsed labels of the training rows; called once, before training."""
        return

    def align(self, label: Any, words: Sequence[int | None]) -> Any:
        """The label for a tokenised row; token-level targets spread (or mark) it over `words`."""
        return label

    @abstractmethod
    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        """B aligned labels (None where missing) of rows padded to `length` tokens."""

    @abstractmethod
    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        """The natural loss of a head's outputs, *summed* over the labelled items: a float32 scalar."""

    def divergence(self, first: Any, second: Any) -> Tensor:
        """How far apart two outputs for the same rows are, item by item: float32 in the unit of the loss, of the shape
        of `Targets.mask`, symmetric, 0 where both agree. Optional: R-Drop needs it, and refuses a target without."""
        raise NotImplementedError(f"{type(self).__name__} has no divergence")

    @abstractmethod
    def predict(self, outputs: Any, targets: Targets) -> list[Prediction]:
        """B predictions; a bounded target's values stay inside its bounds."""

    def complete(self, prediction: Prediction, row: Example) -> Prediction:
        """The prediction with what only the row's text can add."""
        return prediction

    @abstractmethod
    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        """Whole-split figures, higher is better, with `primary` among them."""


# ---------------------------------------------------------------------------------------------- task


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's rows come from: `origin` is shown to the user; `sample` marks data whose scores mean nothing."""

    origin: str
    files: Mapping[str, Path] = field(default_factory=dict)
    sample: bool = False


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What the core tells a task: its instance name, the user's data folder if any, and when a built-in sample serves:
    never, as the fallback where there are no other data, or always."""

    name: str
    data: Path | None = None
    sample: Literal["never", "fallback", "always"] = "never"


class Task(ABC):
    """A named set of rows with one kind of label. Built with a TaskContext.

    paired: rows hold two texts. columns: the names of the text columns in the task's files, for prediction input.
    id_column: of these files. delimiter, encoding: of these files, where they are not to be found out.
    default_head: a head's name. trained: False for a task that is only evaluated. weight: of its loss.
    bad: what was left out of the rows read so far; str() of an entry names file, line and reason.
    notes: what was found or decided about the rows read so far, a line each, to show to the user.
    spec: the registered name and the options that build it again without a look at its rows, for the run's
        configuration; None where those that it was built with do so.
    """

    target: Target
    paired: bool = False
    columns: tuple[str, ...] = ("text",)
    id_column: str = "id"
    delimiter: str | None = None
    encoding: str | None = None
    default_head: str = "linear"
    trained: bool = True
    weight: float = 1.0
    bad: Sequence[object] = ()
    notes: Sequence[str] = ()
    spec: tuple[str, Mapping[str, Any]] | None = None

    def __init__(self, context: TaskContext) -> None:
        self.name = context.name
        self.context = context

    @property
    @abstractmethod
    def source(self) -> Source:
        """Where the rows come from. Raises DataError where they cannot be had."""

    @abstractmethod
    def examples(self, split: str) -> Sequence[Example]:
        """The rows of `train`, `dev` or `test`, the same at every call. Raises DataError."""

    def read(self, file: Path) -> Sequence[Example]:
        """The rows of a file in this task's own format; labels may be missing. Raises DataError."""
        raise NotImplementedError(f"task '{self.name}' reads no files of its own")

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        return self.target.metrics(predictions, labels)

    @property
    def primary(self) -> str:
        return self.target.primary


# ---------------------------------------------------------------------------------------------- model parts


class Encoder(nn.Module, ABC):
    """The shared text encoder: token rows -> features.

    spec: the registered name and the options that, with `source=FOLDER` added, load what `save` wrote.
    needs_tokens: set by the model: whether a head reads `Features.tokens`; where none does, they may be left out.
    """

    tokenizer: Tokenizer
    hidden_size: int
    max_length: int
    spec: tuple[str, Mapping[str, Any]]
    needs_tokens: bool = True

    def depths(self) -> dict[str, int]:
        """How deep each parameter lies, by name: 0 the embeddings, i the i-th layer (from 1), one more what follows.

        Told from the names, where the first number counts layers, and from their order; what is called an embedding
        is one, wherever it stands. Override it, and `layer_count` with it, where the names say something else.
        """
        layer = {name: _layer_number(name) for name, _ in self.named_parameters()}
        after = max((number for number in layer.values() if number is not None), default=0) + 1
        depths, seen = {}, False
        for name, number in layer.items():
            seen = seen or number is not None
            follows = seen and not any("embed" in word for word in name.split(".")[-2:])
            depths[name] = number if number is not None else after if follows else 0
        return depths

    @property
    def layer_count(self) -> int:
        """How many layers `depths` counts."""
        return max((_layer_number(name) or 0 for name, _ in self.named_parameters()), default=0)

    @abstractmethod
    def forward(self, batch: TokenBatch) -> Features:
        """Features of the batch's B rows, row by row: no row may depend on another."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Weights (safetensors), configuration and tokenizer into an existing folder."""


def _layer_number(name: str) -> int | None:
    """From 1, of a parameter whose name holds a layer's number."""
    return next((int(word) + 1 for word in name.split(".") if word.isdigit()), None)


class Head(nn.Module, ABC):
    """Reads features, gives outputs and a loss. Built with (hidden_size, target).

    reads: `cross` (a pair is one sequence) or `bi` (each text is encoded by itself). level: of the targets it serves.
    needs_tokens: wants Features.tokens. pairs_only: has no use for a task of single texts.
    views: how many dropout views of each row it wants while training.
    Raises ConfigError for a target of another level.
    """

    level: ClassVar[Level] = "row"
    reads: ClassVar[Literal["cross", "bi"]] = "cross"
    needs_tokens: ClassVar[bool] = False
    pairs_only: ClassVar[bool] = False
    views: int = 1

    def __init__(self, hidden_size: int, target: Target) -> None:
        super().__init__()
        if target.level != self.level:
            raise ConfigError(
                f"expected a target of {self.level}s, found {type(target).__name__}, which is one of {target.level}s; "
                f"use the head '{target.head}'"
            )
        self.hidden_size = hidden_size
        self.target = target

    @abstractmethod
    def forward(self, *features: Features) -> Any:
        """Outputs for B rows, from one Features a view and text: (a), (a, b), (a, a'), (a, b, a', b')."""

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        """The loss *summed* over the labelled items; the caller divides by the step's count."""
        return self.target.loss(outputs, targets)

    def predict(self, outputs: Any, targets: Targets) -> list[Prediction]:
        return self.target.predict(outputs, targets)


# ---------------------------------------------------------------------------------------------- training parts


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a combiner may know of a step: the present tasks, in the order of every [T], and where we are.

    step: optimizer steps of the run that are done, so 0 at the first; the next epoch counts on.
    epoch: counted from 0.
    """

    tasks: tuple[str, ...]
    step: int
    epoch: int
    generator: torch.Generator


class GradientCombiner:
    """Turns per-task losses or gradients into one update of the shared parameters. (Elsewhere: aggregator, weighting.)

    needs: `nothing` (weights that read no loss), `losses` (loss weights), `gram` (gradient weights from the float64
        Gramian of the shared gradients), `gradients` (element-wise). The engine does the least work that serves it.
    looks_again: wants `after_step` with the same rows' losses, same dropout, after the optimizer moved.
    Loss weights scale heads too; gradient weights and `combine` touch shared parameters only.
    With needs = `gram`, `loss_weights` may be given as well (GradNorm): it is asked at the start of the step, from the
    combiner's state alone (its `losses` are NaN), and `gradient_weights` sees the Gramian of the gradients so weighted.
    """

    needs: ClassVar[Literal["nothing", "losses", "gram", "gradients"]] = "losses"
    looks_again: ClassVar[bool] = False

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        """losses [T] (detached) -> weights [T]."""
        return torch.ones_like(losses)

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64 on the CPU, losses [T] before any weight -> weights [T] float64."""
        return torch.ones(len(info.tasks), dtype=torch.float64)

    def combine(self, chunk: Tensor, info: StepInfo) -> Tensor:
        """chunk [T, n] of the gradients -> [n]; called for every chunk when needs = `gradients`."""
        return chunk.sum(0)

    def after_step(self, losses_again: Tensor, info: StepInfo) -> None:
        """losses [T] of the same rows after the optimizer step; called when `looks_again`."""

    def state_dict(self) -> dict[str, Any]:
        """State to checkpoint: tensors, numbers, strings and containers of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Optimizer steps done, and steps in all. `fraction` runs from 0 to 1."""

    step: int
    total: int

    @property
    def fraction(self) -> float:
        return min(1.0, self.step / max(1, self.total))


class Scheduler(ABC):
    """The learning rate as a factor of progress. (Ray calls ASHA and PBT schedulers; here those are tuners.)"""

    @abstractmethod
    def factor(self, progress: Progress) -> float:
        """The factor on every learning rate for the step that comes after `progress.step` steps; >= 0."""


class Mixer(ABC):
    """How many rows each task gives to an epoch: a pure function of its arguments."""

    @abstractmethod
    def rows(self, sizes: Mapping[str, int], epoch: int, epochs: int, generator: torch.Generator) -> dict[str, int]:
        """Rows per task for `epoch` (from 0); more than its size means that rows come again."""


class Augmentation(ABC):
    """Training rows -> training rows, before tokenising. Dev and test rows never pass here."""

    @abstractmethod
    def __call__(self, task: Task, rows: Sequence[Example], generator: torch.Generator) -> Sequence[Example]: ...


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of a trial's history: from the end of epoch `after` on, its weights were trained in trial `trial`, with
    `parameters`."""

    after: int
    trial: int
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial of a search so far: its parameters (dotted configuration keys) and its score after each epoch.

    scores: higher is better; one that is not a number counts as -inf. state: `paused` can be trained further; `stopped`
        was given up by the tuner; `finished` has all its epochs, or ended early; `failed` says why in `problem`.
    stages: how its weights came to be, the first at 0. A trial that took over another's weights has that one's stages
        and scores until then. Empty stands for one stage, its own.
    """

    number: int
    parameters: Mapping[str, Any]
    scores: tuple[float, ...] = ()
    state: Literal["running", "paused", "stopped", "finished", "failed"] = "running"
    problem: str = ""
    stages: tuple[Stage, ...] = ()

    @property
    def best(self) -> float:
        """The best epoch's score; -inf before the first."""
        return max(self.scores, default=float("-inf"))


@dataclass(frozen=True, slots=True)
class SearchState:
    """All that a tuner decides from, so that a search that was cut off goes on from what happened alone.

    epochs: of a whole trial. limit: how many trials may begin. seed: every draw is a function of it.
    sample: the parameters of trial number N, drawn from the space. combinations: every combination of the space's
        values, in order; raises ConfigError where a range has no end of them.
    space: the domain of each key, for a tuner that draws its own values.
    changeable: the keys of the space that may change between two epochs of a trial; the others come with its weights.
    left: epochs that the search's budget has left, those apart that running trials are to have; None: there is no such
        limit.
    """

    trials: Sequence[TrialRecord]
    epochs: int
    limit: int
    seed: int
    sample: Callable[[int], Mapping[str, Any]]
    combinations: Callable[[], Sequence[Mapping[str, Any]]]
    space: Mapping[str, Any] = field(default_factory=dict)
    changeable: frozenset[str] = frozenset()
    left: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What to train next: a new trial with `parameters`, or `trial` further, until it has `epochs` behind it.

    source: the trial whose weights, as they are now, `trial` takes over and goes on with under `parameters`; they
        differ from the source's in `changeable` keys only. What `trial` had is given up, save the search's best.
    """

    epochs: int
    parameters: Mapping[str, Any] | None = None
    trial: int | None = None
    source: int | None = None


class Tuner(ABC):
    """Decides what a search trains, and runs nothing itself: pure functions of what has happened.

    (Ray calls ASHA and PBT schedulers; a Scheduler here is a learning-rate schedule.)
    """

    @abstractmethod
    def next(self, state: SearchState) -> Job | None:
        """The next piece of work for a worker that is free; some trials may be running.

        None: nothing before one of those is over; with none running it ends the search.
        """

    def keep(self, state: SearchState, trial: TrialRecord) -> bool:
        """Whether a trial that has just ended an epoch goes on; False stops it for good."""
        return True


class Worker(ABC):
    """A process that trains trials, wherever it is; `mtk.start_worker` starts one here. Orders: see mtk.worker."""

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it can be given a job."""

    @abstractmethod
    def say(self, order: Any) -> None:
        """Sends an order, which JSON can hold; a worker that is gone says so by its silence."""

    @abstractmethod
    def hear(self, seconds: float) -> dict[str, Any] | None:
        """The next answer; an empty one where none came within `seconds`, None where the worker is gone."""

    @abstractmethod
    def end(self) -> int:
        """Ends the process, whatever it does, and gives its exit code; a signal as a negative number."""


class Executor(ABC):
    """Where the trials of a search are trained, several side by side. Built with ()."""

    @abstractmethod
    def open(self, folder: Path, slots: int) -> list[str]:
        """Makes sure that `slots` workers can run there and write into `folder`; lines that say where that is.

        folder: absolute, there, and the search's. Raises ConfigError that says what to do.
        """

    @abstractmethod
    def threads(self, slots: int) -> int | None:
        """CPU threads for each of `slots` workers, unless the user names them; None leaves it to the worker."""

    @abstractmethod
    def start(self, log: Path) -> Worker:
        """A worker that is ready for a job. log: what it prints goes there, behind what is there already.

        Raises MTKError where none can be started.
        """

    @abstractmethod
    def close(self) -> None:
        """Leaves nothing behind; the workers have ended. May be called twice, and without `open`."""
