"""A small synthetic results folder with every file that figures/ reads; nothing in it comes from a model."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.controls import controlled
from analysis.settings import StudySettings
from analysis.token_scores import scores_of
from analysis.token_signals import CREDITS, SIGNALS
from attention_rhythm.files import write_json, write_jsonl, write_npz, write_table
from evaluation.settings import Run

TEXT = (
    "To find how many clips Natalia sold in all, we add the two months.\n\nIn April she sold 48 clips. In May she sold "
    "half as many, so she sold 48/2 = 24 clips in May. Together that is $48 + 24 = 72$ clips.\n\nTo check, "
    "72 - 24 = 48, which is what she sold in April. So the answer is <script>alert('x')</script> \\boxed{72}.\n"
    "Natalia sold 72 clips & was glad."
)
STATISTICS = {
    "waad_peak_entropy": (0.2, 0.3, 50.0, [20.0, 80.0]),
    "receiver_global_fai_cooccurrence": (20.0, 50.0, 150.0, [-5.0, 190.0]),
    "fai_follows_or_coincides_waad": (40.0, 30.0, -25.0, [-40.0, -10.0]),
}
PAIRS = ("receiver_fai_vs_global_fai", "receiver_fai_vs_waad", "global_fai_vs_waad", "waad_vs_entropy")


def peaks(values: np.ndarray) -> np.ndarray:
    """Plain local maxima; only to have some marks to draw."""
    inner = (values[1:-1] > values[:-2]) & (values[1:-1] >= values[2:])
    return np.concatenate([[False], inner, [False]])


def response_tokens(response: str, generator: np.random.Generator) -> pd.DataFrame:
    """One response with signals like the real ones: WAAD falls inside a chunk, FAI is spiky and ends undefined."""
    texts = re.findall(r"\n+| ?\w+| ?[^\w\s]", TEXT)
    n = len(texts)
    since = np.zeros(n)
    for t in range(1, n):
        since[t] = 0 if re.search(r"[.\n,=]", texts[t - 1]) else since[t - 1] + 1
    waad = 7.5 * np.exp(-since / 3) + generator.uniform(0.5, 1.5, n)
    entropy = 0.9 * np.exp(-since / 2) * generator.uniform(0.2, 1.6, n) + 0.02
    fai = generator.gamma(0.6, 0.01, n)
    fai[-10:] = np.nan
    receiver = fai * generator.uniform(0.5, 2.0, n)
    return pd.DataFrame(
        {
            "response": response,
            "t": range(n),
            "token": texts,
            "token_id": [sum(map(ord, text)) for text in texts],
            "entropy": entropy,
            "logprob": -generator.gamma(0.5, 0.5, n),
            "waad": waad,
            "fai": fai,
            "receiver_fai": receiver,
            "waad_peak": peaks(waad),
            "fai_peak": peaks(fai),
            "receiver_peak": peaks(receiver),
            "entropy_peak": peaks(entropy),
        }
    )


def attention_map(n: int, band: float, stripes: float, generator: np.random.Generator) -> np.ndarray:
    """Rows that sum to one below the diagonal: a band of width `band` and `stripes` of always-read columns."""
    rows, columns = np.indices((n, n))
    scores = (
        -np.abs(rows - columns) / band + stripes * (generator.uniform(size=n) > 0.85) + generator.normal(0, 0.3, (n, n))
    )
    weights = np.where(rows >= columns, np.exp(scores), 0)
    return (0.6 * weights / weights.sum(1, keepdims=True)).astype(np.float16)


def coupling_rows() -> list[dict]:
    rows = []
    for layers in ("all", "top", "middle", "bottom"):
        for name, (random, observed, lift, interval) in STATISTICS.items():
            rows.append(
                {
                    "name": name,
                    "layers": layers,
                    "random": random,
                    "observed": observed,
                    "lift": lift,
                    "random_ci": [random * 0.9, random * 1.1],
                    "observed_ci": [observed * 0.9, observed * 1.1],
                    "lift_ci": interval,
                    "n_problems": 6,
                    "p_value": 0.03,
                }
            )
    return rows


def sensitivity_rows() -> list[dict]:
    rows, generator = [], np.random.default_rng(1)
    for peak in ("prominence", "local_maximum", "quantile"):
        for row in ("token", "predictor"):
            for layers in ("all", "middle"):
                for name, (random, _, lift, _) in STATISTICS.items():
                    middle = lift * generator.uniform(-0.2, 1.4)
                    rows.append(
                        {
                            "statistic": name,
                            "peak": peak,
                            "row": row,
                            "layers": layers,
                            "head_scope": "response",
                            "horizon": "end",
                            "head_fraction": 0.3,
                            "random": random,
                            "observed": random * (1 + middle / 100),
                            "lift": middle,
                            "lift_low": middle - 20,
                            "lift_high": middle + 20,
                            "n_problems": 6,
                        }
                    )
    return rows


def perturbation_rows(generator: np.random.Generator) -> list[dict]:
    original = " clips in May. Together that is $48 + 24 = 72$ clips. So the answer is \\boxed{72}."
    changed = " eggs in June. Both weeks make 48 + 20 = 68 eggs | or so. The result is \\boxed{68}."
    rows = []
    for problem in range(6):
        for group, level in (("top", 0.5), ("bottom", 0.7), ("matched", 0.6)):
            for position in range(3):
                for rank in range(2):
                    value = float(np.clip(generator.normal(level, 0.15), 0, 1))
                    undefined = problem == 0 and position == 0 and rank == 0
                    rows.append(
                        {
                            "problem": f"p{problem}",
                            "group": group,
                            "position": 10 + 7 * position,
                            "relative_position": 0.1 + 0.2 * position,
                            "fai": 0.02 if group == "top" else 0.001,
                            "token": " half" if position else ",",
                            "kind": "word" if position else "punctuation",
                            "candidate": " twice" if rank else " a\nthird",
                            "rank": rank + 1,
                            "probability": 0.2,
                            "jaccard": None if undefined else value,
                            "continuation": changed,
                            "original": original,
                        }
                    )
    return rows


def group_summary() -> dict:
    return {
        name: {"jaccard": value, "ci": [value - 0.05, value + 0.05], "problems": 6, "positions": 18}
        for name, value in (("top", 0.5), ("bottom", 0.7), ("matched", 0.6))
    }


def perturbation_summary() -> dict:
    return {
        "settings": {"positions": 3, "candidates": 2},
        "groups": group_summary(),
        "comparisons": [
            {"name": "top_vs_bottom", "pr_less": 83.3, "ci": [60.0, 100.0], "difference": -0.2,
             "pr_p_value": 0.22, "difference_ci": [-0.3, -0.1], "p_value": 0.03, "visible": 0.14, "problems": 6},
            {"name": "top_vs_matched", "pr_less": 66.7, "ci": [33.3, 100.0], "difference": -0.1,
             "pr_p_value": 0.69, "difference_ci": [-0.25, 0.05], "p_value": 0.2, "visible": 0.21, "problems": 6},
        ],
        "by_kind": {
            "word": {"groups": group_summary(), "comparisons": [
                {"name": "top_vs_matched", "pr_less": 50.0, "ci": [16.7, 83.3], "difference": 0.1, "pr_p_value": 1.0,
                 "difference_ci": [0.05, 0.2], "p_value": 0.06, "visible": 0.11, "problems": 6}]},
            "punctuation": {"groups": {**group_summary(), "top": {
                "jaccard": None, "ci": [None, None], "problems": 0, "positions": 0}}, "comparisons": []},
        },
    }  # fmt: skip


def evaluation() -> dict:
    tasks = [
        ("gsm8k", "gsm_symbolic", "generated", 10.0, [2.8, 30.1], 20, 1, "pass@1"),
        ("aime24", "aime24", "file", 5.0, [0.5, 12.5], 8, 16, "avg@16"),
        ("countdown", "countdown", "generated", 0.0, [0.0, 16.1], 20, 1, "pass@1"),
    ]
    names = ("task", "graded_as", "source", "accuracy", "ci", "problems", "samples", "metric")
    rows = [dict(zip(names, task, strict=True)) | {"tokens": 50.0, "cut_off": 10.0} for task in tasks]
    return {"engine": "hf", "settings": {"max_new_tokens": 64}, "tasks": rows, "missing": {"amc23": "no source"}}


def interval(mean, half):
    return {"mean": mean, "ci": [mean - half, mean + half], "p_value": 0.04}


def experiment_results(seeds=2):
    undefined = {"ci": [None, None], "p_value": None}
    results = []
    for variant, accuracy in (("grpo", 30.0), ("random", 31.0), ("coupled_rhythm", 35.0), ("coupled_bottom40", 25.0)):
        make = interval if seeds > 1 else lambda mean, half: {"mean": mean, **undefined}
        against = {"grpo": make(accuracy - 30, 2.0), "random": make(accuracy - 31, 2.0)}
        against = {name: {**value, "seeds": seeds} for name, value in against.items() if name != variant}
        results.append(
            {"variant": variant, "seeds": seeds, "accuracy": make(accuracy, 3.0), "by_seed": [accuracy] * seeds,
             "greedy": make(accuracy + 5, 3.0), "gain": make(10.0, 4.0), "against": against, "gamma_coverage": 0.4,
             "gamma_mean": 1.2, "seconds_per_step": 3.0}
        )  # fmt: skip
    return {"settings": {"held_out": 512, "samples": 4, "steps": 50, "seeds": list(range(seeds))}, "results": results}


def training_rows():
    rows = []
    for variant in ("grpo", "random", "coupled_rhythm"):
        for seed in range(3):
            for step in range(5):
                rows.append({"variant": variant, "seed": seed, "step": step, "eval_sampled": 0.2 + 0.01 * step * seed,
                             "reward_mean": np.nan if step == 0 else 0.3, "entropy": 0.5})  # fmt: skip
    return pd.DataFrame(rows)


def study_tables(subjects=("warm", "grpo-100"), responses=6, length=24, half=4):
    """Token values whose changes are large where entropy is, and random signals."""
    generator = np.random.default_rng(1)
    values, signals = [], []
    for subject in subjects:
        for response in range(responses):
            value = np.clip(np.cumsum(generator.normal(0, 0.2, length + 1)) + 0.5, 0, 1)
            right = bool(value[-1] > 0.5)
            value[-1] = right
            counts = generator.binomial(half, value[:, None], (length + 1, 2))  # (n + 1, 2)
            frame = pd.DataFrame(
                {"subject": subject, "response": response, "t": range(length), "token": 5, "text": "12",
                 "kind": generator.choice(["word", "number"], length), "begins_part": np.arange(length) % 5 == 0,
                 "place": ["before the answer"] * (length - 4) + ["answer"] * 4, "weight": 1.0, "logprob": -0.5,
                 "entropy": generator.random(length), "collision": 0.5, "problem": f"puzzle-test-{response}",
                 "right": right}
            )  # fmt: skip
            other = generator.binomial(half, 0.3, (length, 2))
            for column, pair in {"before": counts[:-1], "after": counts[1:], "other": other}.items():
                frame[f"{column}_a"], frame[f"{column}_b"] = pair.T
            values.append(frame)
            names = {name: generator.random(length) for name in SIGNALS}
            credits = {name: generator.choice([0.0, 0.5, 1.0], length) for name in CREDITS}
            signals.append(frame[["subject", "response", "t"]].assign(**names, **credits))
    return pd.concat(values, ignore_index=True), pd.concat(signals, ignore_index=True)


def write_study(root: Path, name: str) -> None:
    """The three files of a study, with the scores that its stage would make."""
    values, signals = study_tables()
    settings = StudySettings(samples=8)
    scores = {subject: scores_of(values, signals, subject, settings, 0) for subject in ("warm", "grpo-100")}
    write_table(root / f"{name}.parquet", values)
    write_table(root / f"{name}_signals.parquet", signals)
    write_json(root / f"{name}.json", {"settings": asdict(settings), "subjects": {}, "scores": scores})


def write_results(root: Path) -> Path:
    """Fill `root` with every result file that figures/ reads."""
    generator = np.random.default_rng(0)
    write_json(
        root / "model.json",
        {"spec": "synthetic", "sha256": "0" * 64, "architecture": "None", "parameters": 0, "layers": 4, "heads": 8,
         "kv_heads": 4, "dtype": "float32"},
    )  # fmt: skip
    tokens = pd.concat([response_tokens(f"p{i}", generator) for i in range(6)], ignore_index=True)
    write_table(root / "tokens.parquet", tokens)
    gamma = np.where(tokens["fai_peak"], 1.5, 1.0)
    write_table(root / "token_credit.parquet", tokens[["response", "t", "waad", "fai"]].assign(gamma=gamma))
    write_table(
        root / "credit_sensitivity.csv",
        pd.DataFrame(
            {"choice": number, "name": name, "value": value, "response": f"p{i}", "stays": stays, "default": 10.0,
             "credited": 20, "extra": 10.0, "tokens": 50}
            for number, (name, value, stays) in enumerate(
                (("default", "", 10.0), ("layers", "all", 6.0), ("alpha", 0.25, 9.0), ("strategy", "random", 4.0))
            )
            for i in range(6)
        ),
    )  # fmt: skip
    write_jsonl(
        root / "responses.jsonl",
        (
            {"id": f"p{i}-{kind}", "problem_id": f"p{i}", "kind": kind, "question": "How many clips <b>in all</b>?",
             "prompt": "Question: ...", "text": TEXT, "response_ids": [1, 2, 3], "finish_reason": "stop",
             "correct": i % 2 == 0, "extracted": "72", "answer": "72"}
            for i in range(6) for kind in ("sampled", "greedy")
        ),
    )  # fmt: skip
    write_npz(
        root / "maps.npz",
        **{"local": attention_map(90, 2.0, 0.0, generator), "global": attention_map(90, 200.0, 2.5, generator)},
        start=0, response="p1",
    )  # fmt: skip
    write_json(
        root / "couplings.json",
        {"settings": {"peak": "prominence", "row": "token"}, "n_problems": 6, "n_tokens": len(tokens),
         "statistics": coupling_rows()},
    )  # fmt: skip
    write_table(root / "sensitivity.csv", pd.DataFrame(sensitivity_rows()))
    write_table(
        root / "peak_overlap.csv",
        pd.DataFrame(
            {"response": f"p{i}", "pair": pair, "exact": 20.0 + 10 * i, "previous": 5.0, "next": 10.0, "peaks": 25}
            for i in range(6) for pair in PAIRS
        ),
    )  # fmt: skip
    write_table(root / "controls.csv", controlled(tokens, resamples=50, seed=0))
    write_jsonl(root / "perturbation.jsonl", perturbation_rows(generator))
    write_json(root / "perturbation.json", perturbation_summary())
    write_json(root / "evaluation.json", evaluation())
    write_json(root / "training.json", experiment_results())
    write_table(root / "training_curves.parquet", training_rows())
    write_study(root, "policy_values")
    return root


@pytest.fixture(scope="session")
def results_root(tmp_path_factory) -> Path:
    """results/synthetic with every input file and no output yet."""
    return write_results(tmp_path_factory.mktemp("results") / "synthetic")


@pytest.fixture
def make_run():
    """A Run over a results folder."""
    return lambda root: Run(root, "synthetic")


@pytest.fixture
def experiment():
    """`experiment(3)`: training.json of so many seeds."""
    return experiment_results


@pytest.fixture
def training_curves():
    return training_rows()
