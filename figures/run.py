"""Stage `figures`: every figure and table whose result files are there; an error that names the files which are not."""

from __future__ import annotations

from collections.abc import Callable

from attention_rhythm.errors import ReproError
from attention_rhythm.files import write_text
from evaluation.settings import Run
from figures import (  # each registers what it makes
    fig2_attention,  # noqa: F401
    fig3_perturbation,
    fig9_tokens,  # noqa: F401
    fig_accuracy,  # noqa: F401
    fig_credit,  # noqa: F401
    fig_power,  # noqa: F401
    fig_sensitivity,  # noqa: F401
    fig_summary,  # noqa: F401
    fig_token_values,  # noqa: F401
    fig_training,  # noqa: F401
    fig_value_paths,  # noqa: F401
    style,
    table1_perturbation,  # noqa: F401
    table2_couplings,  # noqa: F401
    table3_puzzles,  # noqa: F401
    table4_math,  # noqa: F401
    table6_families,  # noqa: F401
    table10_layers,  # noqa: F401
    table20_overlap,  # noqa: F401
    table_controls,  # noqa: F401
    table_correctness,  # noqa: F401
    table_credit_sensitivity,  # noqa: F401
    table_knockout,  # noqa: F401
    table_power,  # noqa: F401
    table_sensitivity,  # noqa: F401
    table_summary,  # noqa: F401
    table_token_kinds,  # noqa: F401
    table_token_mechanisms,  # noqa: F401
    table_token_values,  # noqa: F401
    table_training,  # noqa: F401
    tables,
    token_view,
)
from figures.inputs import MissingResult, Results
from figures.registry import ENTRIES


def run(run: Run) -> None:
    """Write figures/*.{png,pdf}, tables/*.{md,csv,tex} and token_heatmap.html below `run.root`."""
    data = Results(run.root, run.seed)
    missing: dict[str, MissingResult] = {}

    def attempt(name: str, make: Callable[[], object]) -> None:
        """Make it, or remember which result it lacks."""
        try:
            make()
        except MissingResult as error:
            missing[name] = error

    for entry in ENTRIES.values():
        if entry.experiment and not data.has(entry.experiment):
            continue
        if entry.kind == "figure":
            attempt(entry.name, lambda e=entry: style.save(e.of(data), run.path("figures", e.name)))
        else:
            attempt(entry.name, lambda e=entry: tables.write(e.of(data), run.path("tables", e.name)))
    attempt("fig3_example", lambda: write_text(run.path("tables", "fig3_example.md"), _example(data)))
    page = run.path("token_heatmap.html")
    attempt(page.name, lambda: write_text(page, token_view.page(data.credited_tokens, data.responses, data.model)))
    if missing:
        files = {error.path: error.stage for error in missing.values()}
        lacks = "; ".join(f"{path} (stage '{stage}' writes it)" for path, stage in files.items())
        raise ReproError(f"not made, for want of a result file: {', '.join(missing)}. Missing: {lacks}")


def _example(data: Results) -> str:
    questions = data.responses.drop_duplicates("problem_id").set_index("problem_id")["question"].to_dict()
    return fig3_perturbation.markdown(data.perturbations, data.perturbation, questions)
