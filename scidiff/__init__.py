"""Scientific diffusion models with certified samples.

Domains are loaded when they are first used: `import scidiff` alone imports nothing heavy.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__version__ = "0.1.0"

_DOMAINS = ("molecules",)


def __getattr__(name: str) -> ModuleType:
    if name in _DOMAINS:
        return importlib.import_module(f"scidiff.{name}")
    raise AttributeError(f"module 'scidiff' has no attribute {name!r}; its domains are {', '.join(_DOMAINS)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_DOMAINS])
