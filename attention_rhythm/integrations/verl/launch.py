"""Compose, check and start a run in verl.

    python -m attention_rhythm.integrations.verl.launch [--dry-run] [KEY=VALUE ...]
    python -m attention_rhythm.integrations.verl.launch --dry-run --all

The configuration is configs/rhythm.yaml with Hydra's overrides: groups (task=maths scale=qwen3_4b_8k parallel=megatron)
and keys (algorithm.rhythm.strategy=global_anchor). It passes verl's own validation and ours before anything starts;
--dry-run stops there and prints what the run will need; with --all, of every configuration that is shipped. What is
started is verl's main_ppo, nothing else: the same arguments work on a cluster,
`python -m verl.trainer.main_ppo --config-path .../configs --config-name rhythm ...`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attention_rhythm.commands import run_command
from attention_rhythm.integrations.verl.data import write
from attention_rhythm.integrations.verl.plan import BEYOND, SHIPPED, plan_of, table
from attention_rhythm.integrations.verl.settings import RhythmConfig, RhythmConfigError, check

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = Path(__file__).parent / "configs"
PLUGIN = "attention_rhythm.integrations.verl.plugin"
HINT = "verl is not installed: ./reproduce.sh setup-verl (CPU) or conda env create -f environment.yml (GPUs)"


def environment(overrides: Sequence[str]) -> dict[str, str]:
    """What verl's processes need in theirs: the plugin, and on a CPU its adapters."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    needed = {"PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": PLUGIN, "TOKENIZERS_PARALLELISM": "false"}
    if "scale=cpu" in overrides:
        needed |= {
            "VERL_PLATFORM": "cpu",
            "VERL_USE_EXTERNAL_MODULES": f"attention_rhythm.integrations.verl.cpu,{PLUGIN}",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # Ray would give way to everything else on the machine
            "RAY_memory_usage_threshold": "0.98",
        }
    return needed


def compose(overrides: Sequence[str]) -> Any:
    """The whole configuration, checked: by Hydra, by verl's validate_config, and by ours.

    Raises:
        RhythmConfigError: one of them refuses it; the message is its own.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base=None):
            config = hydra.compose("rhythm", overrides=list(overrides))
        OmegaConf.resolve(config)
        validate_config(config, need_reference_policy(config), need_critic(config))
    except (HydraException, OmegaConfBaseException, AssertionError, ValueError) as error:
        raise RhythmConfigError(str(error)) from error
    check(config, RhythmConfig.parse(OmegaConf.to_container(config.algorithm.rhythm)))
    return config


def shipped() -> list[list[str]]:
    """The overrides of every configuration for GPUs: each task at each scale, by FSDP2 and by Megatron."""
    groups = {name: sorted(f.stem for f in (CONFIGS / name).glob("*.yaml")) for name in ("task", "scale", "parallel")}
    return [
        [f"{name}={choice}" for name, choice in zip(groups, choices, strict=True)]
        for choices in itertools.product(*groups.values())
        if "cpu" not in choices and "puzzles" not in choices
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 done, 1 refused or failed, 2 wrong usage or no verl."""
    parser = argparse.ArgumentParser(
        prog="python -m attention_rhythm.integrations.verl.launch", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--dry-run", action="store_true", help="check the configuration, print what it will need")
    parser.add_argument("--all", action="store_true", help="with --dry-run: every configuration that is shipped")
    parser.add_argument(
        "--make-data", action="store_true", help="write the parquet files of the task if there are none"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra's, on configs/rhythm.yaml")
    options = parser.parse_args(arguments)
    if options.all and not options.dry_run:
        parser.error("--all goes with --dry-run")
    return run_command(lambda: start(options))


def start(options: argparse.Namespace) -> int:
    """Check, print the plan, and become verl's main_ppo; the exit status where it does not come to that."""
    os.environ.update(environment(options.overrides))
    try:
        import verl  # noqa: F401
    except ImportError:
        print(f"error: {HINT}", file=sys.stderr)
        return 2
    try:
        for chosen in shipped() if options.all else [[]]:
            config = compose([*chosen, *options.overrides])
            if chosen:
                print(f"{' '.join(chosen)}: passes verl's validation and ours")
    except RhythmConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(SHIPPED | BEYOND) if options.all else plan_of(config))
    if options.dry_run:
        return 0
    missing = [name for name in (config.data.train_files, config.data.val_files) if not Path(name).exists()]
    if missing and options.make_data:
        write(Path(missing[0]).parent.name, Path(missing[0]).parent)
    elif missing:
        task = Path(missing[0]).parent
        print(
            f"error: no {missing[0]}: python -m {__package__}.data --task {task.name} --out {task}",
            file=sys.stderr,
        )
        return 1
    command = ["-m", "verl.trainer.main_ppo", "--config-path", str(CONFIGS), "--config-name", "rhythm"]
    if config.trainer.device == "cpu":
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # Ray would take it for the number of its slots
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *command, *options.overrides])


if __name__ == "__main__":
    sys.exit(main())
