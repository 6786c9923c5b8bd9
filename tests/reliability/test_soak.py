"""Five hundred training steps hold no more memory than fifty."""

import json
import subprocess
import sys

import pytest

from pipeline.manifest import ROOT

STEPS = 500
WARM_UP = 100  # steps after which the allocator has seen every shape of batch
TOLERANCE = 0.02

# Its own process, so that nothing but training is weighed. The whole loop: rollout, signals, credit, update, metrics,
# checkpoints.
SOAK = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.support.models import Letters
from tests.support.models import build_trained as build
from tests.support.training import PROBLEMS, SMALL, low_tokens, prompt
from attention_rhythm.credit import CreditConfig
from training.loop import train

torch.set_num_threads(1)
resident, page = [], os.sysconf("SC_PAGE_SIZE")

def weigh(_):
    resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
    return {}

config = replace(SMALL, credit=CreditConfig(), steps=int(sys.argv[2]), evaluate_every=10, checkpoint_every=50)
records = train(build(), Letters(), PROBLEMS, folder=sys.argv[1], prompt=prompt, reward=low_tokens, config=config,
                evaluate=weigh)
print(json.dumps({"steps": records[-1]["step"], "resident": resident}))
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_flat_over_five_hundred_steps(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SOAK, str(tmp_path / "run"), str(STEPS)],
        cwd=ROOT, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == STEPS
    after_warm_up, end = result["resident"][WARM_UP // 10], result["resident"][-1]
    print(f"{after_warm_up / 2**20:.0f} MiB after {WARM_UP} steps, {end / 2**20:.0f} MiB after {STEPS}")
    assert end <= (1 + TOLERANCE) * after_warm_up
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2  # and the disk does not fill up either
