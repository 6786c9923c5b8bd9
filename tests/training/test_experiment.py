"""The embedded experiment: settings, runs that are kept or done again, and the summary over seeds, by hand."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest

from attention_rhythm.errors import UsageError
from attention_rhythm.files import read_json, read_jsonl, write_json
from attention_rhythm.models import load_model
from evaluation.settings import Run
from pipeline.cli import load_profile
from training import experiment
from training import run as training_run
from training.experiment import (
    find_run,
    load_toml,
    make_config,
    mean_and_interval,
    passes_of,
    summarise,
    variants_of,
    with_passes_of,
    without_passes,
)

RECIPE = {
    "credit": {"quantile": 0.3},
    "signals": {"horizon": [4, 40]},
    "optim": {"lr": 1e-3, "betas": [0.9, 0.95]},
    "loop": {"prompts_per_step": 4, "samples_per_prompt": 2, "gradient_steps": 2},
}


def test_a_variant_changes_the_recipe_where_it_says_so():
    changes = {"credit": {"strategy": "local_chunk"}, "signals": {"horizon": [0, "end"], "head_fraction": "all"}}
    config = make_config(RECIPE, changes, steps=7, seed=3)
    assert (config.credit.strategy, config.credit.quantile) == ("local_chunk", 0.3)
    assert (config.signals.horizon, config.signals.head_fraction) == ((0, None), None)
    assert (config.optim.lr, config.optim.betas, config.steps, config.seed) == (1e-3, (0.9, 0.95), 7, 3)
    assert make_config(RECIPE, {}, steps=1, seed=0).signals.horizon == (4, 40)


def test_the_size_of_a_pass_can_be_set_in_place_of_the_recipes():
    before = make_config(RECIPE, {}, steps=1, seed=0)
    after = make_config(with_passes_of(RECIPE, 8), {}, steps=1, seed=0)
    assert (after.optim.micro_batch, after.forward_batch) == (8, 8)
    optim = dataclasses.replace(after.optim, micro_batch=before.optim.micro_batch)
    assert dataclasses.replace(after, optim=optim, forward_batch=before.forward_batch) == before


def test_variants_that_are_not_in_the_file_are_wrong_usage():
    with pytest.raises(UsageError, match="table6"):
        variants_of(["strategies", "table6"])


def test_every_group_is_named_once_and_makes_a_config():
    groups = load_toml("variants")
    names = [name for group in groups.values() for name in group]
    assert len(names) == len(set(names)) == 27
    assert list(groups["strategies"]) == [
        "grpo", "random", "entropy", "local_chunk", "global_anchor", "coupled_rhythm"
    ]  # fmt: skip
    for changes in variants_of(groups).values():
        make_config(load_toml("countdown"), changes, steps=1, seed=0)


def test_no_two_variants_are_the_same_run():
    recipe = load_toml("countdown")
    configs = [make_config(recipe, changes, steps=1, seed=0) for changes in variants_of(load_toml("variants")).values()]
    assert len({json.dumps(dataclasses.asdict(config)) for config in configs}) == len(configs)


def finished(folder, mark):
    write_json(folder / "run.json", {"mark": mark})
    write_json(folder / "final.json", {})
    return folder


PASSES = {"micro_batch": 8}


def test_a_run_is_kept_while_its_settings_are_the_same(tmp_path):
    folder = find_run(tmp_path, "training", "grpo-seed0", "a", PASSES)
    assert folder == tmp_path / "training" / "grpo-seed0"
    assert read_json(folder / "run.json") == {"mark": "a", "passes": PASSES}
    (folder / "metrics.jsonl").touch()
    assert find_run(tmp_path, "training", "grpo-seed0", "a", PASSES) == folder and (folder / "metrics.jsonl").exists()
    assert find_run(tmp_path, "training", "grpo-seed0", "b", PASSES) == folder
    assert not (folder / "metrics.jsonl").exists() and read_json(folder / "run.json")["mark"] == "b"


def test_a_run_that_another_experiment_has_finished_is_not_done_twice(tmp_path):
    other = finished(tmp_path / "training_extended" / "grpo-seed0", "a")
    assert find_run(tmp_path, "ablations", "grpo-seed0", "a", PASSES) == other
    assert find_run(tmp_path, "ablations", "grpo-seed0", "b", PASSES) == tmp_path / "ablations" / "grpo-seed0"
    (other / "final.json").unlink()
    assert find_run(tmp_path, "ablations", "grpo-seed0", "a", PASSES) == tmp_path / "ablations" / "grpo-seed0"


def test_only_a_finished_run_is_kept_when_the_size_of_a_pass_changes(tmp_path):
    """A checkpoint of other passes would be refused by the loop, and the stage could not go on."""
    folder = find_run(tmp_path, "training", "grpo-seed0", "a", PASSES)
    (folder / "metrics.jsonl").touch()
    find_run(tmp_path, "training", "grpo-seed0", "a", {"micro_batch": 4})
    assert not (folder / "metrics.jsonl").exists()
    write_json(folder / "final.json", {})
    find_run(tmp_path, "training", "grpo-seed0", "a", PASSES)
    assert (folder / "final.json").exists()


def test_the_size_of_a_pass_does_not_make_another_run():
    recipe = load_toml("countdown")
    assert without_passes(recipe) == without_passes(with_passes_of(recipe, 8)) != recipe
    assert without_passes(recipe)["optim"]["lr"] == recipe["optim"]["lr"]
    sizes = {"micro_batch": 8, "generation_batch": recipe["loop"]["generation_batch"], "forward_batch": 8}
    assert passes_of(with_passes_of(recipe, 8)) == sizes


# ------------------------------------------------------------------------------------------ summary


def test_mean_and_interval_by_hand():
    result = mean_and_interval(np.array([1.0, 2.0, 3.0]))
    half = 4.302652729911275 * 1 / math.sqrt(3)  # t(0.975, 2) x standard deviation / sqrt(n)
    assert result["mean"] == 2 and result["ci"] == [pytest.approx(2 - half), pytest.approx(2 + half)]
    assert result["p_value"] == pytest.approx(0.07418, abs=1e-4)  # t = 2 sqrt(3), 2 degrees of freedom


def test_one_seed_has_no_interval():
    result = mean_and_interval(np.array([4.0]))
    assert result["mean"] == 4 and math.isnan(result["ci"][0]) and math.isnan(result["p_value"])


def final(variant, seed, accuracy):
    return {"variant": variant, "seed": seed, "sampled": [accuracy, accuracy], "greedy": [1.0, 0.0]}


def test_variants_are_compared_seed_by_seed():
    finals = [final(v, s, a) for v, s, a in [
        ("grpo", 0, 0.30), ("grpo", 1, 0.50), ("random", 0, 0.30), ("random", 1, 0.40),
        ("coupled_rhythm", 0, 0.40), ("coupled_rhythm", 1, 0.60),
    ]]  # fmt: skip
    curves = pd.DataFrame(
        {"variant": f["variant"], "seed": f["seed"], "step": step, "eval_sampled": 0.2, "gamma_coverage": step * 0.4,
         "gamma_mean": 1.2, "seconds_generate": 1.0, "seconds_update": 2.0, "seconds_evaluate": 50.0}
        for f in finals for step in (0, 1)
    )  # fmt: skip
    grpo, _, coupled = summarise(finals, curves)
    assert grpo["accuracy"]["mean"] == pytest.approx(40) and grpo["against"].keys() == {"random"}
    assert coupled["gain"]["mean"] == pytest.approx(30)
    assert coupled["against"]["grpo"]["mean"] == pytest.approx(10)  # 10 points at both seeds
    assert coupled["against"]["random"]["mean"] == pytest.approx(15) and coupled["against"]["random"]["seeds"] == 2
    assert coupled["greedy"]["mean"] == 50
    assert coupled["gamma_coverage"] == pytest.approx(0.4) and coupled["seconds_per_step"] == 3


# ---------------------------------------------------------------------------------------- the stage


@pytest.mark.slow
def test_two_strategies_train_and_are_summarised(tmp_path, monkeypatch):
    """The real policy for two steps; a second call finds everything done, and a killed one goes on."""
    profile = load_profile("smoke")
    settings = {**profile["training"], "steps": 2, "seeds": [0], "held_out": 16, "samples": 1, "workers": 2}
    monkeypatch.setattr(
        experiment, "variants_of",
        lambda groups: {n: {"credit": {"strategy": s}} for n, s in (("grpo", "uniform"), ("random", "random"))},
    )  # fmt: skip
    run = Run(tmp_path, "smoke", {**profile, "training": settings}, 0, "unused")
    experiment.stage(run)
    result = read_json(run.path("training.json"))
    assert [r["variant"] for r in result["results"]] == ["grpo", "random"]
    curves = pd.read_csv(run.path("training.csv"))
    assert len(curves) == 2 * 3
    exact = read_jsonl(run.path("training", "random-seed0", "metrics.jsonl"))[-1]["entropy"]
    assert curves["entropy"].iloc[-1] == float(f"{exact:.6g}") != exact
    steps = curves[curves["step"] > 0]
    assert (steps[steps["variant"] == "grpo"]["gamma_coverage"] == 0).all()
    assert ((steps[steps["variant"] == "random"]["gamma_coverage"] - 0.4).abs() < 0.03).all()
    before = run.path("training.json").read_bytes()
    monkeypatch.setattr(experiment, "one_run", None)  # would fail if anything were left to do
    experiment.stage(run)
    assert run.path("training.json").read_bytes() == before


# ------------------------------------------------------------------------------------- any other model


def test_any_model_trains_on_any_task(tiny_model_folder, tmp_path, capsys):
    """The command line, on a model with random weights: two steps, resumed after one, saved as an ordinary folder."""
    arguments = [
        "--model", tiny_model_folder, "--task", "countdown", "--strategy", "coupled_rhythm", "--out", str(tmp_path),
        "--prompts", "2", "--samples", "2", "--gradient-steps", "2", "--max-new-tokens", "12", "--horizon", "1", "4",
        "--held-out", "2", "--device", "cpu", "--lr", "1e-4",
    ]  # fmt: skip
    assert training_run.main([*arguments, "--steps", "1"]) == 0
    assert training_run.main([*arguments, "--steps", "2"]) == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2]
    assert all(0 < record["gamma_coverage"] < 1 for record in records[1:])
    load_model(str(tmp_path / "model"))
    assert "held-out accuracy 0.000 -> 0.000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [(["--quantile", "2"], 2, "quantile"), (["--task", "sudoku"], 1, "unknown task"), (["--model", "x"], 2, "neither")],
)
def test_wrong_usage_of_the_command_line(tiny_model_folder, tmp_path, capsys, change, status, message):
    arguments = ["--model", tiny_model_folder, "--out", str(tmp_path), *change]
    try:
        assert training_run.main(arguments) == status
    except SystemExit as stop:
        assert stop.code == status
    assert message in capsys.readouterr().err
