"""Completions of models whose rotary positions depend on the length: as one forward pass of each row alone has them."""

import pytest
import torch

from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.reading import attention_signals
from tests.support import zoo
from tests.support.generation import distance
from tests.support.models import Letters, make_batch

IDS, _, _ = make_batch([(90, 1)] * 2)
GREEDY = SamplingConfig(20, temperature=0, ignore_eos=True)


def complete(model, prompts, sampling=GREEDY):
    return HFGenerator(model, Letters()).generate(prompts, sampling)


def test_a_long_prompt_beside_a_short_one_changes_neither():
    model, prompts = zoo.build("phi3/longrope"), [IDS[0, :12].tolist(), IDS[1, :60].tolist()]
    together = complete(model, prompts)
    assert [c.token_ids for c in together] == [complete(model, [p])[0].token_ids for p in prompts]
    off = distance(model, prompts, together)
    assert off.logprob < 1e-4 and off.best < 1e-4


@pytest.mark.parametrize("name", ["llama/dynamic-rope", "hunyuan_v1_dense/dynamic", "phi3/longrope"])
def test_what_was_read_or_run_before_changes_no_completion(name):
    prompt = IDS[0, :12].tolist()
    (expected,) = complete(zoo.build(name), [prompt])
    model = zoo.build(name)
    with torch.no_grad():
        model(input_ids=IDS[1:2])
    assert complete(model, [prompt]) == [expected]
    attention_signals(model, *make_batch([(10, 80)]))
    assert complete(model, [prompt]) == [expected]


@pytest.mark.parametrize("name", ["llama/dynamic-rope", "hunyuan_v1_dense/dynamic"])
def test_a_completion_that_would_change_the_frequencies_of_its_prompt_is_refused(name):
    model = zoo.build(name)
    model.config.max_position_embeddings = 512  # as a person does who wants more than the 40 of the training
    kind = model.config.model_type
    with pytest.raises(UnsupportedAttention, match=f"{kind} has dynamic positions, whose frequencies change behind"):
        complete(model, [IDS[0, :30].tolist()])
