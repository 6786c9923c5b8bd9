"""What a stage of the pipeline is given. It stands in the first room that has stages; the library knows of none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_rhythm.errors import ReproError


@dataclass(frozen=True)
class Run:
    """What a stage is given: where its files are and the settings of its profile."""

    root: Path  # results/PROFILE
    profile: str
    config: dict[str, Any]  # the profile, restricted to the tables that the stage declares
    seed: int
    model: str  # default model's name, a folder, or a hub id: what attention_rhythm.models.load_model takes
    data_dir: Path | None = None  # benchmarks as JSON lines; None: hub, else generated problems
    fingerprint: str = ""  # of the stage that is running

    def path(self, *parts: str) -> Path:
        """The result file `parts` of this run; its folder is made."""
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def partial(self, name: str) -> Path:
        """Where a stage keeps the finished records of `name` until it is whole (see `resume_jsonl`).

        The name carries the fingerprint, so that a run with other settings never picks up these records. Deleted when
        the stage ends well.
        """
        return self.path(f".{name}.{self.fingerprint[:16]}.partial")

    def section(self, name: str) -> dict[str, Any]:
        """A table of the profile. ReproError if the profile lacks it or the stage does not declare it."""
        if name not in self.config:
            raise ReproError(f"profile {self.profile}: no table [{name}], or the stage does not declare it")
        return self.config[name]
