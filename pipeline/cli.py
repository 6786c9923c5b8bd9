"""The command line that runs the stages (pipeline/stages.py), which turn a model into the paper's tables and figures.

    ./reproduce.sh [PROFILE] [--stage NAME] [--dry-run] [--model ID_OR_PATH]
    ./reproduce.sh report [PROFILE] [--dry-run]

A stage whose results are there, and would be made the same way, is skipped; a run that was killed goes on where it was
when the same command is given again. `--help` and `--dry-run` need nothing but the standard library.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from attention_rhythm.commands import run_command
from attention_rhythm.errors import ReproError
from attention_rhythm.files import shown
from pipeline.profiles import names
from pipeline.running import make_job, print_plan, run_all
from pipeline.stages import STAGES

# ---------------------------------------------------------------------------------------- command line


def make_parser() -> argparse.ArgumentParser:
    """Of `./reproduce.sh [PROFILE]`."""
    stages = "\n".join(
        f"  {stage.name}: {stage.help}\n"
        f"    reads   {', '.join(stage.reads) or '-'}\n    writes  {', '.join(stage.writes)}\n"
        "    minutes " + ", ".join(f"{profile} {minutes:g}" for profile, minutes in stage.minutes.items())
        for stage in STAGES
    )
    parser = argparse.ArgumentParser(
        prog="./reproduce.sh",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Make the tables and figures: results/PROFILE/. Sets up .venv on first use.\n"
        "Also: ./reproduce.sh report [PROFILE] (results/PROFILE/report.html, from the results that are there);\n"
        "./reproduce.sh test [engines|verl] [pytest arguments];\n"
        "./reproduce.sh setup-engines (vLLM, Megatron-core for a CPU, in .venv-engines, 4 GB);\n"
        "./reproduce.sh setup-verl (verl for a CPU, in .venv-verl, 2 GB);\n"
        "./reproduce.sh gpu-check (one GPU, with the active python; installs nothing, under nine minutes)",
        epilog="stages, in order (minutes: smoke and cpu on two cores; gpu and paper are estimates):\n"
        f"{stages}\n\n"
        "environment: DATA_DIR (folder of benchmark .jsonl files), MODEL_DIR (folder of models, by their names),\n"
        "             HF_HUB_OFFLINE=1 (never ask the hub),\n"
        "             REPRO_DEBUG=1 (a full traceback on errors)\n"
        "exit status: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted",
    )
    add_common(parser)
    parser.add_argument(
        "--stage",
        metavar="NAME",
        choices=[stage.name for stage in STAGES],
        help="only this stage, after what it needs of earlier ones",
    )
    parser.add_argument("--extended", action="store_true", help="with --stage training: more seeds, hours")
    return parser


def make_report_parser() -> argparse.ArgumentParser:
    """Of `./reproduce.sh report [PROFILE]`."""
    parser = argparse.ArgumentParser(
        prog="./reproduce.sh report",
        description="Write results/PROFILE/report.html: tables, figures, training curves and tokens on one page that "
        "opens offline. It is made from the results that are there and runs no stage.",
    )
    add_common(parser)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that both have."""
    profiles = ", ".join(names())
    parser.add_argument("profile", nargs="?", default="cpu", metavar="PROFILE", help=f"{profiles} (default: cpu)")
    parser.add_argument(
        "--model",
        metavar="ID_OR_PATH",
        help="a folder or a hub id, instead of the profile's model; results go to results/PROFILE-MODEL/",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would run and why, change nothing")
    parser.add_argument("--no-venv", action="store_true", help="use the python that is active instead of .venv")


def write_report(options: argparse.Namespace) -> None:
    """Write report.html, or say that it would be written. ReproError: there are no results yet."""
    job = make_job(options.profile, options.model)
    run = job.run
    if not (run.root / "model.json").is_file():
        raise ReproError(f"no results in {shown(run.root)}/ yet: ./reproduce.sh {run.profile} makes them")
    page = run.root / "report.html"
    if options.dry_run:
        print(f"would write {shown(page)}")
        return
    importlib.import_module("figures.report").write(run, page, set(job.profile.tables))
    print(f"{shown(page)}: {page.stat().st_size / 2**20:.1f} MB, opens in any browser, offline")


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 done, 1 failed, 2 wrong usage (argparse exits with it too), 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    report = arguments[:1] == ["report"]
    if report:
        options = make_report_parser().parse_args(arguments[1:])
    else:
        options = (parser := make_parser()).parse_args(arguments)
        if options.extended and options.stage != "training":
            parser.error("--extended goes with --stage training")

    def work() -> None:
        """The report, or the stages."""
        if report:
            write_report(options)
        else:
            job = make_job(options.profile, options.model)
            stage = "training_extended" if options.extended else options.stage
            (print_plan if options.dry_run else run_all)(job, stage)

    return run_command(work, after_interrupt="what is finished is kept: the same command goes on from there")


if __name__ == "__main__":
    sys.exit(main())
