"""algorithm.rhythm: what it means, and what it refuses by name."""

import pytest

from attention_rhythm.credit import CreditConfig
from attention_rhythm.integrations.verl.settings import RhythmConfig, RhythmConfigError
from attention_rhythm.signals.reading import SignalConfig


def test_an_empty_table_is_the_papers_second_version():
    assert RhythmConfig.parse({}) == RhythmConfig(CreditConfig(), SignalConfig(), "fused", 0)


def test_every_key_goes_where_it_belongs():
    table = {"strategy": "global_anchor", "select": "bottom", "attn": "separate", "seed": 3}
    table["signals"] = {"horizon": [0, None], "layers": [1, 2], "head_fraction": None}
    assert RhythmConfig.parse(table) == RhythmConfig(
        CreditConfig(strategy="global_anchor", select="bottom"),
        SignalConfig(horizon=(0, None), layers=(1, 2), head_fraction=None),
        "separate",
        3,
    )


@pytest.mark.parametrize(
    "table, named",
    [
        ({"stratgy": "uniform"}, "algorithm.rhythm has no key 'stratgy'"),
        ({"signals": {"windows": 5}}, "algorithm.rhythm.signals has no key 'windows'"),
        ({"attn": "dense"}, "attn must be one of fused, separate, exported"),
        ({"strategy": "best"}, "strategy must be one of"),
        ({"quantile": 0.0}, "quantile must be in"),
        ({"signals": {"horizon": [5, 2]}}, "horizon must be"),
    ],
)
def test_what_is_not_there_is_refused_by_name(table, named):
    with pytest.raises(RhythmConfigError, match=named):
        RhythmConfig.parse(table)


@pytest.mark.parametrize(
    "strategy, needed",
    [
        ("uniform", ()),
        ("random", ()),
        ("entropy", ()),
        ("local_chunk", ("waad",)),
        ("global_anchor", ("fai",)),
        ("coupled_rhythm", ("waad", "fai")),
    ],
)
def test_attention_is_read_only_for_strategies_that_use_it(strategy, needed):
    assert RhythmConfig.parse({"strategy": strategy}).needed == needed
