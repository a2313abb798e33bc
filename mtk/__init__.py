"""mtk: one shared text encoder, several tasks trained together, and every choice that matters is a plugin.

The public names are resolved on first use (PEP 562): `import mtk` and `mtk --help` load neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "mtk.errors": ("MTKError", "ConfigError", "DataError", "PluginError", "CheckpointError", "did_you_mean"),
    "mtk.interfaces": (
        "Augmentation",
        "Encoder",
        "Encoding",
        "Example",
        "Features",
        "GradientCombiner",
        "Head",
        "Mixer",
        "Prediction",
        "Progress",
        "Scheduler",
        "Source",
        "StepInfo",
        "Target",
        "Targets",
        "Task",
        "TaskContext",
        "TokenBatch",
        "Tokenizer",
        "Trial",
        "Tuner",
    ),
    "mtk.targets": ("Classes", "Range"),
    "mtk.tables": ("TableRow", "read_table"),
    "mtk.hookspecs": ("hookimpl", "Register", "RegisterCommand"),
    "mtk.plugins": ("build", "registered"),
    "mtk.gradients": ("combine",),
    "mtk.api": ("train",),
    "mtk.inference": ("TrainedModel", "load"),
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
