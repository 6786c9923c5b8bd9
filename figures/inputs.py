"""The result files of one profile, each read once when first asked for. A file that is not there names its stage."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attention_rhythm.errors import ReproError
from attention_rhythm.files import read_json, read_jsonl

EXPERIMENTS = ("training", "training_extended", "ablations")  # what optional stages have left
STUDIES = ("policy_values", "token_values")  # of token values
OPTIONAL = (*EXPERIMENTS, "power", "correctness", "knockout", *STUDIES)
MAKERS = {  # result file: the stage that writes it
    "model.json": "model",
    "responses.jsonl": "responses",
    "tokens.parquet": "couplings",
    "token_credit.parquet": "credit",
    "credit_sensitivity.csv": "credit",
    "maps.npz": "signals",
    "couplings.json": "couplings",
    "sensitivity.csv": "couplings",
    "peak_overlap.csv": "couplings",
    "controls.csv": "controls",
    "perturbation.jsonl": "perturbation",
    "perturbation.json": "perturbation",
    "evaluation.json": "evaluation",
    **{f"{stage}{ending}": stage for stage in EXPERIMENTS for ending in (".json", "_curves.parquet")},
    "power.json": "power",
    "correctness.json": "correctness",
    "knockout.json": "knockout",
    **{f"{stage}{ending}": stage for stage in STUDIES for ending in (".json", ".parquet", "_signals.parquet")},
}


class MissingResult(ReproError):
    """A result file that an earlier stage has not written yet."""

    def __init__(self, path: Path):
        stage = MAKERS.get(path.name, "figures")
        super().__init__(f"{path} is missing: stage '{stage}' writes it (./reproduce.sh PROFILE --stage {stage})")
        self.path, self.stage = path, stage


class Results:
    """Result files below `root` (results/PROFILE)."""

    def __init__(self, root: str | Path, seed: int = 0):
        self.root, self.seed = Path(root), seed

    def get(self, need: str) -> Any:
        """What a figure or a table names as a need: a property of this class, an experiment or a study, NAME_curves of
        the one, NAME_tokens of the other."""
        if need in OPTIONAL:
            return self.experiment(need)
        if need.removesuffix("_tokens") in STUDIES:
            return self.token_values(need.removesuffix("_tokens"))
        if need.removesuffix("_curves") in EXPERIMENTS:
            return self.curves(need.removesuffix("_curves"))
        return getattr(self, need)

    def _path(self, name: str) -> Path:
        path = self.root / name
        if not path.is_file():
            raise MissingResult(path)
        return path

    @cached_property
    def model(self) -> dict:
        """Spec, sha256 and shape of the model the results are of."""
        return read_json(self._path("model.json"))

    @cached_property
    def responses(self) -> pd.DataFrame:
        """One row a response, sampled and greedy."""
        return pd.DataFrame(read_jsonl(self._path("responses.jsonl")))

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """One row a token of a sampled response: text, entropy (nats), WAAD (tokens), FAI, peaks."""
        return pd.read_parquet(self._path("tokens.parquet"))

    @cached_property
    def credited_tokens(self) -> pd.DataFrame:
        """`tokens` with a column `gamma`: the factor on the advantage that coupled-rhythm credit would give."""
        tokens = self.tokens
        credit = pd.read_parquet(self._path("token_credit.parquet"), columns=["response", "t", "gamma"])
        return tokens.merge(credit, on=["response", "t"], how="left", validate="one_to_one")

    @cached_property
    def credit_sensitivity(self) -> pd.DataFrame:
        """One row a choice that the paper leaves open and response: how much of the defaults' credit stays."""
        return pd.read_csv(self._path("credit_sensitivity.csv"))

    @cached_property
    def maps(self) -> dict:
        """Head-mean attention maps `local` and `global` (n, n) of one response, with `start` and `response`."""
        with np.load(self._path("maps.npz"), allow_pickle=False) as arrays:
            maps = {name: arrays[name] for name in arrays.files}
        return {**maps, "start": int(maps["start"]), "response": str(maps["response"])}

    @property
    def example(self) -> str:
        """The response whose maps were kept."""
        return self.maps["response"]

    @cached_property
    def couplings(self) -> dict:
        """Table 2 and Table 10 statistics with intervals, and the settings they were made under."""
        return read_json(self._path("couplings.json"))

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """The statistics of Table 2 under other conventions."""
        return pd.read_csv(self._path("sensitivity.csv"))

    @cached_property
    def controls(self) -> pd.DataFrame:
        """One row a statistic of Table 2 and control: lift over what like tokens have in other responses, percent."""
        return pd.read_csv(self._path("controls.csv"))

    @cached_property
    def peak_overlap(self) -> pd.DataFrame:
        """Table 20: share of peaks (percent) with a peak of another signal at, before or after them, per response."""
        return pd.read_csv(self._path("peak_overlap.csv"))

    @cached_property
    def perturbations(self) -> pd.DataFrame:
        """One row a forced candidate."""
        frame = pd.DataFrame(read_jsonl(self._path("perturbation.jsonl")))
        return frame.assign(jaccard=pd.to_numeric(frame["jaccard"]))

    @cached_property
    def perturbation(self) -> dict:
        """Table 1: group means and comparisons with intervals."""
        return read_json(self._path("perturbation.json"))

    @cached_property
    def evaluations(self) -> dict[str, dict]:
        """Accuracies: of the model itself (`untrained`), and of those below evaluations/ by the folder's name."""
        trained = sorted(self.root.glob("evaluations/*/evaluation.json"))
        return {
            "untrained": read_json(self._path("evaluation.json")),
            **{path.parent.name: read_json(path) for path in trained},
        }

    def has(self, experiment: str) -> bool:
        """Whether an experiment or a study has been run."""
        return (self.root / f"{experiment}.json").is_file()

    def experiment(self, name: str) -> dict:
        """Final accuracies of an experiment with intervals over seeds; the scores of a study of token values."""
        return read_json(self._path(f"{name}.json"))

    @property
    def experiments(self) -> dict[str, dict]:
        """The experiments that have been run."""
        return {name: self.experiment(name) for name in EXPERIMENTS if self.has(name)}

    def curves(self, name: str) -> pd.DataFrame:
        """One row a run and step of `training` or `training_extended`."""
        return pd.read_parquet(self._path(f"{name}_curves.parquet"))

    def token_values(self, name: str) -> pd.DataFrame:
        """One row a token of a study: what it is, right continuations of each half, and every signal."""
        key = ["subject", "response", "t"]
        values, signals = (pd.read_parquet(self._path(f"{name}{part}.parquet")) for part in ("", "_signals"))
        return values.merge(signals.drop(columns=["entropy"]), on=key, validate="one_to_one")

    def table(self, name: str) -> pd.DataFrame:
        """A finished table's numbers, tables/NAME.csv: what its module's `build` made."""
        return pd.read_csv(self._path(f"tables/{name}.csv"))

    def table_text(self, name: str) -> str:
        """A finished table as Markdown, with its title and note."""
        return self._path(f"tables/{name}.md").read_text(encoding="utf-8")
