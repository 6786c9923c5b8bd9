"""Two threads with one model: each gets the numbers that it gets alone, and the model is as before afterwards.

Reading puts another function in the place of a model's attention. A thread that reads, generates or asks for
log-probabilities meanwhile waits.
"""

import sys
import threading

import pytest
import torch

from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.signals.forward import response_statistics
from attention_rhythm.signals.reading import attention_signals
from tests.support import zoo
from tests.support.models import Letters, make_batch
from tests.support.reading import EVERY_LAYER

BATCHES = [make_batch([(10, 25), (5, 20)]), make_batch([(3, 18)], seed=1)]
PROMPTS = [BATCHES[0][0][0, :12].tolist(), BATCHES[0][0][1, :5].tolist()]
GREEDY = SamplingConfig(10, temperature=0, ignore_eos=True)


@pytest.fixture(autouse=True)
def eager_switches():
    """Threads take turns every few microseconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*works, times=5):
    """What each of the works gives, done several times in a thread of its own; an error of any is raised here."""
    results = [[] for _ in works]
    errors = []

    def repeat(number):
        try:
            results[number] = [works[number]() for _ in range(times)]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def signals(model, number):
    return attention_signals(model, *BATCHES[number], EVERY_LAYER).waad.nan_to_num()


def logp(model, number):
    ids, attention, response = BATCHES[number]
    return response_statistics(model, ids, response, attention.sum(1))[1].nan_to_num()


def completions(model):
    made = HFGenerator(model, Letters()).generate(PROMPTS, GREEDY)
    return torch.tensor([c.token_ids for c in made]), torch.tensor([c.logprobs for c in made])


PAIRS = {
    "two readings": (lambda m: signals(m, 0), lambda m: signals(m, 1)),
    "streaming beside dense": (
        lambda m: signals(m, 0),
        lambda m: attention_signals(m, *BATCHES[1], EVERY_LAYER, method="dense").waad.nan_to_num(),
    ),
    "a reading beside log-probabilities": (lambda m: signals(m, 0), lambda m: logp(m, 1)),
    "a reading beside generation": (lambda m: signals(m, 0), completions),
    "generation twice": (completions, completions),
    "generation beside log-probabilities": (completions, lambda m: logp(m, 0)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3_next", "llama/dynamic-rope"])
def test_each_gets_what_it_gets_alone(name, pair):
    expected = [work(zoo.build(name)) for work in pair]
    model = zoo.build(name)  # what is asked of a model once has not been asked yet
    implementation = model.config._attn_implementation
    for found, one in zip(at_once(*(lambda work=work: work(model) for work in pair)), expected, strict=True):
        for again in found:
            for value, wanted in zip(as_tuple(again), as_tuple(one), strict=True):
                torch.testing.assert_close(value, wanted, atol=1e-4, rtol=0)
    assert model.config._attn_implementation == implementation
    ids = BATCHES[0][0]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, zoo.build(name)(input_ids=ids).logits)


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def test_models_of_one_configuration_take_turns_too():
    """It is the configuration that is changed."""
    first, second = zoo.build("llama"), zoo.build("llama", seed=1)
    for layer in second.modules():
        if hasattr(layer, "config"):
            layer.config = first.config
    expected = signals(first, 0), signals(second, 0)
    found = at_once(lambda: signals(first, 0), lambda: signals(second, 0))
    for values, one in zip(found, expected, strict=True):
        assert all(torch.equal(value, one) for value in values)


def test_a_reading_that_fails_leaves_the_model_as_it_was():
    model = zoo.build("llama")
    with torch.no_grad():
        model.model.layers[3].self_attn.q_proj.weight[0, 0] = float("nan")

    def broken():
        with pytest.raises(ValueError, match="NaN"):
            signals(model, 0)

    at_once(broken, broken, times=3)
    assert model.config._attn_implementation == "sdpa"
