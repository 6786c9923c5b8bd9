"""Every shipped configuration composes and passes verl's own validation; what cannot be right is refused."""

from pathlib import Path

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf

from attention_rhythm.errors import ReproError
from attention_rhythm.integrations.verl.launch import compose, main, shipped
from attention_rhythm.integrations.verl.plan import SHAPES, job_of
from attention_rhythm.integrations.verl.settings import RhythmConfig, RhythmConfigError
from training.cluster import train


@pytest.mark.parametrize("overrides", shipped(), ids=" ".join)
def test_every_configuration_composes_and_is_the_papers(overrides):
    config = compose(overrides)
    task, scale, parallel = (override.partition("=")[2] for override in overrides)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert actor.strategy == parallel
    assert config.algorithm.adv_estimator == "grpo"
    assert config.data.train_batch_size * rollout.n == 512
    assert config.data.train_batch_size / actor.ppo_mini_batch_size == 16  # gradient steps
    assert actor.ppo_mini_batch_size * rollout.n == 32
    assert actor.optim.lr == 1e-6 and rollout.temperature == 1.0
    assert not actor.use_kl_loss and actor.entropy_coeff == 0 and not config.algorithm.use_kl_in_reward
    assert config.trainer.nnodes * config.trainer.n_gpus_per_node == (16 if "8b" in scale else 8)
    assert config.data.max_response_length == (8192 if scale.endswith("8k") else 1024)
    assert config.trainer.total_training_steps == (600 if "8b" in scale else 500)
    assert config.trainer.experiment_name == f"{task}-{scale}-coupled_rhythm"
    assert job_of(config).shape is SHAPES[config.actor_rollout_ref.model.path]


def test_the_defaults_written_out_are_those_of_the_dataclasses():
    table = OmegaConf.to_container(compose([]).algorithm.rhythm)
    assert RhythmConfig.parse(table) == RhythmConfig()


@pytest.mark.parametrize(
    "override",
    [
        *(f"algorithm.rhythm.strategy={s}" for s in ("uniform", "random", "entropy", "local_chunk", "global_anchor")),
        "algorithm.rhythm.select=bottom",
        "algorithm.rhythm.quantile=0.2",
        "algorithm.rhythm.sign=positive",
        "algorithm.rhythm.signals.layers=all",
        "algorithm.rhythm.signals.head_fraction=null",
        "algorithm.rhythm.signals.window=20",
        "algorithm.rhythm.signals.horizon=[10,null]",
        "algorithm.rhythm.attn=separate",
    ],
)
def test_strategies_and_ablations_are_overrides_of_one_line(override):
    assert compose([override]) != compose([])


@pytest.mark.parametrize(
    "overrides, named",
    [
        (["actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"], "ulysses_sequence_parallel_size=1"),
        (["actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size=4"], "ulysses_sequence_parallel_size=1"),
        (["parallel=megatron", "algorithm.rhythm.attn=fused"], "algorithm.rhythm.attn=exported"),
        (["actor_rollout_ref.rollout.multi_turn.enable=true"], "multi_turn.enable=False"),
        (["algorithm.rollout_correction.bypass_mode=true"], "algorithm.rhythm.attn=separate"),
        (
            ["algorithm.rollout_correction.bypass_mode=true", "algorithm.rhythm.strategy=entropy"],
            "bypass_mode=False",
        ),
        (["actor_rollout_ref.actor.use_prefix_grouper=true"], "use_prefix_grouper=False"),
        (["+algorithm.rhythm.stratgy=uniform"], "stratgy"),
        (["task=chess"], "chess"),
        (["actor_rollout_ref.actor.loss_agg_mode=median"], "loss_agg_mode"),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_setting_to_change(overrides, named):
    with pytest.raises(RhythmConfigError, match=named):
        compose(overrides)


def test_plain_grpo_may_have_what_signals_may_not():
    compose(["algorithm.rhythm.strategy=uniform", "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"])
    compose(["algorithm.rhythm.strategy=random", "parallel=megatron", "algorithm.rhythm.attn=fused"])


def test_a_dry_run_prints_the_plan(capsys):
    assert main(["--dry-run", "scale=qwen3_8b_1k"]) == 0
    printed = capsys.readouterr().out
    assert "GPUs of 80 GB | 16" in printed and "dollars" in printed


def test_missing_data_ends_in_the_command_that_makes_it(capsys):
    assert not Path("data/dapo_math").exists()
    assert main(["task=maths"]) == 1
    assert (
        "python -m attention_rhythm.integrations.verl.data --task dapo_math --out data/dapo_math"
        in capsys.readouterr().err
    )


def test_the_stage_does_each_run_once_and_keeps_its_last_validation(tmp_path, monkeypatch):
    from attention_rhythm.files import read_json
    from evaluation.settings import Run
    from training import cluster
    from training.settings import ClusterSettings

    settings = ClusterSettings(("task=maths scale=qwen3_4b_8k",), ("uniform", "global_anchor"))
    run, asked = Run(tmp_path), []

    def trained(folder, overrides):
        if asked == ["maths-qwen3_4b_8k-uniform"]:
            asked.append(folder.name)
            raise KeyboardInterrupt
        asked.append(folder.name)
        return {"step": 500, "val-core/math500/acc/mean@1": 0.5}

    monkeypatch.setattr(cluster, "train", trained)
    with pytest.raises(KeyboardInterrupt):
        cluster.stage(run, settings)
    cluster.stage(run, settings)
    names = ["maths-qwen3_4b_8k-uniform", "maths-qwen3_4b_8k-global_anchor"]
    assert asked == [names[0], names[1], names[1]]
    assert [r["step"] for r in read_json(tmp_path / "cluster.json")["results"]] == [500, 500]


def test_a_run_that_verl_ends_is_reported_by_name(tmp_path):
    with pytest.raises(ReproError, match="broken: verl ended with status 1"):
        train(tmp_path / "broken", ["task=chess"])
