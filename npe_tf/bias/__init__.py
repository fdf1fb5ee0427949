"""Bias models: densities to halo mass functions.

Names load on first use, as those of `npe_tf`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npe_tf.bias.architecture import RECOMMENDED as RECOMMENDED
    from npe_tf.bias.architecture import Architecture as Architecture
    from npe_tf.bias.architecture import recommended as recommended

__all__ = ["RECOMMENDED", "Architecture", "recommended"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("npe_tf.bias.architecture"), name)
    globals()[name] = value
    return value
