"""mtk: one shared text encoder, several tasks trained together, and every choice that matters is a plugin.

The public names are resolved on first use (PEP 562): `import mtk` and `mtk --help` load neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # type checkers would take these names for Any
    from mtk.api import (
        text_task as text_task,
        train as train,
    )
    from mtk.errors import (
        CheckpointError as CheckpointError,
        ConfigError as ConfigError,
        DataError as DataError,
        MTKError as MTKError,
        NoRowsError as NoRowsError,
        PluginError as PluginError,
        did_you_mean as did_you_mean,
    )
    from mtk.exports import Exported as Exported
    from mtk.gradients import combine as combine
    from mtk.hookspecs import (
        Register as Register,
        RegisterCommand as RegisterCommand,
        hookimpl as hookimpl,
    )
    from mtk.inference import (
        TrainedModel as TrainedModel,
        load as load,
    )
    from mtk.interfaces import (
        Augmentation as Augmentation,
        Encoder as Encoder,
        Encoding as Encoding,
        Example as Example,
        Executor as Executor,
        Features as Features,
        GradientCombiner as GradientCombiner,
        Head as Head,
        Job as Job,
        Mixer as Mixer,
        Prediction as Prediction,
        Progress as Progress,
        Scheduler as Scheduler,
        SearchState as SearchState,
        Source as Source,
        Stage as Stage,
        StepInfo as StepInfo,
        Target as Target,
        Targets as Targets,
        Task as Task,
        TaskContext as TaskContext,
        TokenBatch as TokenBatch,
        Tokenizer as Tokenizer,
        TrialRecord as TrialRecord,
        Tuner as Tuner,
        Worker as Worker,
    )
    from mtk.plugins import (
        build as build,
        registered as registered,
    )
    from mtk.recipes import (
        Recipe as Recipe,
        load_recipe as load_recipe,
    )
    from mtk.run import RunFolder as RunFolder
    from mtk.scoretable import (
        Curve as Curve,
        Difference as Difference,
        ScoreRow as ScoreRow,
        ScoreTable as ScoreTable,
        paired_difference as paired_difference,
    )
    from mtk.searchrecord import (
        Dimension as Dimension,
        SearchRecord as SearchRecord,
        TrialEpoch as TrialEpoch,
        trial_history as trial_history,
    )
    from mtk.settings import configure as configure
    from mtk.sweep import (
        Cell as Cell,
        Sweep as Sweep,
    )
    from mtk.tables import (
        BadRow as BadRow,
        Table as Table,
        TableRow as TableRow,
        check_bad_rows as check_bad_rows,
        decode_text as decode_text,
        read_table as read_table,
    )
    from mtk.targets import (
        Classes as Classes,
        MultiLabel as MultiLabel,
        Number as Number,
        Ordinal as Ordinal,
        Range as Range,
        Ranking as Ranking,
        Tags as Tags,
    )
    from mtk.training import (
        EpochDone as EpochDone,
        Finished as Finished,
        StepDone as StepDone,
    )
    from mtk.worker import start_worker as start_worker

_HOME = {
    "mtk.errors": (
        "MTKError",
        "ConfigError",
        "DataError",
        "NoRowsError",
        "PluginError",
        "CheckpointError",
        "did_you_mean",
    ),
    "mtk.interfaces": (
        "Augmentation",
        "Encoder",
        "Encoding",
        "Example",
        "Executor",
        "Features",
        "GradientCombiner",
        "Head",
        "Job",
        "Mixer",
        "Prediction",
        "Progress",
        "Scheduler",
        "SearchState",
        "Source",
        "Stage",
        "StepInfo",
        "Target",
        "Targets",
        "Task",
        "TaskContext",
        "TokenBatch",
        "Tokenizer",
        "TrialRecord",
        "Tuner",
        "Worker",
    ),
    "mtk.targets": ("Classes", "MultiLabel", "Number", "Ordinal", "Range", "Ranking", "Tags"),
    "mtk.recipes": ("Recipe", "load_recipe"),
    "mtk.scoretable": ("Curve", "Difference", "ScoreRow", "ScoreTable", "paired_difference"),
    "mtk.searchrecord": ("Dimension", "SearchRecord", "TrialEpoch", "trial_history"),
    "mtk.settings": ("configure",),
    "mtk.sweep": ("Cell", "Sweep"),
    "mtk.tables": ("BadRow", "Table", "TableRow", "check_bad_rows", "decode_text", "read_table"),
    "mtk.hookspecs": ("hookimpl", "Register", "RegisterCommand"),
    "mtk.plugins": ("build", "registered"),
    "mtk.exports": ("Exported",),
    "mtk.gradients": ("combine",),
    "mtk.api": ("text_task", "train"),
    "mtk.inference": ("TrainedModel", "load"),
    "mtk.run": ("RunFolder",),
    "mtk.training": ("EpochDone", "Finished", "StepDone"),
    "mtk.worker": ("start_worker",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mtk' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
