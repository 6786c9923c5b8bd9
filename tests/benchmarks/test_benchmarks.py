"""The benchmarks at small sizes: that they run, and what they write. Their numbers mean nothing here."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from attention_rhythm.errors import ReproError
from benchmarks import attention, attention_cuda, growth, perturbation, rl_step
from benchmarks.record import make_claim, report
from benchmarks.worker import Worker, measured

ROOT = Path(__file__).resolve().parents[2]


def run(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """A tiny model of the same type in the place of the one that is measured."""
    from attention_rhythm import models
    from tests.support.models import Letters, build

    model = build("llama").eval()
    monkeypatch.setattr(models, "load_model", lambda *_, **__: (model, Letters()))
    return model


def test_measured_sees_time_and_memory():
    value, cost = measured(lambda: len(bytearray(64 * 2**20)))
    assert value == 64 * 2**20
    assert cost["wall_seconds"] > 0 and 40 < cost["above_mib"] < 100 and cost["above_mib"] < cost["peak_mib"]


def test_a_claim_is_held_where_its_value_is_on_the_right_side_of_its_bound():
    held = [
        make_claim("a", 1.0, "<=", 1.0), make_claim("a", 0.9, ">=", 1.0), make_claim("a", 1.05, "within", [0.9, 1.1]),
        make_claim("a", None, "<=", 1.0), make_claim("a", 1.0, "<=", None),
    ]  # fmt: skip
    assert [claim["held"] for claim in held] == [True, False, True, None, None]


def test_claims_that_are_not_met_are_printed_as_such(tmp_path, capsys):
    claims = [make_claim("fast", 0.7, "<=", 0.65, length=2048), make_claim("unbounded", 3.0, ">=", None)]
    report(tmp_path / "x.json", claims)
    assert capsys.readouterr().out.splitlines()[0] == "fast 2048: 0.7 <= 0.65: NOT held"


def test_a_worker_whose_process_fails_is_an_error():
    with pytest.raises(ReproError, match="ended with status"):
        Worker("broken", "benchmarks.attention", ["--serve", "signals", "--dtypes", "float8"], threads=1)


@pytest.mark.parametrize("name", attention.NAMES)
def test_every_method_of_attention_runs(tiny, name):
    answer, about = attention.prepare(name, "float32")
    cost = answer(64)
    assert about == name and cost["wall_seconds"] > 0 and cost["above_mib"] >= 0
    assert tiny.config._attn_implementation == "sdpa"


def test_attention_can_be_measured_in_parts():
    def rows(dtype, length, value):
        return [{"dtype": dtype, "length": length, "method": name, "value": value} for name in ("signals", "forward")]

    old = rows("float32", 512, 1) + rows("float32", 1024, 1) + rows("bfloat16", 512, 1)
    both = attention.merged(old, rows("float32", 512, 2))
    assert both == rows("float32", 512, 2) + rows("float32", 1024, 1) + rows("bfloat16", 512, 1)


def test_attention_claims_are_ratios_within_a_round():
    rows = [
        {"dtype": "float32", "length": 2048, "method": name, "rounds": rounds, "above_weights_mib": 1.0}
        for name, rounds in {"signals": [6, 60, 7], "forward": [10, 100, 10]}.items()
    ]
    found = {claim["claim"]: claim for claim in attention.claims(rows)}
    assert found["signals_of_forward"]["value"] == 0.6 and found["signals_of_forward"]["held"]
    assert set(found) == {"signals_of_forward", "signals_mib"}  # a method that did not fit claims nothing


def test_what_lies_behind_all_windows_changes_nothing(tiny):
    import torch

    ids = torch.full((1, tiny.config.num_hidden_layers * (attention.WINDOW - 1) + 2), 5)
    other = ids.clone()
    other[0, 0] = 6
    for model, same in ((tiny, False), (attention.with_windows(tiny), True)):
        with torch.no_grad():
            assert torch.equal(model(ids).logits[0, -1], model(other).logits[0, -1]) == same


def test_an_earlier_version_is_a_method_of_its_own():
    rows = [
        {"dtype": "float32", "length": 512, "method": name, "rounds": rounds, "above_weights_mib": 1.0}
        for name, rounds in {"signals": [6, 9], "signals before": [6, 10]}.items()
    ]
    found = {claim["claim"]: claim["value"] for claim in attention.claims(rows)}
    assert found["signals_of_before"] == pytest.approx(0.95)
    assert [row["method"] for row in attention.merged([], rows[::-1])] == ["signals", "signals before"]


def test_eager_attention_is_not_tried_where_it_cannot_fit():
    assert attention.needed_gib("eager", 2048, "float32") < 8 < attention.needed_gib("eager", 8192, "bfloat16")
    assert attention.needed_gib("signals", 10**6, "float32") == 0


def test_both_sides_of_the_perturbation_benchmark_decode_the_same(tiny_model_folder):
    from attention_rhythm.models import load_model

    model, _ = load_model(tiny_model_folder)
    texts = [list(range(2, 32)), list(range(5, 25))]
    chosen = [perturbation.Candidate(r, v, t, n) for r, v, t, n in [(0, 12, 40, 9), (0, 20, 50, 3), (1, 7, 60, 20)]]
    batched, one_by_one = (side(model, texts, chosen, {0}) for side in perturbation.SIDES.values())
    assert batched == one_by_one and all(0 < len(row) <= c.limit for row, c in zip(batched, chosen, strict=True))


def test_a_step_of_our_loop():
    answer, _ = rl_step.ours(32)
    step = answer(None)
    assert set(step["phases"]) == set(rl_step.PHASES) and step["tokens"] > 256 and step["gamma"] > 0
    ours = rl_step.summary([step])
    assert ours["tokens_per_second"] == step["tokens"] / step["wall_seconds"]
    assert ours["signals_seconds"] == step["signals"]


@pytest.mark.parametrize("name", growth.PASSES)
def test_growth_cuts_the_model_and_costs_something(tiny, name):
    answer, _ = growth.prepare(name)
    cost = answer({"length": 64, "batch": 2, "layers": 3})
    assert cost["wall_seconds"] > 0 and cost["above_mib"] >= 0


def synthetic_growth():
    rows = [
        {"pass": name, "axis": axis, axis: value, "wall_seconds": value**1.2, "above_mib": 3.0 * value}
        for name, (axis, (_, values)) in itertools.product(growth.PASSES, growth.SERIES.items())
        for value in values
    ]
    return {"rows": rows, "fits": growth.fits(rows)}


def test_exponents_are_slopes_of_logarithms():
    for fit in synthetic_growth()["fits"]:
        assert fit["exponent"] == pytest.approx({"wall_seconds": 1.2, "above_mib": 1.0}[fit["quantity"]])
    assert growth.exponent([1, 2, 4], [0.0, 1.0, 2.0]) == {"exponent": None, "ci": [None, None]}


def test_the_growth_figure_has_a_panel_for_each_axis_and_quantity():
    from figures import fig_growth

    fig = fig_growth.draw(*fig_growth.frames(synthetic_growth()))
    assert len(fig.axes) == 6
    assert fig.axes[0].get_legend().get_texts()[0].get_text() == "separate pass: 1.20 [1.20, 1.20]"


def test_a_gpu_benchmark_without_a_gpu_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run("attention_cuda")
    assert done.returncode == 1 and "not run" in done.stderr


def test_claims_of_the_gpu_benchmark():
    rows = [
        {"length": n, "method": m, "rounds": [s, s], "above_weights_mib": n / 8}
        for n in (1024, 2048, 4096)
        for m, s in (("logp", 1.0), ("fused", 1.02))
    ]
    rows.append({"length": 4096, "method": "eager", "out_of_memory": True})
    *fused, memory, at_the_end = attention_cuda.claims(rows)
    assert [claim["held"] for claim in fused] == [True] * 3
    assert [memory["value"], at_the_end["value"]] == pytest.approx([1.0, 1.0])
