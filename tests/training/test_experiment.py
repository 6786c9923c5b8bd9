"""The embedded experiment: settings, runs that are kept or done again, and the summary over seeds, by hand."""

import dataclasses
import json
import re

import pandas as pd
import pytest

from attention_rhythm.errors import UsageError
from attention_rhythm.files import read_json, write_json, write_jsonl
from attention_rhythm.models import load_model
from evaluation.settings import Run
from pipeline.profiles import load_profile
from training import experiment, runs
from training import run as training_run
from training.experiment import load_toml, make_config, summarise, variants_of, with_passes_of, without_passes
from training.loop import TrainConfig
from training.runs import PlannedRun, do_and_keep, finished_runs, passes_of, settings_of

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
    assert len(names) == len(set(names)) == 49
    assert list(groups["strategies"]) == [
        "grpo", "random", "entropy", "local_chunk", "global_anchor", "coupled_rhythm"
    ]  # fmt: skip
    for changes in variants_of(groups).values():
        make_config(load_toml("countdown"), changes, steps=1, seed=0)


def test_no_two_variants_are_the_same_run():
    recipe = load_toml("countdown")
    configs = [make_config(recipe, changes, steps=1, seed=0) for changes in variants_of(load_toml("variants")).values()]
    assert len({json.dumps(dataclasses.asdict(config)) for config in configs}) == len(configs)


@pytest.fixture
def trainer(monkeypatch):
    """Runs that cost nothing: what a run writes, with numbers that tell it; `done` lists those that were asked for."""
    done = []

    def run_all(policy, configs, workers, held_out, samples):
        for folder, config in configs.items():
            done.append(folder.name.rpartition("-")[0])
            metrics = [{"step": 0, "eval_sampled": 0.25, "seconds_evaluate": 1.0}]
            metrics += [{"step": 1, "entropy": 1 / 3, "seconds_update": 2.04}]
            write_jsonl(folder / "metrics.jsonl", metrics)
            right = [config.seed / 4] * held_out
            about = {"started": "2026-01-02T03:04:05+00:00", "passes": passes_of(config), "git": {"commit": "abc"}}
            about["settings"] = settings_of(config)
            write_json(folder / "final.json", {"sampled": right, "greedy": [True] * held_out, **about})

    monkeypatch.setattr(runs, "run_all", run_all)
    return done


def planned(*marks, **changes):
    config = TrainConfig(steps=1, **changes)
    return [PlannedRun(f"v{mark}", 1, mark, dataclasses.replace(config, seed=1)) for mark in marks]


def keep(root, experiment, wanted):
    return do_and_keep(root, experiment, "policy", wanted, workers=1, held_out=3, samples=1)


def test_a_finished_run_is_in_three_tables_and_its_folder_is_gone(tmp_path, trainer):
    curves, finals = keep(tmp_path, "training", planned("a", "b"))
    assert trainer == ["va-seed1", "vb-seed1"] and not list((tmp_path / "runs" / "training").iterdir())
    (row, _) = read_json(tmp_path / "training_runs.json")
    assert (row["variant"], row["seed"], row["mark"], row["seconds"]) == ("va", 1, "a", 3.0)
    assert row["git"]["commit"] == "abc" and row["started"].startswith("2026")
    assert row["settings"]["steps"] == 1 and "micro_batch" not in row["settings"]["optim"]
    assert row["passes"] == {"micro_batch": 32, "generation_batch": 512, "forward_batch": 64}
    read = pd.read_parquet(tmp_path / "training_curves.parquet")
    pd.testing.assert_frame_equal(read, curves)
    assert read[read["mark"] == "b"]["entropy"].tolist()[1] == 1 / 3  # every digit
    assert pd.read_parquet(tmp_path / "training_finals.parquet")["sampled"].tolist() == [0.25] * 6
    assert finals.columns.tolist() == ["variant", "seed", "mark", "puzzle", "sampled", "greedy"]


def test_a_run_is_kept_while_its_settings_are_the_same(tmp_path, trainer):
    keep(tmp_path, "training", planned("a", "b"))
    trainer.clear()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("training_*")}
    keep(tmp_path, "training", planned("a", "b"))
    assert trainer == [] and {path.name: path.read_bytes() for path in tmp_path.glob("training_*")} == before
    keep(tmp_path, "training", planned("a", "c"))
    assert trainer == ["vc-seed1"]
    assert finished_runs(tmp_path).keys() == {"a", "c"}


def test_a_run_that_another_experiment_has_finished_is_not_done_twice(tmp_path, trainer):
    keep(tmp_path, "training_extended", planned("a"))
    trainer.clear()
    curves, _ = keep(tmp_path, "ablations", planned("a", "b"))
    assert trainer == ["vb-seed1"] and curves["mark"].unique().tolist() == ["a", "b"]
    first, second = read_json(tmp_path / "ablations_runs.json")
    assert first == {"variant": "va", "seed": 1, "mark": "a", "done_by": "training_extended"}
    assert second["mark"] == "b" and "settings" in second
    assert pd.read_parquet(tmp_path / "ablations_curves.parquet")["mark"].unique().tolist() == ["b"]


def test_an_unfinished_run_in_other_passes_has_a_folder_of_its_own(tmp_path):
    """A checkpoint of other passes would be refused by the loop, and the stage could not go on."""
    folders = {run.folder(tmp_path, "training") for size in (4, 8) for run in planned("a", forward_batch=size)}
    assert len(folders) == 2
    assert len({run.folder(tmp_path, "training") for run in planned("a", "b")}) == 2


def test_what_is_finished_is_in_the_tables_when_the_others_are_interrupted(tmp_path, trainer, monkeypatch):
    done = runs.run_all

    def one_then_ctrl_c(policy, configs, *rest):
        done(policy, dict(list(configs.items())[:1]), *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run_all", one_then_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path, "training", planned("a", "b"))
    assert finished_runs(tmp_path).keys() == {"a"}
    assert [row["mark"] for row in read_json(tmp_path / "training_runs.json")] == ["a"]
    monkeypatch.setattr(runs, "run_all", done)
    trainer.clear()
    keep(tmp_path, "training", planned("a", "b"))
    assert trainer == ["vb-seed1"]


def test_tables_that_a_kill_has_left_in_disagreement_name_no_finished_run(tmp_path, trainer):
    keep(tmp_path, "training", planned("a"))
    before = (tmp_path / "training_runs.json").read_bytes()
    keep(tmp_path, "training", planned("b"))
    (tmp_path / "training_runs.json").write_bytes(before)
    assert finished_runs(tmp_path) == {}


def test_the_size_of_a_pass_does_not_make_another_run():
    recipe = load_toml("countdown")
    assert without_passes(recipe) == without_passes(with_passes_of(recipe, 8)) != recipe
    assert without_passes(recipe)["optim"]["lr"] == recipe["optim"]["lr"]
    sizes = {"micro_batch": 8, "generation_batch": recipe["loop"]["generation_batch"], "forward_batch": 8}
    one, other = (make_config(r, {}, steps=1, seed=0) for r in (recipe, with_passes_of(recipe, 8)))
    assert passes_of(other) == sizes
    assert settings_of(one) == settings_of(other) and settings_of(one)["optim"]["lr"] == recipe["optim"]["lr"]


# ------------------------------------------------------------------------------------------ summary


def final(variant, seed, accuracy):
    return pd.DataFrame({"variant": variant, "seed": seed, "sampled": [accuracy, accuracy], "greedy": [1.0, 0.0]})


def test_variants_are_compared_seed_by_seed():
    runs = [
        ("grpo", 0, 0.30), ("grpo", 1, 0.50), ("random", 0, 0.30), ("random", 1, 0.40),
        ("coupled_rhythm", 0, 0.40), ("coupled_rhythm", 1, 0.60),
    ]  # fmt: skip
    finals = pd.concat([final(*run) for run in runs], ignore_index=True)
    curves = pd.DataFrame(
        {"variant": variant, "seed": seed, "step": step, "eval_sampled": 0.2, "gamma_coverage": step * 0.4,
         "gamma_mean": 1.2, "seconds_generate": 1.0, "seconds_update": 2.0, "seconds_evaluate": 50.0}
        for variant, seed, _ in runs for step in (0, 1)
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
    settings = dataclasses.replace(load_profile("smoke").tables["training"], held_out=16)
    monkeypatch.setattr(
        experiment, "variants_of",
        lambda groups: {n: {"credit": {"strategy": s}} for n, s in (("grpo", "uniform"), ("random", "random"))},
    )  # fmt: skip
    run = Run(tmp_path)
    experiment.stage(run, settings)
    result = read_json(run.path("training.json"))
    assert [r["variant"] for r in result["results"]] == ["grpo", "random"]
    curves = pd.read_parquet(run.path("training_curves.parquet"))
    assert len(curves) == 2 * 3
    steps = curves[curves["step"] > 0]
    assert (steps[steps["variant"] == "grpo"]["gamma_coverage"] == 0).all()
    assert ((steps[steps["variant"] == "random"]["gamma_coverage"] - 0.4).abs() < 0.03).all()
    assert all(row["started"] and row["hardware"]["cores"] for row in read_json(run.path("training_runs.json")))
    before = run.path("training.json").read_bytes()
    monkeypatch.setattr(runs, "one_run", None)  # would fail if anything were left to do
    experiment.stage(run, settings)
    assert run.path("training.json").read_bytes() == before


# ------------------------------------------------------------------------------------- any other model


def test_any_model_trains_on_any_task(tiny_model_folder, tmp_path, capsys):
    """The command line, on a model with random weights: two steps, resumed after one, saved as an ordinary folder."""
    arguments = [
        "--model", tiny_model_folder, "--task", "countdown", "--credit.strategy", "coupled_rhythm",
        "--out", str(tmp_path),
        "--prompts-per-step", "2", "--samples-per-prompt", "2", "--gradient-steps", "2", "--max-new-tokens", "12",
        "--signals.horizon", "1", "4",
        "--held-out", "2", "--device", "cpu", "--optim.lr", "1e-4",
    ]  # fmt: skip
    assert training_run.main([*arguments, "--steps", "1"]) == 0
    assert training_run.main([*arguments, "--steps", "2"]) == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2]
    assert all(0 < record["gamma_coverage"] < 1 for record in records[1:])
    load_model(str(tmp_path / "model"))
    printed = capsys.readouterr().out
    assert "held-out accuracy 0.000 -> 0.000" in printed
    assert (
        "2 steps of 4 responses (2 problems x 2), 2 gradient steps each; at most 48 tokens a step, 96 in all" in printed
    )
    assert re.search(r"memory: at least \d+\.\d GiB", printed) and "time: at most about" in printed


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (["--credit.quantile", "2"], 2, "quantile"),
        (["--task", "sudoku"], 2, "unknown task"),
        (["--model", "x"], 2, "neither"),
    ],
)
def test_wrong_usage_of_the_command_line(tiny_model_folder, tmp_path, capsys, change, status, message):
    arguments = ["--model", tiny_model_folder, "--out", str(tmp_path), *change]
    try:
        assert training_run.main(arguments) == status
    except SystemExit as stop:
        assert stop.code == status
    assert message in capsys.readouterr().err
