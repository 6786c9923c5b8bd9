"""Every command ends in a sentence: the lines of cases/commands.jsonl, and more of each kind.

A line says what is given (`response`), what happened once (`now`), and what is expected. Each has a function here.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from attention_rhythm import attention_signals, provenance
from attention_rhythm.errors import ReproError, unknown
from attention_rhythm.files import write_jsonl, write_text
from attention_rhythm.generation.base import Completion, SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.generation.resumable import Request, complete
from attention_rhythm.integrations.verl import data as verl_data
from attention_rhythm.integrations.verl.reward import compute_score
from attention_rhythm.models import load_model, model_name
from attention_rhythm.signals.architecture import UnsupportedAttention
from attention_rhythm.signals.reading import SignalConfig
from attention_rhythm.tasks.base import DataError
from attention_rhythm.tasks.countdown import countdown_reward
from attention_rhythm.tasks.problems import load_problems
from evaluation import compare
from evaluation import run as evaluation_run
from pipeline import cli
from tests.support import zoo
from tests.support.models import Letters, make_batch, save_with_tokenizer
from training import policy
from training import run as training_run

ROOT = Path(__file__).parents[1]
LINES = [json.loads(line) for line in (ROOT / "tests/cases/commands.jsonl").read_text().splitlines()]
SIZES = dict(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
CHECKS: dict[str, Callable] = {}


def check(function):
    """The check of the line whose id is the function's name."""
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


class Place:
    """A folder to work in, and what a command says."""

    def __init__(self, path: Path, capsys, monkeypatch):
        self.path, self.capsys, self.monkeypatch = path, capsys, monkeypatch

    def model(self, name: str, seed: int = 0) -> Path:
        """A tiny model's folder."""
        save_with_tokenizer(self.path / name)
        if seed:
            model, _ = load_model(str(self.path / name))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01 * seed)
            model.save_pretrained(self.path / name)
        return self.path / name

    def change(self, folder: Path, file: str, **values) -> None:
        """Set keys of a JSON file of a model's folder; None removes one."""
        content = json.loads((folder / file).read_text()) | values
        write_text(folder / file, json.dumps({k: v for k, v in content.items() if v is not None}))

    def data(self, *lines: bytes, name: str = "gsm8k_test.jsonl") -> Path:
        """A folder with one benchmark file."""
        (self.path / "data").mkdir(exist_ok=True)
        (self.path / "data" / name).write_bytes(b"\n".join(lines) + b"\n")
        return self.path / "data"

    def says(self, main: Callable, *arguments: object) -> tuple[int, str]:
        """Exit status, and what stands on stderr but progress bars and warnings; no traceback is among it."""
        self.capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        err = self.capsys.readouterr().err
        assert "Traceback" not in err
        sentences = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(sentences) <= 1
        return status, sentences[0] if sentences else err

    def evaluates(self, model: Path | str, *more: object) -> tuple[int, str]:
        """`evaluation.run` on two generated problems."""
        return self.says(
            evaluation_run.main, "--model", model, "--tasks", "--generated", "countdown", "--limit", 2,
            "--max-new-tokens", 3, "--device", "cpu", "--engine", "hf", *more,
        )  # fmt: skip

    def trains(self, model: Path | str, out: Path, *more: object) -> tuple[int, str]:
        """`training.run` by steps that are as small as they can be."""
        return self.says(
            training_run.main, "--model", model, "--out", out, "--task", "countdown", "--credit.strategy", "uniform",
            "--prompts-per-step", 1, "--samples-per-prompt", 2, "--gradient-steps", 1, "--max-new-tokens", 3,
            "--held-out", 1, "--device", "cpu", "--rhythm-every", 0, "--steps", 1, *more,
        )  # fmt: skip


@pytest.fixture
def place(tmp_path, capsys, monkeypatch):
    for name in ("DATA_DIR", "MODEL_DIR", "REPRO_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return Place(tmp_path, capsys, monkeypatch)


@pytest.mark.parametrize("line", LINES, ids=[line["id"] for line in LINES])
def test_every_line_of_the_cases_is_as_expected(line, place):
    CHECKS[line["id"]](place)


# --- python: ----------------------------------------------------------------------------------------------------------


def refused_or_equal(model) -> None:
    """HFGenerator refuses the model by name, or its log-probabilities are those of one full forward pass."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(8 if "q_proj" in name or "k_proj" in name or "qkv_proj" in name else 1)
    prompt = [5, 9, 13, 21]
    try:
        made = HFGenerator(model, Letters()).generate([prompt], SamplingConfig(24, temperature=0, ignore_eos=True))[0]
    except UnsupportedAttention:
        return
    with torch.no_grad():
        logp = model(torch.tensor([prompt + made.token_ids])).logits[0, 3:-1].log_softmax(-1)  # (24, V)
    whole = logp.gather(-1, torch.tensor(made.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(made.logprobs), whole, atol=1e-3, rtol=0)


@check
def sliding_window(place):
    torch.manual_seed(0)
    refused_or_equal(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8)).eval())


@check
def longrope(place):
    torch.manual_seed(0)
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_type": "longrope", "rope_theta": 10000.0}
    config = Phi3Config(**SIZES, rope_parameters=factors, original_max_position_embeddings=16)
    refused_or_equal(Phi3ForCausalLM(config).eval())


@check
def mixture_of_experts(place):
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**SIZES, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    model = Qwen3MoeForCausalLM(config).eval()
    batch, settings = make_batch([(3, 12)]), SignalConfig(window=3, horizon=(1, 6), layers="all", num_layers=None)
    streaming, dense = (attention_signals(model, *batch, settings, method=m) for m in ("streaming", "dense"))
    torch.testing.assert_close(streaming.waad, dense.waad, equal_nan=True, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(streaming.fai, dense.fai, equal_nan=True, atol=1e-4, rtol=1e-4)


@check
def special_tokens(place):
    folder = place.model("tagged")
    model, tokenizer = load_model(str(folder))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<answer>", "</answer>"]})
    model.resize_token_embeddings(len(tokenizer))
    wanted = tokenizer("<answer>19 + 36 + 55 - 7</answer>", add_special_tokens=False)["input_ids"]
    place.monkeypatch.setattr(
        "attention_rhythm.generation.hf.continue_rows", lambda *_, **__: ([wanted], [[0.0] * len(wanted)])
    )
    text = HFGenerator(model, tokenizer).generate([[5, 6]], SamplingConfig(64))[0].text
    assert countdown_reward(text, [19, 36, 55, 7], 103) == 1.0


@check
def dubious_ownership(place):
    refusal = f"fatal: detected dubious ownership in repository at '{place.path}'"
    refused = subprocess.CompletedProcess([], 128, stdout="", stderr=refusal)
    (place.path / ".git").mkdir()
    place.monkeypatch.setattr(provenance, "_ROOT", place.path)
    place.monkeypatch.setattr(provenance.subprocess, "run", lambda *_, **__: refused)
    warned = []
    place.monkeypatch.setattr(provenance.logger, "warning", warned.append)
    provenance._warn.cache_clear()
    git = provenance.environment()["git"]
    assert git["commit"] is None and "safe.directory" in git["refused"] and str(place.path) not in git["refused"]
    provenance.environment()
    assert len(warned) == 1 and "the commit is not recorded: the clone belongs to another user" in warned[0]


# --- data -------------------------------------------------------------------------------------------------------------


@check
def byte_order_mark(place):
    data = place.data(b'\xef\xbb\xbf{"question": "1 + 1?", "answer": "2"}')
    assert load_problems("gsm8k", data_dir=data)[0].answer == "2"


@check
def nan_answer(place):
    for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"[NaN]"):
        data = place.data(b'{"question": "a", "answer": 1}', b'{"question": "b", "answer": %s}' % number)
        with pytest.raises(DataError, match=r"gsm8k_test.jsonl:2: .* is no number of JSON's"):
            load_problems("gsm8k", data_dir=data)


@check
def null_id(place):
    data = place.data(b'{"id": null, "question": "a", "answer": 1}', b'{"id": null, "question": "b", "answer": 2}')
    assert [problem.id for problem in load_problems("gsm8k", data_dir=data)] == ["gsm8k-0", "gsm8k-1"]


@check
def lone_surrogate(place):
    data = place.data(b'{"question": "smile \\ud83d\\ude00", "answer": "2"}', b'{"question": "\\ud83d", "answer": "2"}')
    with pytest.raises(DataError, match=r"gsm8k_test.jsonl:2: '.ud83d' is half a surrogate pair"):
        load_problems("gsm8k", data_dir=data)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": ["a"], "question": "b", "answer": 1}', "no text in 'id'"),
        (b'{"id": true, "question": "b", "answer": 1}', "no text in 'id'"),
        (b'{"id": "", "question": "b", "answer": 1}', "no text in 'id'"),
        (b'{"question": null, "answer": 1}', "no text in 'question'"),
        (b'{"question": "b", "answer": null}', "no text in 'answer'"),
        (b'{"question": "b", "answer": true}', "no text in 'answer'"),
        (b'{"question": "b", "answer": {"a": 1}}', "no text in 'answer'"),
        (b'{"question": "b", "answer": [null]}', "something in 'answer' is no text"),
        (b'{"question": "b", "answer": 1, "more": NaN}', "NaN is no number"),
        (b'{"question": "b", "answer": 1, "more": ["\\udc00"]}', "half a surrogate"),
        (b'{"question": "b", "answer": 1', "Expecting"),
        (b"null", "a JSON object expected"),
        ("\ufeff".encode() + b'{"question": "b", "answer": 1}', "BOM"),  # in the middle of a file
        ('{"question": "b", "answer": 1}'.encode("utf-16"), "utf-8"),
    ],
)
def test_a_row_that_is_no_problem_is_named_with_file_and_line(place, line, message):
    data = place.data(b'{"question": "a", "answer": 1}', b"", line)
    with pytest.raises(DataError, match=rf"gsm8k_test.jsonl:3: .*{message}"):
        load_problems("gsm8k", data_dir=data)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("crossthink_qa", {"question": "a", "answer": "A"}, "no 'choices' in it"),
        ("crossthink_qa", {"question": "a", "answer": "A", "choices": ["x", "y"]}, "'choices' is not an object"),
        ("crossthink_qa", {"question": "a", "answer": "A", "choices": {"A": "x", "B": None}}, "no text in 'B'"),
        ("zebra", {"question": "a", "answer": "x", "choices": "xyz"}, "'choices' is not a list"),
        ("zebra", {"question": "a", "answer": "x", "choices": ["x", None]}, "something in 'choices' is no text"),
        ("countdown", {"nums": [1, 2, "3", 4], "target": 10}, "not a list of integers"),
        ("countdown", {"nums": [1, 2, 3, 4], "target": 1.5}, "1.5"),
    ],
)
def test_rows_of_every_task_are_checked(place, task, row, message):
    names = {"crossthink_qa": "crossthink_qa.jsonl", "zebra": "zebra.jsonl", "countdown": "countdown_test.jsonl"}
    data = place.data(json.dumps(row).encode(), name=names[task])
    with pytest.raises(DataError, match=rf"jsonl:1: .*{message}"):
        load_problems(task, data_dir=data)


# --- cli: -------------------------------------------------------------------------------------------------------------


@check
def another_model(place):
    first, second = place.model("a"), place.model("b", seed=1)
    assert place.trains(first, place.path / "x")[0] == 0
    status, said = place.trains(second, place.path / "x", "--steps", 2)
    assert status == 1 and "its checkpoint is of a run with another model" in said
    status, said = place.trains(first, place.path / "x", "--steps", 2, "--task", "gsm_symbolic")
    assert status == 1 and "its checkpoint is of a run with other problems" in said
    assert place.trains(first, place.path / "x", "--steps", 2)[0] == 0


@check
def no_system_role(place):
    folder = place.model("strict")
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    )
    write_text(folder / "chat_template.jinja", template)
    assert place.evaluates(folder, "--out", place.path / "out")[0] == 0
    write_text(folder / "chat_template.jinja", "{{ raise_exception('No chats here') }}")
    status, said = place.evaluates(folder, "--out", place.path / "other")
    assert status == 1 and "No chats here" in said and "chat_template.jinja" in said


@check
def quantised(place):
    folder = place.model("gptq")
    place.change(folder, "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    status, said = place.evaluates(folder, "--out", place.path / "out")
    assert status == 1 and "transformers cannot load it" in said and "gptq" in said.lower()


@check
def no_eos_no_pad(place):
    folder = place.model("bare")
    place.change(folder, "tokenizer_config.json", eos_token=None, pad_token=None)
    assert load_model(str(folder))[1].pad_token_id is None
    assert place.trains(folder, place.path / "out")[0] == 0
    assert place.evaluates(folder, "--out", place.path / "evaluation")[0] == 0


@check
def model_dot(place):
    folder = place.model("my-model")
    place.monkeypatch.chdir(folder)
    assert place.evaluates(".")[0] == 0
    written = json.loads((folder / "results/evaluation/my-model/evaluation.json").read_text())
    assert written["model"] == "my-model"
    (folder / "below").mkdir()
    place.monkeypatch.chdir(folder / "below")
    assert [model_name(spec) for spec in ("..", "../", "../below/..", str(folder), "owner/name")] == [
        "my-model", "my-model", "my-model", "my-model", "name",
    ]  # fmt: skip


@check
def own_venv(place):
    for name in ("reproduce.sh", "requirements.txt", "requirements-model.txt"):
        shutil.copy(ROOT / name, place.path / name)
    for room in ("attention_rhythm", "evaluation", "analysis", "training", "figures", "pipeline", "profiles"):
        (place.path / room).symlink_to(ROOT / room)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place.path / ".venv"], check=True)
    write_text(place.path / ".venv/my-own-package", "mine")
    done = subprocess.run(
        ["bash", place.path / "reproduce.sh", "smoke"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1 and "error: .venv is there and this script did not make it" in done.stderr
    assert (place.path / ".venv/my-own-package").read_text() == "mine"


@check
def symlink(place):
    (place.path / "rep").symlink_to(ROOT / "reproduce.sh")
    done = subprocess.run(
        ["bash", place.path / "rep", "smoke", "--dry-run"], cwd=place.path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "stages would run" in done.stdout


def test_every_check_belongs_to_a_line():
    assert sorted(CHECKS) == sorted(line["id"] for line in LINES)


def test_an_unknown_name_comes_with_the_one_that_may_have_been_meant():
    assert (
        unknown("task", "gsm8", ["math500", "gsm8k"])
        == "unknown task 'gsm8': did you mean gsm8k? one of gsm8k, math500"
    )
    assert unknown("task", "sudoku", ["gsm8k"]) == "unknown task 'sudoku': one of gsm8k"


def damaged(place: Place, kind: str) -> Path:
    """A model's folder with one thing wrong."""
    folder = place.model(kind)
    match kind:
        case "unknown architecture":
            place.change(folder, "config.json", model_type="qwen9", architectures=["Qwen9ForCausalLM"])
        case "no architecture":
            write_text(folder / "config.json", "{}")
        case "sizes that do not fit":
            place.change(folder, "config.json", hidden_size=48)
        case "a size that is a word":
            place.change(folder, "config.json", hidden_size="many")
        case "more layers than weights":
            place.change(folder, "config.json", num_hidden_layers=9, layer_types=None)
        case "config that is a list":
            write_text(folder / "config.json", "[]")
        case "empty config":
            write_text(folder / "config.json", "")
        case "empty weights":
            write_text(folder / "model.safetensors", "")
        case "no weights":
            (folder / "model.safetensors").unlink()
        case "no tokenizer":
            for file in folder.glob("tokenizer*"):
                file.unlink()
        case "a tokenizer that is none":
            write_text(folder / "tokenizer.json", "{}")
        case "a template that does not parse":
            write_text(folder / "chat_template.jinja", "{% if %}")
    return folder


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("unknown architecture", "transformers cannot load it: .*qwen9"),
        ("no architecture", "transformers cannot load it"),
        ("sizes that do not fit", "transformers cannot load it"),
        ("a size that is a word", "transformers cannot load it"),
        ("more layers than weights", r"\d+ weights are not in the folder"),
        ("config that is a list", "config.json"),
        ("empty config", "config.json: not valid JSON"),
        ("empty weights", "model.safetensors is damaged"),
        ("no weights", "safetensors weights are needed"),
        ("no tokenizer", "the tokenizer makes no tokens of a prompt"),
        ("a tokenizer that is none", "transformers cannot load it"),
        ("a template that does not parse", "chat template refuses"),
    ],
)
def test_a_model_that_cannot_be_loaded_ends_in_a_sentence(place, kind, says):
    status, said = place.evaluates(damaged(place, kind), "--out", place.path / "out")
    assert status == 1
    assert re.search(says, said), said


def of_kind(place: Place, kind: str) -> Path:
    """A folder with the weights of one of the zoo's models and a tokenizer."""
    folder = place.model(kind.replace("/", "-"))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    zoo.build(kind).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["bitsandbytes", "compressed-tensors", "torchao"])
def test_a_quantised_folder_without_its_package_ends_in_a_sentence(place, method):
    folder = place.model(method)
    quantised = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    place.change(folder, "config.json", quantization_config=quantised)
    for status, said in (
        place.evaluates(folder, "--out", place.path / "evaluation"),
        place.trains(folder, place.path / "training"),
    ):
        assert status == 1 and re.match(rf"error: model .*{method}: transformers cannot load it: .", said), said


# Models that no decoder, or no reading, is right for: (evaluation, training without signals, training with them)
KINDS = {
    "doge": (
        "doge cannot be decoded: .* its layers make masks of their own",
        "doge cannot be decoded",
        "doge cannot be decoded",
    ),
    "bart": ("generation config sets forced_eos_token_id=2", "sets forced_eos_token_id", "sets forced_eos_token_id"),
    "mamba": (None, None, "mamba does not go through transformers' attention interface"),
    "zamba2": (None, None, "zamba2 does not number its layers of attention"),
    "gemma2": (None, None, None),
    "llama/dynamic-rope": ("do not fit the model's context of 40", "longer than the context of 40", "context of 40"),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_any_kind_runs_or_ends_in_a_sentence(place, kind):
    folder = of_kind(place, kind)
    coupled = ("--credit.strategy", "coupled_rhythm", "--max-new-tokens", 14)
    found = (
        place.evaluates(folder, "--out", place.path / "evaluation"),
        place.trains(folder, place.path / "uniform"),
        place.trains(folder, place.path / "coupled", *coupled),
    )
    for (status, said), expected in zip(found, KINDS[kind], strict=True):
        assert status == (0 if expected is None else 1), said
        assert expected is None or re.search(expected, said), said


def test_dropout_ends_training_in_a_sentence(place):
    folder = of_kind(place, "gpt2")
    place.change(folder, "config.json", resid_pdrop=0.1)
    status, said = place.trains(folder, place.path / "out")
    assert status == 1 and re.search(r"dropout 0\.1 in transformer.* set it to 0 in the model's configuration", said)


FAULTS = {
    "missing file": lambda place: place.path / "none",
    "folder without completions": lambda place: (place.path / "folder").mkdir() or place.path / "folder",
    "empty file": lambda place: write_text(place.path / "empty.jsonl", "") or place.path / "empty.jsonl",
    "no JSON": lambda place: write_text(place.path / "a.jsonl", "{") or place.path / "a.jsonl",
    "other rows": lambda place: write_jsonl(place.path / "b.jsonl", [{"task": "gsm8k"}]) or place.path / "b.jsonl",
    "no rows": lambda place: write_jsonl(place.path / "c.jsonl", [3]) or place.path / "c.jsonl",
    "bytes": lambda place: (place.path / "d.jsonl").write_bytes(b"\xff\xfe") and place.path / "d.jsonl",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_cannot_be_compared_ends_in_a_sentence(place, kind):
    status, said = place.says(compare.main, FAULTS[kind](place), place.path)
    assert status in (1, 2) and said.startswith("error: ")


def completions(correct: list[int], samples: int = 1) -> list[dict]:
    return [
        {"task": "gsm8k", "problem": f"p{problem}", "sample": sample, "correct": bool(right)}
        for problem, right in enumerate(correct) for sample in range(samples)
    ]  # fmt: skip


def test_two_folders_are_compared(place):
    for name, file, correct in (("a", "completions.jsonl", [0, 0, 1]), ("b", "evaluation.jsonl", [1, 1, 1])):
        write_jsonl(place.path / name / file, completions(correct))
    assert compare.main([str(place.path / "a"), str(place.path / "b")]) == 0
    assert "| gsm8k  | 3" in place.capsys.readouterr().out
    assert place.says(compare.main, place.path / "a", place.path / "b", "--json", place.path)[0] == 1
    status, said = place.says(compare.main, place.path, place.path / "b")
    assert status == 2 and "no completions.jsonl or evaluation.jsonl in this folder" in said


def test_a_completion_that_is_missing_or_there_twice_is_named(place):
    whole = completions([0, 1], samples=2)
    with pytest.raises(ReproError, match="problem p0: sample 0 is there twice"):
        compare.compare([*whole, whole[0]], whole)
    with pytest.raises(ReproError, match="problem p1: 2 samples of others, fewer of this one"):
        compare.compare(whole[:-1], whole)


@pytest.mark.parametrize(
    ("main", "arguments", "says"),
    [
        (evaluation_run.main, ["--model", "MODEL", "--tasks", "gsm8", "--out", "OUT"], "did you mean gsm8k"),
        (evaluation_run.main, ["--model", "FILE", "--tasks", "gsm8k", "--out", "OUT"], "neither"),
        (evaluation_run.main, ["--model", "", "--tasks", "gsm8k", "--out", "OUT"], "neither"),
        (evaluation_run.main, ["--model", "FOLDER", "--tasks", "gsm8k", "--out", "OUT"], "no config.json"),
        (evaluation_run.main, ["--model", "MODEL", "--tasks", "--generated", "countdown", "--limit", "1",
                               "--max-new-tokens", "2", "--engine", "hf", "--out", "FILE"], "File exists"),
        (evaluation_run.main, ["--model", "MODEL", "--tasks", "--generated", "countdown", "--limit", "1",
                               "--engine", "hff"], "did you mean hf"),
        (evaluation_run.main, ["--model", "MODEL", "--tasks", "gsm8k", "--data-dir", "FILE"], "not a folder"),
        (evaluation_run.main, ["--model", "MODEL", "--tasks", "gsm8k", "--samples", "0"], "samples must be at least 1"),
        (evaluation_run.main, ["--model", "MODEL", "--tasks", "gsm8k", "--samples", "two"], "two"),
        (training_run.main, ["--model", "MODEL", "--out", "FILE"], "File exists"),
        (training_run.main, ["--model", "MODEL", "--out", "OUT", "--task", "countdwn"], "did you mean countdown"),
        (training_run.main, ["--model", "MODEL", "--out", "OUT", "--task", "aime24"], "no split 'train'"),
        (training_run.main, ["--model", "MODEL", "--out", "OUT", "--steps", "0"], "steps must be at least 1"),
        (training_run.main, ["--model", "MODEL", "--out", "OUT", "--held-out", "0"], "at least 1"),
        (training_run.main, ["--model", "FOLDER", "--out", "OUT"], "no config.json"),
        (verl_data.main, ["--task", "countdwn", "--out", "OUT"], "did you mean countdown"),
        (verl_data.main, ["--task", "countdown", "--out", "FILE", "--limit", "1"], "File exists"),
        (verl_data.main, ["--task", "countdown", "--out", "OUT", "--limit", "0"], "at least 1"),
        (policy.main, ["FILE"], "a file, not a folder"),
        (policy.main, ["OUT", "--steps", "0"], "steps must be at least 1"),
        (cli.main, ["smok"], "did you mean smoke"),
        (cli.main, ["smoke", "--dry-run", "--model", "FOLDER"], "no config.json"),
        (cli.main, ["smoke", "--stage", "couplngs"], "invalid choice"),
    ],
)  # fmt: skip
def test_wrong_usage_and_wrong_places_end_in_a_sentence(place, main, arguments, says):
    paths = {"FILE": place.path / "file", "FOLDER": place.path / "folder", "OUT": place.path / "out"}
    write_text(paths["FILE"], "a file")
    paths["FOLDER"].mkdir()
    if "MODEL" in arguments:
        paths["MODEL"] = place.model("model")
    place.monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, said = place.says(main, *[paths.get(argument, argument) for argument in arguments])
    assert status in (1, 2) and says in said, said


def test_a_folder_that_may_not_be_written_is_said(place):
    place.monkeypatch.setattr(evaluation_run, "locked", refuse)
    status, said = place.evaluates(place.model("m"), "--out", place.path / "out")
    assert status == 1 and "Permission denied; nothing can be written or read there" in said


def refuse(folder: Path) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def test_a_disk_that_is_full_is_said(place):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place.path / "completions.jsonl"))

    place.monkeypatch.setattr(evaluation_run, "write_jsonl", full)
    status, said = place.evaluates(place.model("m"), "--out", place.path / "out")
    assert status == 1 and "the disk is full" in said and "free some space" in said


# --- what goes on where it was ----------------------------------------------------------------------------------------


class Echo:
    """Completes every prompt by its own first token."""

    def generate(self, prompts, sampling):
        return [Completion([prompt[0]], str(prompt[0]), [0.0], "stop") for prompt in prompts]


def test_completions_of_other_prompts_are_not_taken_for_these(tmp_path):
    requests = [Request("gsm8k/0", [1, 2]), Request("gsm8k/1", [3])]
    done = complete(Echo(), requests, SamplingConfig(), tmp_path / "partial", 4, "test")
    assert complete(None, requests, SamplingConfig(), tmp_path / "partial", 4, "test") == done
    changed = [requests[0], replace(requests[1], prompt_ids=[4])]
    with pytest.raises(ReproError, match="completion of gsm8k/1 is of another prompt: the problems have changed"):
        complete(None, changed, SamplingConfig(), tmp_path / "partial", 4, "test")


def test_an_evaluation_of_other_problems_with_the_same_ids_does_not_go_on(place):
    model, rows = place.model("m"), [b'{"question": "1 + 1?", "answer": "2"}', b'{"question": "1 + 2?", "answer": "3"}']
    arguments = ["--model", model, "--tasks", "gsm8k", "--max-new-tokens", 2, "--engine", "hf", "--device", "cpu",
                 "--out", place.path / "out", "--data-dir", place.path / "data"]  # fmt: skip
    for row, status in zip(rows, (0, 1), strict=True):
        place.data(row)
        assert place.says(evaluation_run.main, *arguments)[0] == status
    assert "the problems have changed since" in place.says(evaluation_run.main, *arguments)[1]


# --- the reward of verl -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra_info", [None, {}, {"index": 3}, {"problem": "text"}, {"problem": "{}"}, {"problem": 3}])
def test_a_row_without_its_problem_is_said_in_a_sentence(extra_info):
    with pytest.raises(ReproError, match=r"extra_info\['problem'\], and the row has none .*integrations.verl.data"):
        compute_score("gsm8k", "8", "8", extra_info)


def test_verl_clips_as_the_loop_does():
    text = (ROOT / "attention_rhythm/integrations/verl/configs/rhythm.yaml").read_text()
    assert "clip_ratio_c: 1e9" in text  # verl bounds the ratio by e^20 = 4.9e8: a dual clip there never binds
