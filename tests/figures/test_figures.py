"""Every figure and page on synthetic results: written, the same twice, safe with what a model may write."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from attention_rhythm.errors import ReproError
from figures import fig2_attention, fig3_perturbation, fig9_tokens, fig_sensitivity, paper, style, textflow, token_view
from figures import run as stage
from figures.inputs import MAKERS, MissingResult, Results
from figures.registry import ENTRIES
from pipeline.stages import STAGES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(results_root):
    return Results(results_root)


@pytest.fixture
def finished(results_root, tmp_path, make_run):
    """A copy of the synthetic results with figures and tables made."""
    root = tmp_path / "synthetic"
    shutil.copytree(results_root, root)
    stage.run(make_run(root))
    return root


def test_the_stage_writes_everything(finished):
    kinds = {kind: [e.name for e in ENTRIES.values() if e.kind == kind] for kind in ("figure", "table")}
    absent = {
        e.name
        for e in ENTRIES.values()
        if e.experiment in ("training_extended", "ablations", "token_values", "power", "correctness", "knockout")
    }
    for name in set(kinds["figure"]) - absent:
        with Image.open(finished / f"figures/{name}.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[1] > 1000 and len(np.unique(pixels)) > 20, name
        pdf = (finished / f"figures/{name}.pdf").read_bytes()
        assert pdf.startswith(b"%PDF") and len(pdf) > 10_000, name
        assert b"/FontFile2" in pdf and b"/Type3" not in pdf, f"{name}: fonts must be embedded as TrueType"
        assert b"CreationDate" not in pdf, name
    for name in set(kinds["table"]) - absent:
        for suffix in ("md", "csv", "tex"):
            assert (finished / f"tables/{name}.{suffix}").stat().st_size > 200, name
    assert "How many clips <b>in all</b>?" in (finished / "tables/fig3_example.md").read_text()
    assert (finished / "token_heatmap.html").stat().st_size > 10_000
    assert not list(finished.rglob(".tmp-*"))


def test_the_same_results_give_the_same_bytes(finished, make_run):
    written = [path for folder in ("figures", "tables") for path in sorted((finished / folder).iterdir())]
    before = {path.name: path.read_bytes() for path in [*written, finished / "token_heatmap.html"]}
    stage.run(make_run(finished))
    assert [path.name for path in written if path.read_bytes() != before[path.name]] == []


def test_a_missing_file_names_its_stage_and_the_rest_is_made(results_root, tmp_path, make_run):
    root = tmp_path / "synthetic"
    shutil.copytree(results_root, root)
    (root / "perturbation.json").unlink()
    (root / "maps.npz").unlink()
    with pytest.raises(ReproError) as caught:
        stage.run(make_run(root))
    message = str(caught.value)
    assert (
        "perturbation.json (stage 'perturbation' writes it)" in message
        and "maps.npz (stage 'signals' writes it)" in message
    )
    assert "fig2_attention" in message and "table1_perturbation" in message and "table2_couplings" not in message
    assert "\n" not in message
    assert (root / "tables/table2_couplings.md").exists() and (root / "figures/fig_sensitivity.pdf").exists()
    assert not (root / "figures/fig2_attention.png").exists()


def test_a_missing_table_names_the_figures_stage(results_root):
    with pytest.raises(MissingResult, match=r"table2_couplings.csv is missing: stage 'figures' writes it"):
        Results(results_root).table("table2_couplings")


def test_the_stage_that_is_named_for_a_file_is_the_one_that_writes_it():
    """figures/ may not import the pipeline, so it says for itself which stage writes what."""
    writes = {name: made.name for made in STAGES for name in made.writes}
    assert {name: writes.get(name) for name in MAKERS} == MAKERS
    figures = next(made for made in STAGES if made.name == "figures")
    no_figure_draws = {"ablations_curves.parquet"}
    assert {*figures.reads, *figures.also_reads} == set(MAKERS) - no_figure_draws, "what is read makes the stage stale"


def test_every_module_of_a_figure_or_a_table_is_registered():
    modules = {path.stem for path in (ROOT / "figures").glob("*.py") if path.stem.startswith(("fig", "table"))}
    others = {"tables", "fig_growth", "fig_architectures"}  # how a table is written; figures of no profile's results
    assert modules - others <= set(vars(stage)), "figures/run.py imports what it makes"


def test_no_torch():
    heavy = {"torch", "transformers", "analysis"}
    code = f"import sys, figures.run, pipeline.notebooks; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_paper_yaml_is_whole():
    assert paper.reported()["table1_perturbation"]["pr_top_lt_bottom"] == 87.14
    assert set(paper.reported()["table2_couplings"]) == set(paper.STATISTICS)


def test_strategies_share_the_colour_of_their_signal():
    assert style.STRATEGIES["local_chunk"] == style.SIGNALS["waad"].color
    assert style.STRATEGIES["global_anchor"] == style.SIGNALS["fai"].color
    assert style.STRATEGIES["entropy"] == style.SIGNALS["entropy"].color
    assert len(set(style.STRATEGIES.values())) == len(style.STRATEGIES)


# --- figures with awkward input ------------------------------------------------------------------------------------


def test_odd_tokens_draw_without_missing_glyphs(data):
    tokens = data.tokens.copy()
    first = tokens["response"] == data.maps["response"]
    odd = ["$x$", "\\frac{", "数", "😀", "\ufffd", "\t", "", "\r\n", "a" * 200, "_^$"]
    tokens.loc[tokens[first].index[: len(odd)], "token"] = odd
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fig in (fig2_attention.draw(tokens, data.maps), fig9_tokens.draw(tokens, data.maps["response"])):
            with style.theme():
                fig.canvas.draw()


def test_fig2_window(data):
    shown, cut = fig2_attention.window(data.tokens, data.maps, limit=20)
    assert shown["t"].tolist() == list(range(20)) and cut["local"].shape == (20, 20)
    assert set(shown["response"]) == {"p1"}
    fig = fig2_attention.draw(data.tokens, data.maps, limit=20)
    curves = [ax for ax in fig.axes if ax.get_ylabel().startswith("Entropy")]
    assert [label.get_text() for label in curves[0].get_xticklabels()][:3] == ["To", "find", "how"]
    with pytest.raises(ValueError, match=r"maps\.npz shows 90 tokens of response nobody"):
        fig2_attention.window(data.tokens, {**data.maps, "response": "nobody"}, limit=200)


def test_fig2_in_words(data):
    n = 12
    maps = {**data.maps, "local": np.eye(n), "global": np.tril(np.ones((n, n)))}
    text = fig2_attention.reading(data.tokens, maps)
    # of the 78 entries on or below the diagonal, 10 x 12 - 45 = 75 lie fewer than ten tokens back
    assert (
        f"local heads spend 100% on the token itself and the nine before it, the global heads {100 * 75 / 78:.0f}%"
        in text
    )


def test_fig9_undefined_is_grey_and_unknown_response_is_an_error(data):
    pieces = fig9_tokens._pieces(data.tokens[data.tokens["response"] == "p0"], "fai")
    assert all(piece.faint for piece in pieces[-10:]) and not any(piece.faint for piece in pieces[:-10])
    with pytest.raises(ValueError, match="no response nobody"):
        fig9_tokens.draw(data.tokens, "nobody")


def test_a_signal_that_is_undefined_everywhere_still_draws(data):
    tokens = data.tokens.assign(fai=np.nan, fai_peak=False)
    fig2_attention.draw(tokens, data.maps)
    fig9_tokens.draw(tokens)
    assert '"low":0.0,"high":1.0' in token_view.page(tokens, data.responses, data.model)


def test_text_wraps():
    piece = textflow.Piece
    lines = textflow.wrap([piece("abc"), piece(" de"), piece("f\n"), piece("0123456789")], 7)
    assert [[(column, one.text) for column, one in line] for line in lines] == [
        [(0, "abc"), (3, " de")], [(0, "f↵")], [(0, "0123456")], [(0, "789")]
    ]  # fmt: skip


def test_fig3_means_over_candidates_then_positions():
    rows = pd.DataFrame(
        {"problem": "p", "group": "top", "position": [1, 1, 1, 2, 3], "jaccard": [0.0, 0.5, 1.0, 0.9, np.nan]}
    )
    means = fig3_perturbation.per_problem(rows)
    assert means["jaccard"].tolist() == [pytest.approx(0.7)] and means["n"].tolist() == [2]


def test_fig3_example_is_the_nearest_to_the_mean_and_a_word(data):
    row = fig3_perturbation.example(data.perturbations, data.perturbation, "top")
    words = data.perturbations.query("group == 'top' and kind == 'word'").dropna(subset="jaccard")
    assert row["kind"] == "word" and abs(row["jaccard"] - 0.5) == (words["jaccard"] - 0.5).abs().min()
    none = data.perturbations.assign(jaccard=np.nan)
    assert fig3_perturbation.examples(none, data.perturbation) == {}
    text = fig3_perturbation.markdown(data.perturbations, data.perturbation, {row["problem"]: "has ``` a fence"})
    assert "````text\nhas ``` a fence\n````" in text


def test_fig3_without_a_group_or_an_interval(data):
    groups = {
        "top": {**data.perturbation["groups"]["top"], "ci": [None, None]},
        "bottom": data.perturbation["groups"]["bottom"],
    }
    summary = {**data.perturbation, "groups": groups, "comparisons": data.perturbation["comparisons"][:1]}
    rows = data.perturbations[data.perturbations["group"] != "matched"]
    fig = fig3_perturbation.draw(rows, summary)
    with style.theme():
        fig.canvas.draw()


def test_sensitivity_shows_what_varies(data):
    assert fig_sensitivity.varying(data.sensitivity) == ["peak", "row", "layers"]
    mixed = pd.DataFrame({"peak": ["z", "a", "z", "a"], "row": ["x", "x", "b", "b"]})
    assert fig_sensitivity.ordered(mixed)[["peak", "row"]].agg("".join, axis=1).tolist() == ["zx", "zb", "ax", "ab"]
    fig_sensitivity.draw(data.sensitivity.query("peak == 'quantile' and row == 'token' and layers == 'all'"))


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(data):
    return token_view.page(data.tokens, data.responses, data.model)


def embedded(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def test_page_data_is_the_results(page, data):
    payload = embedded(page)
    rows = data.tokens[data.tokens["response"] == "p0"]
    first = payload["responses"][0]
    assert first["tokens"] == rows["token"].tolist() and "".join(first["tokens"]).startswith("To find how many clips")
    assert first["values"]["fai"][-10:] == [None] * 10
    assert first["values"]["waad"] == [float(f"{value:.3g}") for value in rows["waad"]]
    assert first["peaks"]["entropy"] == np.flatnonzero(rows["entropy_peak"]).tolist()
    assert [signal["key"] for signal in payload["signals"]] == ["waad", "fai", "entropy", "receiver_fai"]
    assert len(payload["responses"]) == 6


def test_page_shows_credit_when_there_is_some(data):
    payload = embedded(token_view.page(data.tokens.assign(gamma=1.0), data.responses, data.model))
    assert [signal["key"] for signal in payload["signals"]][-1] == "gamma"
    assert set(payload["responses"][0]["values"]["gamma"]) == {1.0}


def test_page_holds_model_text_as_data_only(page):
    assert page.count("<script") == 2 and page.count("</script") == 2  # the data and the program
    assert "<b>in all" not in page and "\\u003cb\\u003e" in page
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert unsafe not in page


def test_page_reaches_nothing_outside(page):
    assert not re.search(
        r"https?:|//[a-z]|src=|href=|@import|url\(|fetch\(|XMLHttpRequest", page.split('id="data">')[0]
    )
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(", page.split("</script>")[1])


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--", "\u2028", "&amp;", '"quoted" \\ \n', "@DATA@"]
)
def test_page_keeps_any_text(data, text):
    tokens = data.tokens.copy()
    tokens.loc[0, "token"] = text
    made = token_view.page(tokens, data.responses, data.model)
    assert made.count("</script") == 2 and "<!--" not in made
    assert embedded(made)["responses"][0]["tokens"][0] == text
