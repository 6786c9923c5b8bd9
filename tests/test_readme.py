"""Every command and every piece of code in README: parsed by what would run it, and run where that is quick."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line.strip()
]
INLINE = re.findall(r"`((?:\./reproduce\.sh|(?:\.venv\S*/)?python -m) ?[^`]*)`", README)
COMMANDS = [shlex.split(line, comments=True) for line in (*FENCED, *INLINE)]
ELSEWHERE = re.compile(r"test|setup-\w+|gpu-check")  # what the script does itself

# Words that stand for something of the reader's.
STANDS_FOR = {"PROFILE": "smoke", "NAME": "figures", "PROBLEMS": "20"}


def filled_in(arguments: list[str], model: str) -> list[str]:
    return [STANDS_FOR.get(word, model if word == "FOLDER" else word) for word in arguments]


def test_readme_shows_the_two_commands():
    assert ["./reproduce.sh"] in COMMANDS and ["./reproduce.sh", "test"] in COMMANDS


@pytest.mark.parametrize("line", FENCED)
def test_the_shell_can_read_it(line):
    assert subprocess.run(["bash", "-n"], input=line, text=True, check=False).returncode == 0
    assert shlex.split(line, comments=True)[0] in ("./reproduce.sh", "python", "source"), "a program that no test knows"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "./reproduce.sh"], ids=" ".join)
def test_reproduce_takes_it(command, tiny_model_folder, capsys):
    """As a dry run; what the script handles itself has to stand in its text."""
    arguments = filled_in(command[1:], tiny_model_folder)
    if arguments and ELSEWHERE.fullmatch(arguments[0]):
        script = (ROOT / "reproduce.sh").read_text(encoding="utf-8")
        assert " ".join(arguments[:2] if arguments[0] == "test" else arguments[:1]) in script
    elif "--help" in arguments:
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 0
    else:
        assert cli.main([*arguments, *([] if "--dry-run" in arguments else ["--dry-run"])]) == 0
        assert "would" in capsys.readouterr().out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0].endswith("python")], ids=" ".join)
def test_the_module_takes_it(command):
    """Every option is one of the module's."""
    name, arguments = command[2], command[3:]
    done = subprocess.run([sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    options = [argument for argument in arguments if argument.startswith("--")]
    assert done.returncode == 0 and all(re.search(rf"{option}\b", done.stdout) for option in options), done.stdout


def test_the_signals_of_your_own_model(tiny_model_folder, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code.replace("Qwen/Qwen3-0.6B", tiny_model_folder), "README.md", "exec"), {})
    assert "nan" in capsys.readouterr().out


def test_the_credit_of_your_own_loop():
    """The lines that need a loop around them, with a loop's values."""
    (code,) = re.findall(r"```python no-run\n(.*?)```", README, re.DOTALL)
    waad, fai = torch.rand(2, 2, 40).unbind()
    mask = torch.arange(40).expand(2, 40) >= 10
    names = {
        "response_mask": mask,
        "signals": SimpleNamespace(waad=waad, fai=fai),
        "rewards": torch.tensor([1.0, 0.0]),
        "group_ids": torch.tensor([0, 0]),
        "logp": torch.zeros(2, 40, requires_grad=True),
        "old_logp": torch.zeros(2, 40),
    }
    exec(compile(code, "README.md", "exec"), names)
    assert names["advantages"].shape == (2, 40) and (names["gamma"][:, :10] == 1).all()
    assert not torch.equal(names["advantages"][0], names["advantages"][0, :1].expand(40))
    names["loss"].backward()
    assert (names["logp"].grad[mask] != 0).all()
