"""Put the committed tables into README.md and docs/method.md, so that no number of theirs is typed by hand.

    python -m pipeline.readme

Between `<!-- results/PROFILE/tables/NAME.md -->` and `<!-- end -->` stands that file; between `<!-- stages -->` and
`<!-- end -->` the measured minutes of each stage, from the manifests of results/.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from attention_rhythm.files import read_json, write_text
from pipeline.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/method.md")
BLOCK = re.compile(r"<!-- (results/\S+\.md|stages) -->\n.*?<!-- end -->", re.DOTALL)


def stage_minutes(root: Path = ROOT) -> str:
    """Wall minutes of each stage by profile, with the hardware that took them."""
    manifests = {path.parent.name: read_json(path) for path in sorted(root.glob("results/*/manifest.json"))}
    manifests = {name: stages for name, stages in manifests.items() if name != "smoke"}  # not committed
    minutes = pd.DataFrame(
        {
            name: {stage: entry["wall_seconds"] / 60 for stage, entry in stages.items()}
            for name, stages in manifests.items()
        }
    )
    shown = minutes.map(lambda value: "—" if pd.isna(value) else f"{value:.1f}")
    shown = shown.loc[[stage.name for stage in STAGES if stage.name in shown.index]]
    shown.loc["all"] = [f"{total:.0f}" for total in minutes.sum()]
    shown.columns = [f"{name} (min)" for name in shown.columns]
    machines = {
        f"{hardware['cores']} cores, {hardware['cpu']}, no GPU" if not hardware["gpus"] else ", ".join(hardware["gpus"])
        for stages in manifests.values()
        for hardware in (entry["hardware"] for entry in stages.values())
    }
    return f"{shown.to_markdown(disable_numparse=True)}\n\nMeasured on: {'; '.join(sorted(machines))}.\n"


def filled(text: str, root: Path = ROOT) -> str:
    """A page's text with every block made anew."""

    def block(match: re.Match) -> str:
        name = match.group(1)
        body = stage_minutes(root) if name == "stages" else (root / name).read_text(encoding="utf-8")
        return f"<!-- {name} -->\n{body.strip()}\n<!-- end -->"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    for page in PAGES:
        write_text(ROOT / page, filled((ROOT / page).read_text(encoding="utf-8")))
