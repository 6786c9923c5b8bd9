"""Every figure and table, registered where it is built, with the results it needs and its place in the report.

    @figure("fig2_attention", needs=("tokens", "maps"), section="rhythm", place=1, caption="...")
    def draw(tokens, maps): ...

`figures/run.py` imports the modules, makes what is registered, and writes it under its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from figures.inputs import Results

Make = TypeVar("Make", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """A figure (a matplotlib Figure) or a table (a `figures.tables.Table`)."""

    name: str  # of its files: figures/NAME.png, tables/NAME.md
    kind: str  # figure | table
    make: Callable[..., Any]
    needs: tuple[str, ...]  # its arguments, as `Results.get` knows them
    section: str  # of the report
    place: int  # within the section
    caption: str = ""  # of a figure; a table has a title and a note of its own
    experiment: str | None = None  # the optional stage whose results it shows

    def of(self, data: Results) -> Any:
        """Make it. MissingResult: a result that it needs is not there."""
        return self.make(*(data.get(need) for need in self.needs))


ENTRIES: dict[str, Entry] = {}


def figure(
    name: str, *, needs: tuple[str, ...], section: str, place: int, caption: str, experiment: str | None = None
) -> Callable[[Make], Make]:
    """Register the function below as what draws figure `name`."""
    return _registered(name, "figure", needs, section, place, caption, experiment)


def table(
    name: str, *, needs: tuple[str, ...], section: str, place: int, experiment: str | None = None
) -> Callable[[Make], Make]:
    """Register the function below as what makes table `name`."""
    return _registered(name, "table", needs, section, place, "", experiment)


def of_section(anchor: str) -> list[Entry]:
    """What stands in a section of the report, in the order of the page."""
    return sorted((e for e in ENTRIES.values() if e.section == anchor), key=lambda entry: entry.place)


def _registered(
    name: str, kind: str, needs: tuple[str, ...], section: str, place: int, caption: str, experiment: str | None
) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        if name in ENTRIES:
            raise ValueError(f"{name} is registered twice")
        ENTRIES[name] = Entry(name, kind, make, needs, section, place, caption, experiment)
        return make

    return register
