"""A stand-in for jaxtyping, so that a Python with torch and transformers alone can run a check of this checkout.

jaxtyping only writes shapes into annotations. It is a requirement of the library, and installed wherever the library
is; a machine that is lent for minutes and reaches no package index has neither.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

_NAMES = ("Bool", "Float", "Int")  # all that this repository imports of it


class _Shaped:
    """`Float[Tensor, "B N"]` is the array type, `Tensor`."""

    def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
        return item[0]


def install() -> None:
    """Make `from jaxtyping import Float` work where jaxtyping is not installed; else nothing."""
    if "jaxtyping" in sys.modules or importlib.util.find_spec("jaxtyping") is not None:
        return
    module = ModuleType("jaxtyping")
    for name in _NAMES:
        setattr(module, name, type(name, (_Shaped,), {}))
    sys.modules["jaxtyping"] = module
