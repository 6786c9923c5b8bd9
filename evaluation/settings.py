"""What a stage of the pipeline is given: its run, and the settings of its tables in the profile.

A profile's table is one of these dataclasses (the other rooms have theirs in a settings.py of their own): a field's
comment is its documentation, its default stands here and nowhere else. Only the standard library is imported, so that
`./reproduce.sh --dry-run` needs nothing installed. The library knows of no stages; evaluation/ is the first room that
does, which is why `Run` is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attention_rhythm.errors import UsageError

SOURCES = ("generated", "benchmark")


def check_names(*tasks: str) -> None:
    """UsageError for a task that is no name: it becomes part of a file's name, so no dots and no slashes."""
    if wrong := [task for task in tasks if not task.isidentifier()]:
        raise UsageError(f"a task is a name, not {wrong[0]!r}")


@dataclass(frozen=True)
class ModelSettings:
    """Table [model]."""

    id: str = "smollm2-135m-instruct"  # default model, folder or hub id; --model takes its place
    dtype: str = "float32"  # float32 | bfloat16 | float16
    device: str = "cpu"  # cpu | cuda | auto (cuda if there is one)


@dataclass(frozen=True)
class Run:
    """What every stage is given: where its files are, and what the whole profile says."""

    root: Path  # results/PROFILE, or results/PROFILE-MODEL for a model that is not the profile's
    profile: str = ""  # as it is called on the command line
    model: ModelSettings = ModelSettings()
    seed: int = 0  # of sampling, bootstrap and random choices
    data_dir: Path | None = None  # benchmarks as JSON lines; None: the environment's DATA_DIR, then the hub
    mark: str = ""  # tells the settings of the stage that is running from all others

    def path(self, *parts: str) -> Path:
        """The result file `parts` of this run; its folder is made."""
        path = self.root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def partial(self, name: str) -> Path:
        """Where a stage keeps the finished records of `name` until it is whole (see `resume_jsonl`).

        The name carries the mark, so that a run with other settings never picks up these records. Deleted when the
        stage ends well.
        """
        return self.path(f".{name}.{self.mark[:16]}.partial")


@dataclass(frozen=True)
class ResponsesSettings:
    """Table [responses]: the responses that Section 4 studies.

    Raises:
        UsageError: a source that is none of SOURCES.
    """

    task: str = "gsm8k"  # whose problems are answered
    source: str = "generated"  # generated: made here | benchmark: from DATA_DIR or the hub or an error
    problems: int = 70  # how many; the paper has 70
    max_new_tokens: int = 256  # a response is cut there
    temperature: float = 0.7  # of the sampled responses, as in the paper
    batch_size: int = 35  # responses at once: memory and speed

    def __post_init__(self) -> None:
        check_names(self.task)
        if self.source not in SOURCES:
            raise UsageError(f"source must be {' or '.join(SOURCES)}, not {self.source!r}")


@dataclass(frozen=True)
class EvaluationConfig:
    """Table [evaluation], and the command line of `python -m evaluation.run`: how a model is evaluated.

    Raises:
        UsageError: nothing to evaluate, or a number out of range; the message names the field.
    """

    tasks: tuple[str, ...] = ()  # benchmarks, from DATA_DIR or the hub; an error where neither has them
    generated: tuple[str, ...] = ()  # tasks whose problems are made here, in the place of the benchmark's
    limit: int = 0  # problems of each task, a random sample by `seed`; 0: all
    samples: int = 1  # completions a problem; 1: greedy
    samples_of: Mapping[str, int] = field(default_factory=dict)  # other numbers for some tasks (the paper: 16 for AIME)
    max_new_tokens: int = 1024  # a completion is cut there
    temperature: float = 0.7  # of sampled completions
    batch_size: int = 32  # completions at once: memory and speed
    engine: str = "auto"  # hf | vllm | auto (vllm on a GPU, else hf)
    seed: int = 0  # of the sample of problems and of sampled completions

    def __post_init__(self) -> None:
        check_names(*self.all_tasks)
        if not self.all_tasks:
            raise UsageError("no tasks to evaluate")
        if twice := {name for name in self.all_tasks if self.all_tasks.count(name) > 1}:
            raise UsageError(f"task {sorted(twice)[0]} is there twice, in tasks and generated together")
        numbers = {"samples": self.samples, "max_new_tokens": self.max_new_tokens, "batch_size": self.batch_size}
        numbers |= {f"samples_of.{name}": count for name, count in self.samples_of.items()}
        for name, value in numbers.items():
            if value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if self.limit < 0:
            raise UsageError(f"limit must be at least 0, not {self.limit}")

    @property
    def all_tasks(self) -> tuple[str, ...]:
        """Those of `tasks`, then those of `generated`."""
        return (*self.tasks, *self.generated)
