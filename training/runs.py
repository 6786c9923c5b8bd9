"""The runs of an experiment: under way in folders, finished in three tables that git holds.

    runs/NAME/VARIANT-seedS-HASH/   a run under way, resumable: metrics.jsonl, checkpoints/; final.json ends it
    NAME_runs.json                  a row a run: settings, commit, versions, hardware, date
    NAME_curves.parquet             a row a run and step: every measure of metrics.jsonl
    NAME_finals.parquet             a row a run and held-out puzzle: share of right samples, greedy right or not

A run's `mark` is the hash of what decides its numbers. A finished run is found by it in the tables of any experiment of
the profile, and is not done twice. The folders of finished runs are removed once they are in the tables.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from attention_rhythm.errors import ReproError
from attention_rhythm.files import read_json, read_jsonl, sha256_of, write_json, write_table
from attention_rhythm.generation.base import Generator
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.models import load_model
from attention_rhythm.provenance import environment
from attention_rhythm.tasks.prompts import build_prompt_ids
from attention_rhythm.tasks.puzzles import load_puzzles
from training import checkpoint
from training.countdown.arms import shapes_of
from training.loop import train
from training.measuring import correct, sampled_accuracy
from training.probes import PROBES, make_probes, probe_statistics
from training.recipes import PuzzleConfig

PASSES = {"optim": ("micro_batch",), "": ("generation_batch", "forward_batch")}  # memory, speed, rounding: no result
OF_A_RUN = ("variant", "seed", "mark")  # columns of every table


@dataclass(frozen=True)
class PlannedRun:
    """A variant with a seed."""

    variant: str
    seed: int
    mark: str
    config: PuzzleConfig

    def folder(self, root: Path, experiment: str) -> Path:
        """Where it is done; runs that differ in anything, the sizes of passes included, have folders of their own."""
        name = f"{self.variant}-seed{self.seed}-{sha256_of([self.mark, passes_of(self.config)])[:8]}"
        return root / "runs" / experiment / name


@dataclass(frozen=True)
class FinishedRun:
    """What is kept of a run, by the experiment that did it: its row of NAME_runs.json, and its rows of the two other
    tables without OF_A_RUN."""

    experiment: str
    about: dict[str, Any]
    curve: pd.DataFrame
    final: pd.DataFrame


def passes_of(config: PuzzleConfig) -> dict[str, int]:
    """The sizes of passes: how much is done at once."""
    sizes = {name: getattr(config.optim, name) for name in PASSES["optim"]}
    return sizes | {name: getattr(config, name) for name in PASSES[""]}


def settings_of(config: PuzzleConfig) -> dict[str, Any]:
    """All settings of a run but the sizes of its passes."""
    settings = asdict(config)
    for table, names in PASSES.items():
        for name in names:
            (settings[table] if table else settings).pop(name)
    return settings


# --------------------------------------------------------------------------------------------- doing


def is_finished(folder: Path) -> bool:
    """Whether a run has been trained and measured."""
    return (folder / "final.json").exists()


def one_run(folder: Path, policy: str, config: PuzzleConfig, held_out: int, samples: int) -> None:
    """Train one variant with one seed, then measure it on held-out puzzles: final.json. Goes on where it was killed."""
    if is_finished(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "started.json").exists():  # a run that goes on began when it was first given
        write_json(folder / "started.json", datetime.now(UTC).isoformat(timespec="seconds"))
    started = read_json(folder / "started.json")
    torch.set_num_threads(1)
    model, tokenizer = load_model(policy)
    test = load_puzzles("test", held_out)
    measure = {"max_new_tokens": config.max_new_tokens, "batch": config.generation_batch}

    prompts = [build_prompt_ids(problem, tokenizer) for problem in test[:PROBES]]
    horizon = config.signals.horizon
    probes = make_probes(model, HFGenerator(model, tokenizer), prompts, config.max_new_tokens, horizon)

    def evaluate(generator: Generator) -> dict[str, float]:
        sampled = float(sampled_accuracy(generator, tokenizer, test, samples=1, **measure).mean())
        return {"sampled": sampled, **probe_statistics(model, probes)}

    train(
        model,
        tokenizer,
        load_puzzles("train"),
        folder=folder,
        prompt=lambda problem: build_prompt_ids(problem, tokenizer),
        reward=correct,
        config=config,
        evaluate=evaluate,
        **shapes_of(config, model, tokenizer),
        resume=True,
    )
    generator = HFGenerator(model, tokenizer)
    final = {
        "sampled": sampled_accuracy(generator, tokenizer, test, samples=samples, **measure).mean(1),
        "greedy": sampled_accuracy(generator, tokenizer, test, samples=0, **measure)[:, 0].astype(float),
    }
    about = {"started": started, "passes": passes_of(config), "settings": settings_of(config), **environment()}
    write_json(folder / "final.json", {**{name: values.tolist() for name, values in final.items()}, **about})


def _be_worker() -> None:
    """A worker must not outlive a killed parent: two processes would write into one run's folder. It draws no bars, and
    leaves Ctrl-C, which a terminal sends to both, to the parent: interrupted itself, it would take up the next run."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    begin = tqdm.__init__
    tqdm.__init__ = lambda self, *args, **options: begin(self, *args, **{**options, "disable": True})


def run_all(policy: str, configs: Mapping[Path, PuzzleConfig], workers: int, held_out: int, samples: int) -> None:
    """Every run that is not finished, `workers` at a time, in the order of `configs`, by folder.

    The bar counts the steps of all runs. A run that fails ends it, once those that are under way have ended; Ctrl-C
    ends it at once, and costs what came after each run's last checkpoint. ReproError if a worker dies.
    """

    def steps_done(unfinished: Callable[[Path], int]) -> int:
        return sum(config.steps if is_finished(folder) else unfinished(folder) for folder, config in configs.items())

    def kept(folder: Path) -> int:
        """Steps of a run that need not be done again: those before its last checkpoint."""
        return checkpoint.latest_step(folder / "checkpoints")

    def logged(folder: Path) -> int:
        """Lines of a run's metrics, of which the first is step 0."""
        metrics = folder / "metrics.jsonl"
        return max(0, metrics.read_bytes().count(b"\n") - 1) if metrics.exists() else 0

    total = sum(config.steps for config in configs.values())
    with (
        tqdm(total=total, initial=steps_done(kept), desc="training", unit="step") as bar,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _be_worker) as pool,
    ):
        todo = {folder: config for folder, config in configs.items() if not is_finished(folder)}
        others = multiprocessing.active_children()
        jobs = [pool.submit(one_run, folder, policy, config, held_out, samples) for folder, config in todo.items()]
        try:
            while jobs:
                ended, pending = wait(jobs, timeout=1, return_when=FIRST_COMPLETED)
                jobs = list(pending)
                for job in ended:
                    job.result()
                bar.set_postfix_str(f"{len(configs) - len(jobs)}/{len(configs)} runs", refresh=False)
                if (done := steps_done(logged)) != bar.n:
                    bar.n = done  # not update(): a run that goes on drops what came after its checkpoint
                    bar.refresh()
        except KeyboardInterrupt:
            for process in set(multiprocessing.active_children()).difference(others):
                process.kill()
            raise
        except BrokenProcessPool as error:
            raise ReproError(
                f"a worker process died, killed or out of memory ({sum(map(is_finished, configs))} of {len(configs)} "
                "runs are finished and kept); the same command goes on from there, fewer workers need less memory"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


# -------------------------------------------------------------------------------------------- keeping


def do_and_keep(
    root: Path, experiment: str, policy: str, planned: Sequence[PlannedRun], workers: int, held_out: int, samples: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Do the runs that no experiment of `root` has, write the three tables of this one; the curves and finals of
    all of them. The tables have what is finished, however this ends: interrupted, they may be committed.

    Raises:
        ReproError: a run failed or its process died; what is finished is kept.
    """
    kept = finished_runs(root)
    folders = {run.folder(root, experiment): run for run in planned if run.mark not in kept}
    try:
        run_all(policy, {folder: run.config for folder, run in folders.items()}, workers, held_out, samples)
    finally:  # also of what ended early
        done = {folder: run for folder, run in folders.items() if is_finished(folder)}
        kept |= {run.mark: read_run(folder, experiment) for folder, run in done.items()}
        finished = [run for run in planned if run.mark in kept]
        own = [run for run in finished if kept[run.mark].experiment == experiment]
        write_table(root / f"{experiment}_curves.parquet", _table(kept, "curve", own))
        write_table(root / f"{experiment}_finals.parquet", _table(kept, "final", own))
        write_json(root / f"{experiment}_runs.json", [row_of(run, kept[run.mark], experiment) for run in finished])
        for folder in done:
            shutil.rmtree(folder)
    return _table(kept, "curve", planned), _table(kept, "final", planned)


def _table(kept: Mapping[str, FinishedRun], part: str, runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """One table of some runs, OF_A_RUN first."""
    rows = [getattr(kept[r.mark], part).assign(variant=r.variant, seed=r.seed, mark=r.mark) for r in runs]
    whole = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=list(OF_A_RUN))
    return whole[[*OF_A_RUN, *(column for column in whole if column not in OF_A_RUN)]]


def row_of(run: PlannedRun, finished: FinishedRun, experiment: str) -> dict[str, Any]:
    """A row of NAME_runs.json; of a run that another experiment has done, only where it is to be found."""
    about = finished.about if finished.experiment == experiment else {"done_by": finished.experiment}
    return {"variant": run.variant, "seed": run.seed, "mark": run.mark, **about}


def read_run(folder: Path, experiment: str) -> FinishedRun:
    """A finished run from its folder."""
    final = read_json(folder / "final.json")
    curve = pd.DataFrame(read_jsonl(folder / "metrics.jsonl"))
    puzzles = {name: [float(value) for value in final.pop(name)] for name in ("sampled", "greedy")}
    seconds = curve.filter(regex="^seconds_").sum().sum()
    about = {**final, "seconds": round(float(seconds), 1)}
    return FinishedRun(experiment, about, curve, pd.DataFrame(puzzles).rename_axis("puzzle").reset_index())


def finished_runs(root: Path) -> dict[str, FinishedRun]:
    """The runs in the tables of all experiments below `root`, by their marks."""
    found: dict[str, FinishedRun] = {}
    for path in sorted(root.glob("*_runs.json")):
        name = path.name.removesuffix("_runs.json")
        curves, finals = (
            dict(list(pd.read_parquet(root / f"{name}_{part}.parquet").groupby("mark")))
            for part in ("curves", "finals")
        )
        for row in read_json(path):
            mark = row["mark"]
            # a kill between the three writes leaves tables that disagree
            if "done_by" not in row and mark in curves and mark in finals:
                about = {key: value for key, value in row.items() if key not in OF_A_RUN}
                curve, final = (
                    part[mark].drop(columns=list(OF_A_RUN)).dropna(axis="columns", how="all").reset_index(drop=True)
                    for part in (curves, finals)
                )
                found[mark] = FinishedRun(name, about, curve, final)
    return found
