"""Stage `figures`: every figure and table whose result files are there; an error that names the files which are not."""

from __future__ import annotations

from collections.abc import Callable

from attention_rhythm.errors import ReproError
from attention_rhythm.files import write_text
from evaluation.settings import Run
from figures import (
    fig2_attention,
    fig3_perturbation,
    fig9_tokens,
    fig_accuracy,
    fig_credit,
    fig_sensitivity,
    fig_summary,
    fig_training,
    style,
    table1_perturbation,
    table2_couplings,
    table3_puzzles,
    table4_math,
    table6_families,
    table10_layers,
    table20_overlap,
    table_credit_sensitivity,
    table_sensitivity,
    table_summary,
    table_training,
    tables,
    token_view,
)
from figures.inputs import MissingResult, Results

FIGURES = {
    "fig2_attention": lambda data: fig2_attention.draw(data.tokens, data.maps),
    "fig3_perturbation": lambda data: fig3_perturbation.draw(data.perturbations, data.perturbation),
    "fig9_tokens": lambda data: fig9_tokens.draw(data.tokens, data.maps["response"]),
    "fig_sensitivity": lambda data: fig_sensitivity.draw(data.sensitivity),
    "fig_accuracy": lambda data: fig_accuracy.draw(data.evaluations),
    "fig_summary": lambda data: fig_summary.draw(TABLES["summary"](data, 0).facts),
}
TABLES = {
    "summary": lambda data, seed: table_summary.make(
        data.couplings, data.perturbation, data.evaluations, data.experiments(EXPERIMENTS), data.model, seed
    ),
    "table1_perturbation": lambda data, seed: table1_perturbation.make(data.perturbation, data.model, seed),
    "table2_couplings": lambda data, seed: table2_couplings.make(data.couplings, data.model, seed),
    "table3_puzzles": lambda data, seed: table3_puzzles.make(data.evaluations, data.model),
    "table4_math": lambda data, seed: table4_math.make(data.evaluations, data.model),
    "table6_families": lambda data, seed: table6_families.make(data.evaluations, data.model),
    "table10_layers": lambda data, seed: table10_layers.make(data.couplings, data.model, seed),
    "table20_overlap": lambda data, seed: table20_overlap.make(data.peak_overlap, data.model, seed),
    "table_credit_sensitivity": lambda data, seed: table_credit_sensitivity.make(
        data.credit_sensitivity, data.model, seed
    ),
    "table_sensitivity": lambda data, seed: table_sensitivity.make(data.sensitivity, data.model, seed),
}
# What optional stages have left: experiment -> title of its table.
EXPERIMENTS = {
    "training": "Credit strategies on the embedded Countdown policy (Table 3 in our scale).",
    "training_extended": "Credit strategies on the embedded Countdown policy, extended (Table 3 in our scale).",
    "ablations": "Ablations on the embedded Countdown policy (Tables 5, 7a, 9, 14, 19 in our scale).",
}


def run(run: Run) -> None:
    """Write figures/*.{png,pdf}, tables/*.{md,csv,tex} and token_heatmap.html below `run.root`."""
    data = Results(run.root)
    missing: dict[str, MissingResult] = {}

    def attempt(name: str, make: Callable[[], object]) -> None:
        try:
            make()
        except MissingResult as error:
            missing[name] = error

    for name, draw in FIGURES.items():
        attempt(name, lambda: style.save(draw(data), run.path("figures", name)))  # noqa: B023, called at once
    for name, table in TABLES.items():
        attempt(name, lambda: tables.write(table(data, run.seed), run.path("tables", name)))  # noqa: B023
    attempt("fig3_example", lambda: write_text(run.path("tables", "fig3_example.md"), _example(data)))
    for name, title in EXPERIMENTS.items():
        if data.has(name):
            tables.write(table_training.make(data.experiment(name), title), run.path("tables", name))
            style.save(fig_credit.draw(data.experiment(name)), run.path("figures", f"fig_credit_{name}"))
            if name != "ablations":
                style.save(fig_training.draw(data.curves(name)), run.path("figures", f"fig_{name}"))
    page = run.path("token_heatmap.html")
    attempt(page.name, lambda: write_text(page, token_view.page(data.credited_tokens, data.responses, data.model)))
    if missing:
        files = {error.path: error.stage for error in missing.values()}
        lacks = "; ".join(f"{path} (stage '{stage}' writes it)" for path, stage in files.items())
        raise ReproError(f"not made, for want of a result file: {', '.join(missing)}. Missing: {lacks}")


def _example(data: Results) -> str:
    questions = data.responses.drop_duplicates("problem_id").set_index("problem_id")["question"].to_dict()
    return fig3_perturbation.markdown(data.perturbations, data.perturbation, questions)
