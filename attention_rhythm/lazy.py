"""Names of a package that are imported when they are first asked for.

So a package costs only what is used of it: `import attention_rhythm` loads no PyTorch, and a generator no signals. Code
of this repository names the module that it needs, not the package: the manifest follows import statements.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def exports(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """A package's `__getattr__`; names: module -> what the package offers of it. AttributeError for other names."""
    homes = {name: module for module, offered in names.items() for name in offered}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return get
