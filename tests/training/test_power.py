"""The experiment with power: its order, its endpoints and its contrasts, by hand."""

import numpy as np
import pandas as pd
import pytest

from training.experiment import variants_of
from training.power import arms, contrasts, endpoints, families, order, verdict
from training.settings import PowerSettings


def test_all_arms_have_seeds_before_any_has_more():
    settings = PowerSettings(seeds=3, dosed_seeds=2, first_seed=10)
    assert order(settings) == [(False, 10), (False, 11), (True, 10), (True, 11), (False, 12)]


def test_the_arms_of_the_protocol():
    settings = PowerSettings()
    usual, dosed = variants_of(settings.groups), variants_of(settings.dosed)
    assert (len(usual), len(dosed)) == (13, 12)
    assert {f"{name}_x4" for name in usual if name != "grpo"} == set(dosed)
    for name, changes in dosed.items():  # the same but for the dose
        same = {**usual[name.removesuffix("_x4")]}
        same["credit"] = {**same["credit"], "amplification": 4.0}
        assert changes == same


def curves(variant, seed, rewards):
    return pd.DataFrame(
        {"variant": variant, "seed": seed, "step": range(len(rewards) + 1), "reward_mean": [np.nan, *rewards],
         "response_length": 30.0, "entropy": 0.5}
    )  # fmt: skip


def finals(variant, seed, accuracy):
    return pd.DataFrame({"variant": variant, "seed": seed, "sampled": [accuracy, accuracy], "greedy": [True, False]})


def test_endpoints_by_hand():
    rewards = [0.1] * 10 + [0.3] * 10
    table = endpoints(curves("grpo", 1, rewards), finals("grpo", 1, 0.25)).iloc[0]
    assert table["reward"] == pytest.approx(20)
    assert (table["sampled"], table["greedy"]) == (25, 50)
    # the mean of the last ten is 10 + 2 k after step 10 + k: 20 with five, 25 with eight
    assert (table["steps_to_20"], table["steps_to_25"]) == (15, 18)
    assert (table["length"], table["entropy"]) == (30, 0.5)


def test_what_is_never_reached_is_one_more_than_there_are_steps():
    table = endpoints(curves("grpo", 1, [0.1] * 20), finals("grpo", 1, 0.1))
    assert table["steps_to_20"].tolist() == [21]


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    means = {"grpo": 20.0, "random": 20.0, "coupled_rhythm": 20.1, "last_try": 24.0, "outside": 15.0, "random_x4": 19.0}
    rows = []
    for variant, mean in means.items():
        for seed in range(8):
            reward = mean + generator.normal(0, 0.3)
            row = {"reward": reward, "sampled": 2 * reward, "greedy": reward, "steps_to_20": 100 - reward}
            row |= {"steps_to_25": 101.0, "length": 30.0, "entropy": reward}
            rows.append({"variant": variant, "seed": seed, **row})
    return pd.DataFrame(rows)


def test_controls_are_seen_and_a_null_says_what_it_could_have_seen(table):
    pairs = families(["grpo", "random", "coupled_rhythm", "last_try", "outside"], ["random_x4", "outside_x4"])
    found = pd.DataFrame(contrasts(table, pairs)).set_index(["endpoint", "family", "variant"])
    assert found.loc[("reward", "grpo", "last_try"), "verdict"] == "better"
    assert found.loc[("reward", "grpo", "outside"), "verdict"] == "worse"
    assert found.loc[("steps_to_20", "grpo", "last_try"), "verdict"] == "better"  # fewer steps
    assert found.loc[("steps_to_25", "grpo", "last_try"), "verdict"] == "not shown"  # nobody gets there
    null = found.loc[("reward", "grpo", "coupled_rhythm")]
    assert null["verdict"] == "not shown"
    assert 0.2 < null["detectable"] < 0.7
    assert (found["p_holm"] >= found["p_value"]).all()
    assert ("reward", "random", "random") not in found.index
    assert ("reward", "random", "outside_x4") not in found.index  # no such runs yet


def test_arms_keep_every_seed(table):
    own = next(arm for arm in arms(table) if arm["variant"] == "outside")
    assert own["seeds"] == len(own["reward"]["by_seed"]) == 8
    assert own["reward"]["ci"][0] < own["reward"]["mean"] < own["reward"]["ci"][1]


def test_verdicts():
    assert verdict(1.0, 0.01, "reward") == "better"
    assert verdict(1.0, 0.06, "reward") == "not shown"
    assert verdict(1.0, 0.01, "steps_to_25") == "worse"
    assert verdict(-1.0, 0.01, "length") == "less"
