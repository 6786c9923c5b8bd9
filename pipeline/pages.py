"""Put committed results, and what the code itself says, into the pages, so that none of it is typed by hand.

    python -m pipeline.pages

What stands between `<!-- NAME -->` and `<!-- end -->` is what NAME says: a table, results/PROFILE/tables/TABLE.md;
`headline`, ten claims of the summaries; `stages`, the measured minutes of each stage; `tree` and `imports`, the modules
and who imports whom.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from attention_rhythm.files import read_json, write_text
from pipeline.manifest import ROOMS
from pipeline.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "RESULTS.md", "docs/method.md", "docs/architecture.md")
BLOCK = re.compile(r"<!-- (results/\S+\.md|headline|stages|tree|imports) -->\n.*?<!-- end -->", re.DOTALL)
QWEN, CPU = "qwen2.5-coder-0.5b", "cpu"
HEADLINE = (  # profile, claim of its summary
    (QWEN, "Entropy at WAAD peaks, lift over chance (%)"),
    (QWEN, "Receiver-head peaks that are global FAI peaks, lift over chance (%)"),
    (QWEN, "FAI peaks at or right after a WAAD peak, lift over chance (%)"),
    (QWEN, "Difference in Jaccard, high FAI minus low FAI"),
    (QWEN, "Difference in Jaccard, high FAI minus low FAI, same place"),
    (CPU, "Difference in Jaccard, high FAI minus low FAI, same place"),
    (CPU, "Countdown, coupled rhythm minus GRPO (points)"),
    (CPU, "Countdown, global anchor minus GRPO (points)"),
    (CPU, "Countdown, local chunk minus GRPO (points)"),
    (CPU, "Countdown, coupled rhythm minus random credit (points)"),
)
NAMES = {QWEN: "Qwen2.5-Coder-0.5B", CPU: "SmolLM2-135M"}


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


def headline(root: Path = ROOT) -> str:
    """Ten claims: the paper's number, ours with its interval, and the verdict, from the summaries' tables."""
    rows = []
    for profile, claim in HEADLINE:
        facts = pd.read_csv(root / "results" / profile / "tables" / "summary.csv").set_index("claim").loc[claim]
        digits = 3 if "Jaccard" in claim else 1
        numbers = ("paper", "ours", "low", "high")
        shown = {name: "—" if pd.isna(facts[name]) else f"{facts[name]:.{digits}f}" for name in numbers}
        rows.append(
            {
                "Claim": claim,
                "Model": "1.2M policy" if claim.startswith("Countdown") else NAMES[profile],
                "Paper": shown["paper"],
                "Ours [95%]": f"{shown['ours']} [{shown['low']}, {shown['high']}]",
                "n": f"{facts['n']:.0f} x {facts['seeds']:.0f} seeds" if facts["seeds"] > 1 else f"{facts['n']:.0f}",
                "Reproduced?": facts["reproduced"],
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def tree(root: Path = ROOT) -> str:
    """The folders that hold code, with their modules and the first words of each."""
    lines = []
    for room in ROOMS:
        for folder in sorted({path.parent for path in (root / room).rglob("*.py")}):
            name = folder.relative_to(root).as_posix()
            lines.append(f"{name}/  {_first_line(folder / '__init__.py')}".rstrip())
            files = sorted(path for path in folder.glob("*.py") if path.name not in ("__init__.py", "__main__.py"))
            width = max((len(path.name) for path in files), default=0)
            lines += [f"    {path.name:<{width}}  {_first_line(path)}" for path in files]
    return "```text\n" + "\n".join(lines) + "\n```"


def imports(root: Path = ROOT) -> str:
    """Which room imports which, and how often: rows import columns."""
    counts = {room: dict.fromkeys(ROOMS, 0) for room in ROOMS}
    for room in ROOMS:
        for path in (root / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS:
                    counts[room][node.module.split(".")[0]] += 1
    shown = {room: ["—" if room == to else counts[room][to] or "" for to in ROOMS] for room in ROOMS}
    table = pd.DataFrame(shown, index=list(ROOMS)).T
    return table.rename_axis("imports").to_markdown(disable_numparse=True)


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
    return (text or "").partition("\n")[0]


MADE = {"stages": stage_minutes, "headline": headline, "tree": tree, "imports": imports}


def filled(text: str, root: Path = ROOT) -> str:
    """A page's text with every block made anew."""

    def block(match: re.Match) -> str:
        """What stands between the two marks."""
        name = match.group(1)
        body = MADE[name](root) if name in MADE else (root / name).read_text(encoding="utf-8")
        return f"<!-- {name} -->\n{body.strip()}\n<!-- end -->"

    return BLOCK.sub(block, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the pages; with --check only say which are not up to date, exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.pages", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a page would change")
    options = parser.parse_args(arguments)
    stale = []
    for page in PAGES:
        before = (ROOT / page).read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            stale.append(page)
            if not options.check:
                write_text(ROOT / page, after)
    if options.check and stale:
        print(f"not up to date: {', '.join(stale)}; run: python -m pipeline.pages", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
