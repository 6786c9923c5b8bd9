"""The tables of a profile that Section 5 reads (see evaluation/settings.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.settings import StudySettings

DECIDES_NOTHING = {"decides": False}  # of a field that changes no number


@dataclass(frozen=True)
class RunsSettings:
    """What is common to the tables of experiments: runs of a recipe."""

    recipe: str = "countdown"  # training/configs/NAME.toml
    steps: int = 100  # batches of a run
    workers: int = field(default=2, metadata=DECIDES_NOTHING)  # runs at once, one thread each
    sequences_per_pass: int | None = None  # not the recipe's: another speed and other rounding, no other result
    held_out: int = 512  # test puzzles
    samples: int = 4  # responses to each of them at the end, T = 1


@dataclass(frozen=True)
class ExperimentSettings(RunsSettings):
    """Tables [training], [training_extended] and [ablations]: variants of a recipe, several seeds each."""

    groups: tuple[str, ...] = ("strategies",)  # of variants, training/configs/variants.toml
    seeds: tuple[int, ...] = (0,)  # each is a run of every variant


@dataclass(frozen=True)
class PowerSettings(RunsSettings):
    """Table [power]: the experiment of docs/protocol.md."""

    groups: tuple[str, ...] = ("strategies", "readings", "controls")  # of variants, at the paper's dose
    dosed: tuple[str, ...] = ("dose4",)  # groups at another dose
    seeds: int = 16  # runs of each variant
    dosed_seeds: int = 8  # and of each at another dose
    first_seed: int = 100  # that no run before the protocol has had


@dataclass(frozen=True)
class PolicyValuesSettings(StudySettings):
    """Table [policy_values]: token values of the embedded policy, on test puzzles."""

    recipe: str = "countdown"  # training/configs/NAME.toml: the policy, and how it is trained
    steps: tuple[int, ...] = (0, 100)  # of GRPO before its tokens are studied; 0: the warm start
    seed_of_training: int = 0  # of the runs that make the trained policies


@dataclass(frozen=True)
class ClusterSettings:
    """Table [cluster]: the paper's runs, by verl (docs/cluster.md)."""

    runs: tuple[str, ...]  # Hydra's overrides, on attention_rhythm/integrations/verl/configs/rhythm.yaml
    strategies: tuple[str, ...] = ("uniform", "random", "entropy", "local_chunk", "global_anchor", "coupled_rhythm")
