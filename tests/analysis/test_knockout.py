"""Which positions are knocked out, and what is made of it, by hand; and the stage on a tiny model."""

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import knockout
from analysis.knockout import Pair, answer_of, choose_pairs, nearest_before, one_response, summarise
from analysis.read_signals import HORIZONS, read
from analysis.settings import KnockoutSettings
from tests.support.models import build

SETTINGS = KnockoutSettings(pairs=1, behind=2, mass_ratio=2.0, distances=3)


def test_a_control_is_of_the_same_class_and_place_with_low_fai_and_the_nearest_mass():
    fai = np.array([9.0, 1, 1, 1, 1, 5, 5, 5, 5, 5])
    mass = np.array([4.0, 9, 5, 3, 4, 1, 1, 1, 1, 1])
    kinds = np.array(["word"] * 3 + ["number"] + ["word"] * 6)
    short = np.arange(10) // 5  # two halves in place of fifths
    assert knockout.FIFTHS == 5 and len(short) == 10
    pairs = choose_pairs(fai, mass, kinds, KnockoutSettings(pairs=2, behind=0, mass_ratio=3.0))
    assert pairs == [Pair("word", 0, 1)]  # of its fifth, which are positions 0 and 1
    assert choose_pairs(fai, mass, kinds, SETTINGS) == []  # 9 is more than twice 4


def test_positions_at_the_end_are_not_chosen():
    fai, mass = np.array([1.0, 1, 1, 9]), np.ones(4)
    assert choose_pairs(fai, mass, np.array(["word"] * 4), KnockoutSettings(behind=1)) == []
    assert choose_pairs(np.full(3, np.nan), mass[:3], np.array(["word"] * 3), SETTINGS) == []


def test_weight_goes_to_the_nearest_other_punctuation_before():
    assert nearest_before(np.array([1, 4, 7]), 7) == 4
    assert nearest_before(np.array([1, 4]), 1) is None


def test_the_answer_is_found_in_prompt_and_response():
    assert answer_of({"extracted": "42"}, ["so", " 4", "2"], 10) == slice(11, 13)
    assert answer_of({"extracted": None}, ["so"], 10) is None


def test_differences_are_taken_in_pairs_and_over_responses():
    rows = []
    for response, (high, control) in {"a": (3.0, 1.0), "b": (5.0, 1.0)}.items():
        for role, kl in (("high", high), ("control", control)):
            about = {"response": response, "pair": 0, "class": "word", "role": role, "way": "all heads"}
            measured = {
                "mass": 2.0 if role == "high" else 1.0,
                "fai": kl,
                "kl": kl,
                "rest": -kl,
                "answer": float("nan"),
            }
            rows.append({**about, **measured})
    (row,) = summarise(pd.DataFrame(rows), 0)
    assert (row["kl"]["difference"], row["rest"]["difference"]) == (3, -3)
    assert (row["pairs"], row["responses"], row["mass_ratio"]) == (2, 2, pytest.approx(2))
    assert "answer" not in row


@pytest.fixture(scope="module")
def response():
    model = build("qwen3")
    ids = torch.randint(1, 60, (36,), generator=torch.manual_seed(0)).tolist()
    row = {"problem_id": "p", "prompt_ids": ids[:4], "response_ids": ids[4:], "extracted": "w"}
    horizons = {**HORIZONS, "fai_receiver": (4, None)}
    arrays = read(model, [row], horizons)[0]
    return model, row, arrays | {"texts": np.array([",", " w", "3", " w"] * 8)}


def test_every_pair_is_knocked_out_in_every_way(response, monkeypatch):
    monkeypatch.setattr(knockout, "HIGH", 0.6)
    rows = pd.DataFrame(one_response(*response, KnockoutSettings(pairs=2, behind=3, mass_ratio=50.0, distances=4)))
    assert set(rows["way"]) == set(knockout.WAYS)
    per_pair = rows[rows["way"] != "moved"].groupby(["way", "pair"])["role"].apply(sorted)
    assert (per_pair.map(tuple) == ("control", "high")).all()
    assert (rows.loc[rows["way"] == "all heads", "kl"] > 0).all()
    assert rows[["kl", "rest"]].notna().all(axis=None)
