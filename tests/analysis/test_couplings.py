"""Counting peaks that meet, on signals small enough to count by hand, and the stage from files to tables."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import couplings, read_signals
from analysis.couplings import Convention, conventions, counts, couple, find_receivers, peak_overlap, read_all
from analysis.settings import CouplingsSettings, SignalsSettings
from attention_rhythm.errors import ReproError
from attention_rhythm.files import write_jsonl, write_npz
from attention_rhythm.signals import dense
from attention_rhythm.signals.heads import head_sets
from evaluation.settings import Run

NAN = float("nan")
T, F = True, False


def signals(waad, fai, receiver, entropy, defined=None):
    n = len(waad)
    fai_values = np.where(np.ones(n, bool) if defined is None else np.array(defined), 1.0, NAN)
    peaks = {"waad_peak": waad, "fai_peak": fai, "receiver_fai_peak": receiver, "entropy_peak": [F] * n}
    return {**{k: np.array(v) for k, v in peaks.items()}, "fai": fai_values, "entropy": np.array(entropy, float)}


EXAMPLE = signals(
    waad=[F, T, F, F, T, F],
    fai=[F, T, F, T, F, T],
    receiver=[F, T, F, F, T, F],
    entropy=[1, 4, 1, 1, 2, NAN],
)


def test_entropy_at_waad_peaks_against_all_tokens():
    assert counts(EXAMPLE)["waad_peak_entropy"] == (4 + 2, 2, 9, 5)


def test_receiver_peaks_that_are_global_peaks_against_the_density_of_global_peaks():
    assert counts(EXAMPLE)["receiver_global_fai_cooccurrence"] == (1, 2, 3, 6)


def test_fai_peaks_at_or_right_after_a_waad_peak_against_chance():
    # at or after: positions 1, 2, 4, 5; FAI peaks at 1 and 5 are among them
    assert counts(EXAMPLE)["fai_follows_or_coincides_waad"] == (2, 3, 4, 6)


def test_positions_without_a_future_are_no_place_for_an_fai_peak():
    example = signals([F, T, F, F], [F, T, F, F], [F] * 4, [1] * 4, defined=[T, T, F, F])
    assert counts(example)["fai_follows_or_coincides_waad"] == (1, 1, 1, 2)


def test_positions_without_a_future_are_no_place_for_a_receiver_peak_either():
    example = signals([F] * 4, [F, T, F, F], [F, T, F, F], [1] * 4, defined=[T, T, F, F])
    assert counts(example)["receiver_global_fai_cooccurrence"] == (1, 1, 1, 2)


def test_a_waad_peak_without_entropy_does_not_count():
    example = signals([T, F, T, F], [F] * 4, [F] * 4, [NAN, 1, 5, 1])  # nothing predicted the first token
    assert counts(example)["waad_peak_entropy"] == (5, 1, 7, 3)


def test_chance_is_the_mean_over_all_placements_of_the_fai_peaks():
    rng = np.random.default_rng(0)
    near = np.array([F, T, T, F, T, T])
    shuffled = [(rng.permutation(EXAMPLE["fai_peak"]) & near).sum() / 3 for _ in range(4000)]
    _, _, top, bottom = counts(EXAMPLE)["fai_follows_or_coincides_waad"]
    assert np.mean(shuffled) == pytest.approx(top / bottom, abs=0.02)


def test_lifts_and_intervals_over_problems():
    result = couple([EXAMPLE] * 8, {"resamples": 200, "seed": 0})
    entropy = result["waad_peak_entropy"]
    assert (entropy["observed"], entropy["random"]) == (pytest.approx(3), pytest.approx(9 / 5))
    assert entropy["lift"] == pytest.approx(100 * (3 / 1.8 - 1))
    assert entropy["lift_ci"] == [pytest.approx(entropy["lift"])] * 2  # equal problems: nothing varies
    assert entropy["p_value"] == pytest.approx(2 / 2**8)
    follow = result["fai_follows_or_coincides_waad"]
    assert (follow["observed"], follow["random"]) == (pytest.approx(200 / 3), pytest.approx(400 / 6))
    assert follow["lift"] == pytest.approx(0) and follow["p_value"] == 1
    assert result["receiver_global_fai_cooccurrence"]["peaks"] == 16


def test_every_peak_and_every_token_counts_the_same_in_whichever_problem_it_is():
    one = signals([T, F], [F, F], [F, F], [5, 1])  # one WAAD peak of entropy 5, and of two tokens
    three = signals([T, T, T, F], [F] * 4, [F] * 4, [1, 1, 1, 1])
    entropy = couple([one, three], {"resamples": 10, "seed": 0})["waad_peak_entropy"]
    assert entropy["observed"] == pytest.approx((5 + 3) / 4)  # the mean of the problems' means would be (5 + 1) / 2
    assert entropy["random"] == pytest.approx((6 + 4) / 6)
    assert entropy["peaks"] == 4


def test_without_peaks_the_result_is_undefined_not_zero():
    nothing = signals([F] * 4, [F] * 4, [F] * 4, [1, 2, 3, 4])
    result = couple([nothing] * 3, {"resamples": 50, "seed": 0})
    for name in couplings.STATISTICS:
        assert math.isnan(result[name]["observed"]) and math.isnan(result[name]["p_value"])


def test_peak_overlap_counts_the_same_place_the_one_before_and_the_one_after():
    example = {**EXAMPLE, "entropy_peak": np.array([T, F, F, F, F, T])}
    table = peak_overlap([{"response": "a"}], [example]).set_index("pair")
    # WAAD peaks at 1 and 4; entropy peaks at 0 (before 1) and 5 (after 4)
    assert table.loc["waad_vs_entropy", ["exact", "previous", "next", "peaks"]].tolist() == [0, 50, 50, 2]
    # FAI peaks at 1, 3, 5; WAAD peaks at 1 and 4
    row = table.loc["global_fai_vs_waad", ["exact", "previous", "next"]].tolist()
    assert row == [pytest.approx(100 / 3), pytest.approx(100 / 3), pytest.approx(100 / 3)]


def test_before_and_after_are_not_the_same():
    # the only WAAD peak is at 2, the only entropy peak right before it
    example = {**signals([F, F, T, F], [F] * 4, [F] * 4, [1] * 4), "entropy_peak": np.array([F, T, F, F])}
    row = peak_overlap([{"response": "a"}], [example]).set_index("pair").loc["waad_vs_entropy"]
    assert row[["exact", "previous", "next"]].tolist() == [0, 100, 0]


def response(seed=0, layers=3, heads=4, n=30):
    rng = np.random.default_rng(seed)
    fai = rng.random((layers, heads, n))
    fai[..., -4:] = NAN
    return {
        "span": rng.random((layers, heads)),
        "waad": rng.random((layers, heads, n + 1)),
        "fai_open": rng.random((layers, heads, n)),
        "fai_band": fai,
        "fai_receiver": fai,
        "entropy": rng.random(n),
        "logprob": -rng.random(n),
        "token_ids": np.arange(n),
        "texts": np.array([str(i) for i in range(n)]),
        "response": np.array(f"problem {seed}"),
    }


def test_signals_are_means_over_the_head_sets_of_each_response():
    one = response()
    convention = Convention(layers="middle", num_layers=None, head_fraction=1 / 8)  # layers 1, 2: one head of eight
    (read,) = read_all([one], convention, np.zeros((3, 4), bool) | (np.arange(4) == 2))
    flat = one["span"][1:].flatten()
    low, high = divmod(int(flat.argmin()), 4), divmod(int(flat.argmax()), 4)
    np.testing.assert_allclose(read["waad"], one["waad"][1 + low[0], low[1], 1:])
    np.testing.assert_allclose(read["fai"], one["fai_open"][1 + high[0], high[1]])
    np.testing.assert_allclose(read["receiver_fai"], one["fai_open"][:, 2].mean(0))


def test_peaks_are_those_of_the_convention():
    heads = np.ones((3, 4), bool)
    peaks = {
        name: read_all([response()], replace(Convention(), **change), heads)[0]["waad_peak"].sum()
        for name, change in {
            "any": {"peak": "local_maximum"},
            "high": {"prominence": 1.5},
            "higher than all": {"prominence": 9.0},
            "a tenth": {"peak": "quantile", "quantile": 0.1},
        }.items()
    }
    assert peaks["any"] > peaks["high"] > peaks["higher than all"] == 0 and peaks["a tenth"] == 3


def test_the_predictor_row_is_the_one_before():
    one = response()
    (own,) = read_all([one], Convention(head_fraction=None), np.ones((3, 4), bool))
    (predictor,) = read_all([one], Convention(head_fraction=None, row="predictor"), np.ones((3, 4), bool))
    np.testing.assert_allclose(predictor["waad"][1:], own["waad"][:-1])
    np.testing.assert_allclose(predictor["waad"][0], one["waad"][..., 0].mean())


def test_frozen_head_sets_are_those_of_the_mean_span():
    many = [response(seed) for seed in range(3)]
    read = read_all(many, Convention(head_scope="frozen", head_fraction=1 / 12), np.ones((3, 4), bool))
    layer, head = np.unravel_index(np.mean([r["span"] for r in many], axis=0).argmin(), (3, 4))
    for one, signal in zip(many, read, strict=True):
        np.testing.assert_allclose(signal["waad"], one["waad"][layer, head, 1:])
    with pytest.raises(ValueError, match="head_scope"):
        read_all(many, Convention(head_scope="batch"), np.ones((3, 4), bool))


def test_receivers_are_the_heads_whose_received_attention_is_concentrated():
    one = response()
    one["fai_receiver"] = np.full((3, 4, 30), 0.01)
    one["fai_receiver"][1, 2, 5] = 1.0
    assert find_receivers([one], 1).nonzero() == (np.array([1]), np.array([2]))


def test_every_convention_of_the_sensitivity_table_differs():
    listed = list(conventions(Convention()))
    assert len(listed) == len(set(listed)) == 3 * 2 * 4 + 8


@pytest.fixture
def run(tmp_path):
    for seed in range(3):
        write_npz(tmp_path / "signals" / f"{seed:04d}.npz", **response(seed))
    return Run(tmp_path)


def test_the_stage_writes_every_table(run):
    couplings.stage(run, CouplingsSettings(bootstrap=20), SignalsSettings())
    result = json.loads(run.path("couplings.json").read_text())
    assert result["n_problems"] == 3 and result["n_tokens"] == 90
    assert {(r["name"], r["layers"]) for r in result["statistics"]} == {
        (name, layers) for name in couplings.STATISTICS for layers in ("all", "top", "middle", "bottom")
    }
    sensitivity = pd.read_csv(run.path("sensitivity.csv"))
    assert len(sensitivity) == 3 * 32
    tokens = pd.read_parquet(run.path("tokens.parquet"))
    assert len(tokens) == 90 and tokens["response"].nunique() == 3
    assert len(pd.read_csv(run.path("peak_overlap.csv"))) == 3 * 4


def test_the_stage_counts_receivers_that_are_global_heads(run):
    couplings.stage(run, CouplingsSettings(bootstrap=20, receiver_heads=12), SignalsSettings())
    settings = json.loads(run.path("couplings.json").read_text())["settings"]
    # all 12 heads are receivers; 0.3 of 12, rounded, are global
    assert (settings["heads"], settings["receivers_that_are_global"]) == (12, 4)


def test_the_token_table_holds_each_signals_own_peaks(run):
    responses = [response(seed) for seed in range(2)]
    read = read_all(responses, Convention(), np.arange(12).reshape(3, 4) == 5)
    table = couplings.token_table(responses, read)
    names = {"waad": "waad_peak", "fai": "fai_peak", "receiver_fai": "receiver_peak", "entropy": "entropy_peak"}
    for signal, column in names.items():
        assert table[column].tolist() == [peak for one in read for peak in one[f"{signal}_peak"].tolist()]
        assert table[signal].tolist() == [value for one in read for value in one[signal].tolist()]


def test_the_overlap_of_table_20_is_that_of_the_first_eight_responses(tmp_path, monkeypatch):
    for seed in range(9):
        write_npz(tmp_path / "signals" / f"{seed:04d}.npz", **response(seed))
    monkeypatch.setattr(couplings, "conventions", lambda base: [base])
    couplings.stage(Run(tmp_path), CouplingsSettings(bootstrap=20), SignalsSettings())
    named = pd.read_csv(tmp_path / "peak_overlap.csv")["response"]
    assert named.unique().tolist() == [f"problem {seed}" for seed in range(8)]


def test_the_stage_gives_the_same_numbers_twice(run):
    couplings.stage(run, CouplingsSettings(bootstrap=20), SignalsSettings())
    first = run.path("couplings.json").read_bytes(), run.path("sensitivity.csv").read_bytes()
    couplings.stage(run, CouplingsSettings(bootstrap=20), SignalsSettings())
    assert (run.path("couplings.json").read_bytes(), run.path("sensitivity.csv").read_bytes()) == first


def test_signals_are_read_the_same_in_any_batch(tiny, tmp_path):
    """What the stage stores for a response does not depend on the responses that shared its batch."""
    rng = np.random.default_rng(0)
    rows = [{"prompt_ids": rng.integers(1, 60, p).tolist(), "response_ids": rng.integers(1, 60, n).tolist()}
            for p, n in ((6, 20), (3, 9), (8, 31))]  # fmt: skip
    horizons = {**read_signals.HORIZONS, "fai_receiver": (4, None)}
    together = read_signals.read(tiny("qwen2"), rows, horizons)
    for row, arrays in zip(rows, together, strict=True):
        (alone,) = read_signals.read(tiny("qwen2"), [row], horizons)
        n = len(row["response_ids"])
        assert arrays["waad"].shape == (6, 4, n + 1) and arrays["fai_open"].shape == (6, 4, n)
        for name, array in alone.items():
            np.testing.assert_allclose(arrays[name], array, atol=1e-5, rtol=1e-5)


def test_the_maps_of_fig_2_are_of_the_heads_of_the_curves_below_them(tiny):
    """Of a response longer than the maps: its heads are drawn from all of it, as those of WAAD and FAI are."""
    rng = np.random.default_rng(0)
    row = {"problem_id": "p", "prompt_ids": rng.integers(1, 60, 5).tolist(),
           "response_ids": rng.integers(1, 60, read_signals.EXAMPLE_TOKENS + 40).tolist()}  # fmt: skip
    (read,) = read_signals.read(tiny("qwen2"), [row], {**read_signals.HORIZONS, "fai_receiver": (4, None)})
    read["span"] = read["span"][::-1].copy()  # of no response at all: only what is handed in can decide
    maps = read_signals.example_maps(tiny("qwen2"), row, read)

    ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
    whole = dense.attention_maps(tiny("qwen2"), ids, torch.ones_like(ids, dtype=torch.bool), range(6))[0]
    shown = slice(5, 5 + read_signals.EXAMPLE_TOKENS)
    for name, heads in zip(("local", "global"), head_sets(torch.tensor(read["span"]), 0.3), strict=True):
        expected = whole[heads].mean(0)[shown, shown]
        torch.testing.assert_close(torch.tensor(maps[name]).float(), expected, atol=1e-3, rtol=1e-3)  # float16


def test_an_example_that_is_not_there_is_refused(run, monkeypatch):
    monkeypatch.setattr(read_signals, "load_model", lambda *_, **__: (None, None))
    write_jsonl(run.path("responses.jsonl"), [{"kind": "sampled", "prompt_ids": [1], "response_ids": [2]}])
    with pytest.raises(ReproError, match="example = 1, but there are 1"):
        read_signals.stage(run, SignalsSettings(example=1))
