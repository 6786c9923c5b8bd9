"""Implicit maps: exact, causal, padded or not; and the signals read from |A| normalised by row."""

import inspect
import sys
import threading

import pytest
import torch
from transformers.models.qwen3_next.modeling_qwen3_next import l2norm, torch_chunk_gated_delta_rule

from attention_rhythm.signals import dense, implicit
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.reading import SignalConfig, combine_heads
from tests.support.mixers import KINDS, build_mixers

N = 70  # tokens: more than one chunk of every kind


@pytest.fixture(scope="module")
def mixers():
    built = {}

    def get(kind):
        if kind not in built:
            built[kind] = build_mixers(kind)
        return built[kind]

    return get


def tokens(*shape, seed=0):
    return torch.randint(3, 61, shape, generator=torch.Generator().manual_seed(seed))


def normalised(maps):
    return maps.abs() / maps.abs().sum(-1, keepdim=True)


# --- worked by hand ---------------------------------------------------------------------------------------------------


class Known:
    """A map that is written down, (B, H, N, N)."""

    def __init__(self, rows):
        self.map = torch.tensor(rows)[None, None]
        self.heads, self.elements = 1, 1

    def columns(self, first, last, end):
        return self.map[:, :, first:end, first:last]


def delta_map(beta):
    """Three tokens whose queries and keys all point the same way, no decay."""
    same, beta = torch.ones(1, 3, 1, 1), torch.full((1, 3, 1), beta)
    arguments = dict(query=same, key=same, value=same, g=torch.zeros(1, 3, 1), beta=beta, use_qk_l2norm_in_kernel=True)
    return implicit.FunctionMap("torch_chunk_gated_delta_rule", inspect.unwrap(torch_chunk_gated_delta_rule), arguments)


def test_the_delta_rule_forgets_what_it_overwrites():
    """S_t = (1 - beta) S_{t-1} + beta v_t: what was written before fades by 1 - beta with each write."""
    expected = torch.tensor([[0.5, 0, 0], [0.25, 0.5, 0], [0.125, 0.25, 0.5]])
    torch.testing.assert_close(delta_map(0.5).columns(0, 3, 3)[0, 0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(delta_map(1.0).columns(0, 3, 3)[0, 0], torch.eye(3), atol=1e-5, rtol=0)


def test_a_block_of_columns_begins_at_its_own_row():
    whole = delta_map(0.5).columns(0, 3, 3)
    torch.testing.assert_close(delta_map(0.5).columns(1, 3, 3), whole[..., 1:, 1:])


def test_signals_of_a_map_worked_by_hand():
    rows = [[2.0, 0.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0], [-3.0, 0.0, 1.0, 0.0], [0.0, 2.0, -1.0, 1.0]]
    # |A| by row: 1 | 1/2 1/2 | 3/4 0 1/4 | 0 1/2 1/4 1/4
    response = torch.tensor([[False, True, True, True]])
    span, waad, (near, far) = implicit.map_statistics(Known(rows), response, 1, [(1, 2), (2, None)])
    assert waad[0, 0].tolist() == [0.0, 0.5, 0.75, 0.75]  # W = 1: what is not on the diagonal
    assert span.item() == pytest.approx((0.5 + 1.5 + 1.25) / 3)
    torch.testing.assert_close(near[0, 0, :3], torch.tensor([(1 / 2 + 3 / 4) / 2, (0 + 1 / 2) / 2, 1 / 4]))
    torch.testing.assert_close(far[0, 0, :2], torch.tensor([(3 / 4 + 0) / 2, 1 / 2]))
    assert near[0, 0, 3].isnan() and far[0, 0, 2:].isnan().all()  # no row is left


def test_a_row_of_zeros_looks_nowhere():
    _, waad, (fai,) = implicit.map_statistics(
        Known([[1.0, 0.0], [0.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool), 5, [(0, None)]
    )
    assert waad.tolist() == [[[0.0, 0.0]]] and fai.tolist() == [[[0.5, 0.0]]]


# --- exact ------------------------------------------------------------------------------------------------------------


def calls_of(model, ids, monkeypatch):
    """Values that the mixers of a model had, and what their own function made of them, in the order of the layers."""
    seen = []
    mixer = implicit._mixers(model)[implicit.implicit_layers(model)[0]]
    name, module = implicit._linear_part(mixer), sys.modules[type(mixer).__module__]
    function = getattr(module, name)
    signature = inspect.signature(function)

    def listened(*args, **kwargs):
        out = function(*args, **kwargs)
        value = signature.bind(*args, **kwargs).arguments[implicit._FUNCTIONS[name].value]
        seen.append((value, out[0] if isinstance(out, tuple) else out))
        return out

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(module, name, listened)
        model(input_ids=ids, use_cache=False)
    return seen


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("minimax", "zamba")])
def test_the_map_times_the_values_is_the_mixers_output(mixers, kind, monkeypatch):
    model, ids = mixers(kind), tokens(2, N)
    maps = implicit.implicit_maps(model, ids, implicit.implicit_layers(model))  # (B, L, H, N, N)
    seen = calls_of(model, ids, monkeypatch)
    assert len(seen) == maps.shape[1]
    for layer, (value, out) in enumerate(seen):
        by_channel = value.ndim == 3  # Mamba-1: (B, channels, N)
        made = torch.einsum("bhts,bhs->bht" if by_channel else "bhts,bshd->bthd", maps[:, layer], value)
        assert (made - out).abs().max() <= KINDS[kind][1] * out.abs().max()


def test_a_mixer_that_goes_head_by_head_has_the_maps_of_all_its_heads(mixers, monkeypatch):
    model, ids = mixers("zamba"), tokens(2, 20)
    maps = implicit.implicit_maps(model, ids, implicit.implicit_layers(model))
    seen = calls_of(model, ids, monkeypatch)
    assert len(seen) == 2 * maps.shape[1]  # two heads of channels each
    for layer in range(maps.shape[1]):
        value, out = (torch.cat([seen[2 * layer][i], seen[2 * layer + 1][i]], 1) for i in (0, 1))
        made = torch.einsum("bhts,bhs->bht", maps[:, layer], value)
        assert (made - out).abs().max() <= 1e-4 * out.abs().max()


def test_lightning_attention_is_what_goes_into_its_norm():
    model, ids = build_mixers("minimax"), tokens(2, N)
    layers = implicit.implicit_layers(model)
    assert layers == (1, 3, 5)
    maps, seen = implicit.implicit_maps(model, ids, layers), {}
    for layer in layers:
        mixer = model.model.layers[layer].self_attn
        mixer.act_fn.register_forward_hook(lambda m, args, out, layer=layer: seen.update({(layer, "qkv"): out}))
        mixer.norm.register_forward_pre_hook(lambda m, args, layer=layer: seen.update({(layer, "out"): args[0]}))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for i, layer in enumerate(layers):
        value = seen[layer, "qkv"].unflatten(-1, (4, 24))[..., 16:]  # (B, N, H, D)
        made = torch.einsum("bhts,bshd->bthd", maps[:, i], value).flatten(-2)
        out = seen[layer, "out"]
        assert (made - out).abs().max() <= 1e-6 * out.abs().max()


def test_leaving_out_the_delta_rule_is_no_approximation(mixers):
    """The usual heuristic, q_t k_s times decay and beta, against the exact map: far off on random inputs."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, N, 2, 8, generator=generator) for _ in range(3))
    decay, beta = (torch.rand(1, N, 2, generator=generator) for _ in range(2))
    arguments = dict(query=query, key=key, value=value, g=-0.1 * decay, beta=beta, use_qk_l2norm_in_kernel=True)
    function = inspect.unwrap(torch_chunk_gated_delta_rule)
    of = implicit.FunctionMap("torch_chunk_gated_delta_rule", function, arguments)
    exact = of.columns(0, N, N)  # (1, H, N, N)

    scores = torch.einsum("bthd,bshd->bhts", l2norm(query) * 8**-0.5, l2norm(key))
    since = (-0.1 * decay).cumsum(1).transpose(1, 2)  # (1, H, N)
    heuristic = (scores * (since[..., :, None] - since[..., None, :]).exp() * beta.transpose(1, 2)[:, :, None]).tril()

    output = function(**arguments)[0]
    for maps, low, high in ((exact, 0, 1e-6), (heuristic, 0.09, 10)):
        made = torch.einsum("bhts,bshd->bthd", maps, value)
        assert low <= (made - output).norm() / output.norm() <= high


# --- causal, padded, in blocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_sees_no_later_token(mixers, kind):
    model, ids = mixers(kind), tokens(1, 40)
    layers = implicit.implicit_layers(model)
    maps = implicit.implicit_maps(model, ids, layers)
    assert maps.triu(1).abs().max() == 0
    changed = torch.cat([ids[:, :30], tokens(1, 10, seed=1)], 1)
    torch.testing.assert_close(implicit.implicit_maps(model, changed, layers)[..., :30, :], maps[..., :30, :])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(mixers, kind):
    model, config = mixers(kind), SignalConfig(horizon=(2, 20), layers="all", num_layers=None)
    prompt, response, pads = 5, 25, 12
    ids = tokens(1, prompt + response)
    mask = torch.ones_like(ids, dtype=torch.bool)
    rows = mask.clone()
    rows[:, :prompt] = False
    alone = implicit.implicit_signals(model, ids, mask, rows, config)
    for left, right in ((pads, 0), (0, pads)):

        def pad(x, left=left, right=right):
            return torch.nn.functional.pad(x, (left, right))

        batch = [torch.cat([pad(x), torch.ones(1, 42, dtype=x.dtype)]) for x in (ids, mask, rows)]  # a longer mate
        signals = implicit.implicit_signals(model, *batch, config)
        own = slice(left, left + prompt + response)
        torch.testing.assert_close(signals.waad[:1, own], alone.waad, equal_nan=True, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(signals.fai[:1, own], alone.fai, equal_nan=True, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "qwen3_5_text", "minimax"])
def test_statistics_are_the_equations_on_the_normalised_map(mixers, kind, monkeypatch):
    """In blocks of few columns as in one; `dense` has the equations literally."""
    model, ids = mixers(kind), tokens(2, N)
    response = torch.zeros(2, N, dtype=torch.bool)
    response[0, 10:], response[1, 20:50] = True, True
    layers, horizons = implicit.implicit_layers(model), [(3, 9), (0, None)]
    maps = normalised(implicit.implicit_maps(model, ids, layers))
    for elements in (implicit._ELEMENTS, 2 * 64 * N * 4 * 11):
        monkeypatch.setattr(implicit, "_ELEMENTS", elements)
        read = implicit.head_statistics(model, ids, response, layers, 10, horizons)
        torch.testing.assert_close(read.span, dense.span(maps, response), rtol=1e-4, atol=1e-5)
        rows = response[:, None, None].expand_as(read.waad)
        torch.testing.assert_close(read.waad[rows], dense.waad(maps, 10)[rows], rtol=1e-4, atol=1e-5)
        for fai, horizon in zip(read.fai, horizons, strict=True):
            expected = dense.fai(maps, response, horizon)
            torch.testing.assert_close(fai, expected, rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("kind", ["mamba2", "qwen3_5_text"])
def test_no_array_grows_faster_than_the_sequence(mixers, kind, monkeypatch):
    sizes = []
    columns = implicit.FunctionMap.columns

    def counted(self, first, last, end):
        out = columns(self, first, last, end)
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(implicit.FunctionMap, "columns", counted)
    monkeypatch.setattr(implicit, "_ELEMENTS", 4 * 800 * 100)  # a hundred columns of four heads
    model, ids = mixers(kind), tokens(1, 800)
    response = torch.ones_like(ids, dtype=torch.bool)
    implicit.head_statistics(model, ids, response, implicit.implicit_layers(model)[:1], 10, [(10, 100)])
    assert len(sizes) == 16 and max(sizes) == 4 * 800 * 100


# --- which layers, which models ---------------------------------------------------------------------------------------


def test_layers_have_the_models_own_numbers(mixers):
    ids = tokens(1, 20)
    mask = torch.ones_like(ids, dtype=torch.bool)

    def layers(chosen):
        config = SignalConfig(horizon=(1, 5), layers=chosen)
        return implicit.implicit_signals(mixers("qwen3_5_text"), ids, mask, mask, config).layers.tolist()

    assert implicit.implicit_layers(mixers("qwen3_5_text")) == (0, 1, 3, 4)  # 2 and 5 have softmax attention
    assert layers("all") == [0, 1, 3, 4]
    assert layers("middle") == [1, 3]
    assert layers((4, 1)) == [1, 4]
    with pytest.raises(UnsupportedAttention, match=r"layers \[2\] have no implicit map; those that have: \[0, 1, 3, 4"):
        layers((1, 2))


def test_signals_are_combined_as_those_of_attention_are(mixers):
    model, ids, config = mixers("mamba2"), tokens(2, 30), SignalConfig(horizon=(2, 9), row="predictor")
    mask = torch.ones_like(ids, dtype=torch.bool)
    response = mask.clone()
    response[:, :6] = False
    signals = implicit.implicit_signals(model, ids, mask, response, config)
    layers = tuple(signals.layers.tolist())
    read = implicit.head_statistics(model, ids, response, layers, 10, [(2, 9)])
    expected = combine_heads(read.span, read.waad, read.fai[0], layers, mask, response, config)
    torch.testing.assert_close(signals.waad, expected.waad, equal_nan=True)
    torch.testing.assert_close(signals.fai, expected.fai, equal_nan=True)
    assert signals.local_heads.sum((1, 2)).tolist() == [round(0.3 * 4 * len(layers))] * 2


def test_a_model_without_such_mixers_is_refused_by_name(tiny):
    ids = tokens(1, 9)
    mask = torch.ones_like(ids, dtype=torch.bool)
    with pytest.raises(UnsupportedAttention, match="qwen2 has no mixer with an implicit map"):
        implicit.implicit_signals(tiny("qwen2"), ids, mask, mask)


def test_half_precision_is_read_in_float32():
    model = build_mixers("qwen3_5_text").to(torch.bfloat16)
    maps = implicit.implicit_maps(model, tokens(1, 30), (0, 1))
    assert maps.dtype == torch.float32 and torch.isfinite(maps).all()


def test_nothing_is_left_in_the_model(mixers):
    model, ids = mixers("qwen3_next"), tokens(1, 20)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        implicit.implicit_maps(model, ids, (0, 4))
        assert torch.equal(model(input_ids=ids).logits, before)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_another_threads_pass_is_left_alone(mixers):
    model, ids, seen = mixers("mamba2"), tokens(1, 12), []

    def other():
        with torch.no_grad():
            seen.append(model(input_ids=ids).logits.shape)

    def read(layer, of):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with torch.no_grad(), implicit._reading(model, (0,), read):
        model(input_ids=ids)
    assert seen == [(1, 12, 61)]
