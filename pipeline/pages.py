"""Put committed results, and what the code itself says, into the pages, so that none of it is typed by hand.

    python -m pipeline.pages

What stands between `<!-- NAME -->` and `<!-- end -->` is what NAME says: a table, results/PROFILE/tables/TABLE.md;
`headline`, ten claims of the summaries; `in-training`, what training runs recorded; `stages`, the measured minutes of
each stage; `costs`, the claims of the benchmarks; `gpu`, those of one GPU; `graders`, this project's and others side by
side; `solutions`, what the grader says of the sources' own; `without-softmax`, lifts in three architectures; `tree` and
`imports`, the modules and who imports whom.
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
from figures.accuracy import LABELS
from figures.fig_architectures import one
from figures.inputs import Results
from figures.table_sensitivity import SHORT
from figures.tables import estimate, number
from pipeline.manifest import ROOMS
from pipeline.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md", "RESULTS.md", "docs/method.md", "docs/costs.md", "docs/architecture.md", "docs/grading.md",
    "docs/experiments/architectures.md",
)  # fmt: skip
QWEN, CPU = "qwen2.5-coder-0.5b", "cpu"
SECTION_4 = (  # profile, claim of its summary
    (QWEN, "Entropy at WAAD peaks, lift over chance (%)"),
    (QWEN, "Receiver-head peaks that are global FAI peaks, lift over chance (%)"),
    (QWEN, "FAI peaks at or right after a WAAD peak, lift over chance (%)"),
    (QWEN, "Difference in Jaccard, high FAI minus low FAI"),
    (QWEN, "Difference in Jaccard, high FAI minus low FAI, same place"),
    (CPU, "Difference in Jaccard, high FAI minus low FAI, same place and kind"),
)
SECTION_5 = (
    (CPU, "Countdown, coupled rhythm minus GRPO (points)"),
    (CPU, "Countdown, local chunk minus GRPO (points)"),
    (CPU, "Countdown, coupled rhythm minus random credit (points)"),
)
NAMES = {QWEN: "Qwen2.5-Coder-0.5B", CPU: "SmolLM2-135M"}
POLICY = "1.2M policy"

# Columns of the extended experiment's curves: head, factor to that unit, digits.
IN_TRAINING = {
    "waad_peak_entropy_lift": ("Entropy at WAAD peaks, lift %", 100, 1),
    "fai_follows_or_coincides_waad_lift": ("FAI peaks at or after WAAD peaks, lift %", 100, 1),
    "larger": ("Advantages larger by, %", 100, 1),
    "grad_norm": ("Gradient norm", 1, 3),
    "response_length": ("Response, tokens", 1, 1),
    "entropy": ("Entropy, nats", 1, 3),
    "useful_groups": ("Useful groups, %", 100, 1),
}
# Claims of benchmarks/results/*.json, in words; a claim that is not here is in words already.
COSTS = {
    "signals_of_forward": "time of the separate pass / of transformers' full forward pass",
    "eager_of_signals": "time of eager attention maps / of the separate pass",
    "signals_of_windowed": "time of the separate pass / of the same weights with windows of 128 tokens",
    "signals_of_before": "time of the separate pass: now / in version 0.2.0",
    "fused_of_before": "time of the fused pass: now / in version 0.2.0",
    "fused_of_logp": "time of the old-log-prob pass with signals / without",
    "signals_mib": "memory of the separate pass above the weights, MiB",
    "credit_of_step": "time of credit and signals / of a step of the embedded experiment",
    "fused_of_real_step": "time of credit and fused signals / of a GRPO step of 64 responses",
    "separate_of_real_step": "time of credit and the separate pass / of a GRPO step of 64 responses",
    "ours_of_trl": "tokens per second of a step of the loop / of TRL's GRPOTrainer",
    "ours_of_trl_fast": "the same / of TRL's GRPOTrainer with this project's matrix products",
    "ours_of_before": "tokens per second of a step of the loop: now / at 2178a5b, in the recipe's passes",
    "metrics_of_before": "largest difference of a metric of these steps / its largest value",
    "batched_of_generate": "perturbation, candidates per second: batched / one `generate` call each",
    "right_refused": "share of right answers that the grader refuses, without documented styles",
    "wrong_paid": "share of wrong answers that the grader pays",
    "speed_of_before": "grades per second of boxed answers: now / in version 0.2.0",
    "memory_of_token": "memory of the separate pass for each token, bytes",
    "memory_exponent_of_length": "exponent with which memory grows in the number of tokens",
}
BENCHMARKS = {
    "gsm8k": "GSM8K",
    "math500": "MATH500",
    "olympiadbench": "OlympiadBench",
    "minerva": "Minerva",
    "aime24": "AIME24",
}
SENSES = {"<=": "at most", ">=": "at least", "within": "from"}
GPU = "gpu_check.json"  # of benchmarks/results


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
    rows = [
        *(_claim(root, profile, claim, NAMES[profile]) for profile, claim in SECTION_4),
        _learned(root),
        *(_claim(root, profile, claim, POLICY) for profile, claim in SECTION_5),
    ]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _claim(root: Path, profile: str, claim: str, model: str) -> dict[str, str]:
    facts = pd.read_csv(root / "results" / profile / "tables" / "summary.csv").set_index("claim").loc[claim]
    digits = 3 if "Jaccard" in claim else 1
    return {
        "Claim": claim,
        "Model": model,
        "Paper": number(facts["paper"], digits),
        "Ours [95%]": estimate(facts["ours"], facts["low"], facts["high"], digits),
        "n": f"{facts['n']:.0f} x {facts['seeds']:.0f} seeds" if facts["seeds"] > 1 else f"{facts['n']:.0f}",
        "Reproduced?": facts["reproduced"],
    }


def _learned(root: Path) -> dict[str, str]:
    """What GRPO alone adds to the policy that all strategies start from: where nothing learns, nothing can differ."""
    results = Results(root / "results" / CPU)
    grpo = results.table("training_extended").set_index("variant").loc["grpo"]
    held_out = results.experiment("training_extended")["settings"]["held_out"]
    return {
        "Claim": "Countdown, GRPO minus its warm start (points)",
        "Model": POLICY,
        "Paper": "—",
        "Ours [95%]": estimate(grpo["gain"], grpo["gain_low"], grpo["gain_high"]),
        "n": f"{held_out} x {grpo['seeds']:.0f} seeds",
        "Reproduced?": "our control",
    }


def in_training(root: Path = ROOT) -> str:
    """What the extended experiment's runs recorded of the rhythm and of credit: means over steps, then over seeds."""
    curves = Results(root / "results" / CPU).curves("training_extended").query("step > 0")
    curves = curves.assign(larger=curves["shaped_size"] / curves["advantage_size"] - 1)
    runs = curves.groupby(["variant", "seed"])[list(IN_TRAINING)].mean().groupby("variant")
    mean, spread = runs.mean(), runs.std()
    rows = []
    for variant in (name for name in LABELS if name in mean.index):
        cells = {"Variant": LABELS[variant]}
        for column, (head, factor, digits) in IN_TRAINING.items():
            numbers = (number(factor * table.loc[variant, column], digits) for table in (mean, spread))
            cells[head] = " ± ".join(numbers)
        rows.append(cells)
    note = (
        f"Means over steps, then mean ± standard deviation over {curves['seed'].nunique()} seeds. Useful groups: those "
        "whose responses do not all have the same reward."
    )
    return f"{pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)}\n\n{note}"


def costs(root: Path = ROOT) -> str:
    """The claims of the benchmarks, one row a comparison: measured at each length, claimed, met?"""
    files = sorted(root.glob("benchmarks/results/*.json"))
    absent = {"model": "", "dtype": "", "length": 0}
    found = [
        {**absent, "file": path.name, **claim}
        for path in files
        if path.name != GPU
        for claim in read_json(path).get("claims", [])
    ]
    claims = pd.DataFrame(claim for claim in found if claim["bound"] is not None)
    rows = []
    for (file, claim, *about), own in claims.groupby(["file", "claim", "model", "dtype"], sort=False):
        first = own.iloc[0]
        bound = " to ".join(f"{end:g}" for end in pd.Series(first["bound"]))
        rows.append(
            {
                "What": ", ".join([COSTS.get(claim, claim), *filter(None, about)]),
                "Tokens": " / ".join(f"{length:.0f}" for length in own["length"] if length) or "—",
                "Measured": " / ".join(f"{value:.3g}" for value in own["value"]),
                "Claimed": f"{SENSES[first['sense']]} {bound}",
                "Met?": " / ".join("yes" if held else "no" for held in own["held"]),
                "Where": file,
            }
        )
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def gpu(root: Path = ROOT) -> str:
    """What `./reproduce.sh gpu-check` found on a GPU: a row for each name of a claim, with its worst value."""
    path = root / "benchmarks" / "results" / GPU
    record = read_json(path) if path.exists() else {}
    hardware = record.get("gpu")
    if not hardware:
        return "Not run yet: no GPU at hand."
    rows = []
    for name in dict.fromkeys(claim["claim"] for claim in record["claims"]):
        own = [claim for claim in record["claims"] if claim["claim"] == name]
        bounded = [claim for claim in own if claim.get("bound") is not None and claim["value"] is not None]
        worst = (min if bounded and bounded[0]["sense"] == ">=" else max)(
            (claim["value"] for claim in bounded), default=None
        )
        verdicts = [claim["verdict"] for claim in own]
        counts = {verdict: verdicts.count(verdict) for verdict in ("pass", "fail", "not run") if verdict in verdicts}
        rows.append(
            {
                "What": record["words"].get(name, name),
                "Worst": "—" if worst is None else f"{worst:.3g}",
                "Claimed": f"{SENSES[bounded[0]['sense']]} {bounded[0]['bound']:g}" if bounded else "—",
                "Verdicts": ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "measured",
            }
        )
    versions = record["environment"]["packages"]
    about = ", ".join(f"{name} {versions[name]}" for name in ("torch", "triton", "transformers") if name in versions)
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return f"{table}\n\nOn one {hardware['name']} ({hardware['memory_gib']:g} GiB), CUDA {hardware['cuda']}, {about}."


def graders(root: Path = ROOT) -> str:
    """What each grader refuses that is right and pays that is wrong, in percent, by kind; documented styles below."""
    record = read_json(root / "benchmarks" / "results" / "grading.json")
    documented = record["settings"]["documented"]
    rows = []
    for name, found in sorted(record["graders"].items(), key=lambda item: item[0] != "this grader"):
        if found == "not run":
            rows.append({"Grader": name, "Version": found})
            continue
        cells = {"Grader": name, "Version": found["about"]}
        for verdict, head in (("refused", "right refused"), ("paid", "wrong paid")):
            groups = {
                group: [row for style, row in styles.items() if style not in documented]
                for group, styles in found[verdict].items()
            }
            shares = {group: _share(counts) for group, counts in groups.items()}
            cells[f"**{head}, all**"] = _share([row for counts in groups.values() for row in counts])
            cells |= {f"{head}: {group}": share for group, share in shares.items()}
        rows.append({**cells, "ms a grade": f"{found['ms']:.2g}"})
    table = pd.DataFrame(rows).fillna("—").set_index("Grader").T.rename_axis("%")
    own = record["graders"]["this grader"]
    sizes = {
        verdict: sum(row[1] for styles in own[verdict].values() for row in styles.values())
        for verdict in ("refused", "paid")
    }
    note = (
        f"{sizes['refused']} right and {sizes['paid']} wrong responses to {record['settings']['golds']} gold answers. "
        "Documented styles, which are not in the table:"
    )
    refused = {style: row for styles in own["refused"].values() for style, row in styles.items() if style in documented}
    limits = [f"- {style}: {row[0]} of {row[1]} refused by this grader." for style, row in refused.items()]
    return "\n".join([table.to_markdown(disable_numparse=True), "", note, "", *limits])


def solutions(root: Path = ROOT) -> str:
    """How many of the sources' solutions are graded correct, with the answer stated below and as they stand."""
    record = read_json(root / "benchmarks" / "results" / "grading.json")
    rows = [
        {
            "Benchmark": BENCHMARKS[task],
            "Problems": found["problems"],
            "Solution that states the answer": f"{found['stated']} ({found['stated'] / found['problems']:.1%})",
            "As it stands": f"{found['as_it_stands']} ({found['as_it_stands'] / found['problems']:.1%})",
        }
        for task, found in record["solutions"].items()
    ]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def without_softmax(root: Path = ROOT) -> str:
    """Entropy at WAAD peaks and FAI after them, by reading: lifts in percent, of trained and untrained networks."""
    statistics = pd.DataFrame(read_json(root / "results" / "architectures" / "architectures.json")["statistics"])
    rows = []
    for reading in dict.fromkeys(statistics["reading"]):
        cells = {"Reading": reading}
        for name in ("waad_peak_entropy", "fai_follows_or_coincides_waad"):
            for weights in ("trained", "untrained"):
                found = one(statistics, reading, name, weights, "own", "band")
                there = " *" if found["there"] is True else ""
                cells[f"{SHORT[name]}, {weights}"] = estimate(found["lift"], *found["lift_ci"]) + there
        rows.append(cells)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _share(counts: list[list[int]]) -> str:
    """[found, all] of several styles, in percent."""
    return f"{100 * sum(row[0] for row in counts) / sum(row[1] for row in counts):.1f}"


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


MADE = {
    "headline": headline,
    "in-training": in_training,
    "stages": stage_minutes,
    "costs": costs,
    "gpu": gpu,
    "graders": graders,
    "solutions": solutions,
    "without-softmax": without_softmax,
    "tree": tree,
    "imports": imports,
}
BLOCK = re.compile(rf"<!-- (results/\S+\.md|{'|'.join(MADE)}) -->\n.*?<!-- end -->", re.DOTALL)


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
