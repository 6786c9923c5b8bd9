"""The stages of reproduce.sh, in order: what each calls, reads and writes. To add a stage, add an entry to STAGES."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis.settings import (
    CorrectnessSettings,
    CouplingsSettings,
    KnockoutSettings,
    PerturbationSettings,
    SignalsSettings,
    TokenValuesSettings,
)
from evaluation.settings import EvaluationConfig, ResponsesSettings
from training.settings import ClusterSettings, ExperimentSettings, PolicyValuesSettings, PowerSettings


@dataclass(frozen=True)
class Stage:
    """One step: a function `(Run, *settings) -> None` that reads and writes files of results/PROFILE."""

    name: str
    help: str
    function: str  # "package.module:function"; imported when the stage runs
    reads: tuple[str, ...]  # result files of earlier stages; a folder ends with /
    writes: tuple[str, ...]
    minutes: dict[str, float]  # expected, on the machine the profile is for
    settings: dict[str, type] = field(default_factory=dict)  # tables of the profile that it is given, in this order
    files: tuple[str, ...] = ()  # patterns of files of the repository that it reads, besides the code it imports
    optional: bool = False  # not part of a profile that has no table for it
    only_if_asked: bool = False  # takes hours: runs for --stage NAME alone
    also_reads: tuple[str, ...] = ()  # what optional stages have written, if they have
    not_kept: tuple[str, ...] = ()  # of `writes`, what git does not hold: made again where a stage that runs reads it


def written_by(experiment: str) -> tuple[str, ...]:
    """The files of an experiment: its summary, and the tables of its runs (training/runs.py)."""
    return (
        f"{experiment}.json",
        *(f"{experiment}_{part}" for part in ("curves.parquet", "finals.parquet", "runs.json")),
    )


def written_by_study(study: str) -> tuple[str, ...]:
    """The files of a study of token values (analysis/token_value.py)."""
    return (f"{study}.json", f"{study}.parquet", f"{study}_signals.parquet")


EXPERIMENT = ("training/configs/*.toml", "training/checkpoints/countdown-policy/*")

STAGES = (
    Stage(
        "model",
        "get the model ready",
        "evaluation.model:stage",
        reads=(),
        writes=("model.json",),
        minutes={"smoke": 0.1, "cpu": 0.1, "gpu": 5, "paper": 5},
    ),
    Stage(
        "responses",
        "sample responses to the problems",
        "evaluation.responses:stage",
        reads=("model.json",),
        writes=("responses.jsonl",),
        not_kept=("responses.jsonl",),
        settings={"responses": ResponsesSettings},
        minutes={"smoke": 0.5, "cpu": 4, "gpu": 3, "paper": 3},
    ),
    Stage(
        "signals",
        "WAAD, FAI, entropy and receiver heads of every token",
        "analysis.read_signals:stage",
        reads=("responses.jsonl",),
        writes=("signals/", "maps.npz"),
        not_kept=("signals/",),
        settings={"signals": SignalsSettings},
        minutes={"smoke": 0.2, "cpu": 1.5, "gpu": 2, "paper": 2},
    ),
    Stage(
        "couplings",
        "peaks and how they coincide",
        "analysis.couplings:stage",
        reads=("signals/",),
        writes=("couplings.json", "sensitivity.csv", "peak_overlap.csv", "tokens.parquet"),
        settings={"couplings": CouplingsSettings, "signals": SignalsSettings},
        minutes={"smoke": 0.1, "cpu": 0.3, "gpu": 1, "paper": 1},
    ),
    Stage(
        "controls",
        "the same where like is compared with like",
        "analysis.controls:stage",
        reads=("tokens.parquet",),
        writes=("controls.csv",),
        settings={"couplings": CouplingsSettings},
        minutes={"smoke": 0.1, "cpu": 0.3, "gpu": 0.3, "paper": 0.3},
    ),
    Stage(
        "credit",
        "credit of every token, as training would give it, and what it hangs on",
        "analysis.token_credit:stage",
        reads=("signals/",),
        writes=("token_credit.parquet", "credit_sensitivity.csv"),
        minutes={"smoke": 0.1, "cpu": 0.1, "gpu": 0.1, "paper": 0.1},
    ),
    Stage(
        "perturbation",
        "another token at high- and low-FAI positions",
        "analysis.perturbation:stage",
        reads=("responses.jsonl",),
        writes=("perturbation.jsonl", "perturbation.json"),
        settings={"perturbation": PerturbationSettings},
        minutes={"smoke": 0.3, "cpu": 7, "gpu": 10, "paper": 40},
    ),
    Stage(
        "correctness",
        "right answers that stay right, with another token at high- and low-FAI positions",
        "analysis.correctness:stage",
        reads=("responses.jsonl",),
        writes=("correctness.csv", "correctness.json"),
        settings={"correctness": CorrectnessSettings, "responses": ResponsesSettings},
        minutes={},
        optional=True,
        only_if_asked=True,
    ),
    Stage(
        "knockout",
        "what is missed when later tokens cannot attend to a position of high FAI",
        "analysis.knockout:stage",
        reads=("responses.jsonl", "signals/"),
        writes=("knockout.csv", "knockout.json"),
        settings={"knockout": KnockoutSettings},
        minutes={},
        optional=True,
        only_if_asked=True,
    ),
    Stage(
        "token_values",
        "what each token changes in the chance to end right, and which signals find it",
        "analysis.token_value:stage",
        reads=("model.json",),
        writes=written_by_study("token_values"),
        settings={"token_values": TokenValuesSettings},
        minutes={"qwen2.5-coder-0.5b": 600},
        optional=True,
        only_if_asked=True,
    ),
    Stage(
        "evaluation",
        "accuracy on the benchmarks",
        "evaluation.run:stage",
        reads=("model.json",),
        writes=("evaluation.jsonl", "evaluation.json"),
        settings={"evaluation": EvaluationConfig},
        minutes={"smoke": 0.3, "cpu": 4.5, "gpu": 60, "paper": 120},
    ),
    Stage(
        "training",
        "GRPO with each credit strategy, on the embedded policy",
        "training.experiment:stage",
        reads=("model.json",),
        writes=written_by("training"),
        settings={"training": ExperimentSettings},
        files=EXPERIMENT,
        minutes={"smoke": 0.7, "cpu": 6, "gpu": 60, "paper": 60},
        optional=True,
    ),
    Stage(
        "training_extended",
        "the same with more seeds",
        "training.experiment:extended",
        reads=("model.json",),
        writes=written_by("training_extended"),
        settings={"training_extended": ExperimentSettings},
        files=EXPERIMENT,
        minutes={"cpu": 90},
        optional=True,
        only_if_asked=True,
    ),
    Stage(
        "ablations",
        "selection, sign, layers, heads, window and horizon",
        "training.experiment:ablations",
        reads=("model.json",),
        writes=written_by("ablations"),
        settings={"ablations": ExperimentSettings},
        files=EXPERIMENT,
        minutes={"cpu": 240},
        optional=True,
        only_if_asked=True,
    ),
    Stage(
        "power",
        "every strategy, reading, dose and control with enough seeds to see a difference (docs/protocol.md)",
        "training.power:stage",
        reads=("model.json",),
        writes=written_by("power"),
        settings={"power": PowerSettings},
        files=EXPERIMENT,
        minutes={"cpu": 480},
        optional=True,
        only_if_asked=True,
    ),
    Stage(
        "policy_values",
        "the same of the embedded policy, at its warm start and after GRPO",
        "training.policy_values:stage",
        reads=("model.json",),
        writes=written_by_study("policy_values"),
        settings={"policy_values": PolicyValuesSettings},
        files=EXPERIMENT,
        minutes={"smoke": 0.7, "cpu": 40},
        optional=True,
        only_if_asked=True,
    ),
    Stage(
        "figures",
        "every figure and table, from the result files",
        "figures.run:run",
        reads=(
            "model.json",
            "responses.jsonl",
            "tokens.parquet",
            "token_credit.parquet",
            "credit_sensitivity.csv",
            "maps.npz",
            "couplings.json",
            "sensitivity.csv",
            "peak_overlap.csv",
            "controls.csv",
            "perturbation.jsonl",
            "perturbation.json",
            "evaluation.json",
        ),
        also_reads=(
            "training.json",
            "training_curves.parquet",
            "training_extended.json",
            "training_extended_curves.parquet",
            "ablations.json",
            "power.json",
            "correctness.json",
            "knockout.json",
            *written_by_study("token_values"),
            *written_by_study("policy_values"),
        ),
        writes=("figures/", "tables/", "token_heatmap.html"),
        not_kept=("token_heatmap.html",),
        files=("figures/*.yaml", "figures/templates/*"),
        minutes={"smoke": 0.3, "cpu": 0.5, "gpu": 0.5, "paper": 0.5},
    ),
    Stage(
        "notebooks",
        "execute the notebooks",
        "pipeline.notebooks:run",
        reads=("figures/", "tables/"),
        writes=("notebooks/",),
        not_kept=("notebooks/",),
        also_reads=("training.json",),
        files=("figures/*.yaml", "figures/templates/*", "notebooks/*.ipynb"),
        minutes={"smoke": 0.7, "cpu": 1, "gpu": 1, "paper": 1},
    ),
    Stage(
        "cluster",
        "GRPO with each credit strategy at the paper's scale, by verl on 8 to 16 GPUs (docs/cluster.md)",
        "training.cluster:stage",
        reads=("model.json",),
        writes=("cluster.json",),
        settings={"cluster": ClusterSettings},
        files=("attention_rhythm/integrations/verl/configs/**/*.yaml",),
        minutes={"paper": 33_000},
        optional=True,
        only_if_asked=True,
    ),
)
