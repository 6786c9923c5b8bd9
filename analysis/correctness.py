"""Stage `correctness`: does a right answer become wrong more often where another token is forced at high FAI?

The perturbation compares words (Eq. 11); this compares answers. In each greedy response that is right, positions of
high FAI, of low FAI, and of low FAI but alike in place and kind (position_groups.py) are continued with their own token
and with the most likely other one. `stays` is the share of right continuations with the other token less the share with
the response's own: sampling anew loses answers by itself, and that is not the token's doing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.perturbation import read_response
from analysis.position_groups import choose_positions, compared
from analysis.settings import CorrectnessSettings
from analysis.token_text import kind_of, pieces_of
from analysis.token_value import Response, Subject, right_continuations
from attention_rhythm.errors import ReproError
from attention_rhythm.files import append_jsonl, read_jsonl, resume_jsonl, write_json, write_table
from attention_rhythm.generation.conventions import ResponseText, stop_token_ids
from attention_rhythm.generation.engines import fastest_of_prefixes
from attention_rhythm.models import load_model, model_sha256
from attention_rhythm.tasks.problems import load_problems
from evaluation.settings import ResponsesSettings, Run

COLUMNS = ["problem", "group", "position", "relative_position", "kind", "fai", "own", "other", "stays"]


def stage(run: Run, settings: CorrectnessSettings, asked: ResponsesSettings) -> None:
    """Write correctness.csv, a row a position, and correctness.json, the comparisons of the groups.

    asked: what responses.jsonl answers. ReproError: no right response is long enough.
    """
    rows = read_jsonl(run.path("responses.jsonl"))
    right = [row for row in rows if row["kind"] == "greedy" and row["correct"]]
    loaded = load_problems(asked.task, limit=asked.problems, seed=run.seed, data_dir=run.data_dir, source=asked.source)
    problems = {problem.id: problem for problem in loaded}
    model, tokenizer = load_model(run.model.id, dtype=run.model.dtype, device=run.model.device)
    context = max((len(row["prompt_ids"]) for row in right), default=0) + settings.max_new_tokens
    generator = fastest_of_prefixes(model, tokenizer, run.model.id, dtype=run.model.dtype, context=context)
    subject = Subject("model", model, tokenizer, generator, model_sha256(run.model.id), loaded, with_texts=False)
    partial = run.partial("correctness.csv")
    done = {record["problem"]: record["rows"] for record in resume_jsonl(partial)}
    for row in tqdm(right, desc="correctness", unit="response"):
        name = row["problem_id"]
        if name not in done:
            response = Response(problems[name], row["prompt_ids"], row["response_ids"], right=True, pass_rate=1.0)
            done[name] = one_response(subject, response, settings, run.seed)
            append_jsonl(partial, {"problem": name, "rows": done[name]})
    found = [own for row in right for own in done[row["problem_id"]]]
    if not found:
        raise ReproError("no right response is long enough for positions of high and low FAI")
    table = pd.DataFrame(found, columns=COLUMNS)
    write_table(run.path("correctness.csv"), table)
    about = {"settings": asdict(settings), "responses": len(right), "of": sum(row["kind"] == "greedy" for row in rows)}
    write_json(run.path("correctness.json"), about | summarise(table, run.seed))


def one_response(
    subject: Subject, response: Response, settings: CorrectnessSettings, seed: int
) -> list[dict[str, Any]]:
    """A row a chosen position of one response; empty where it is too short."""
    stops = stop_token_ids(subject.model.generation_config, subject.tokenizer)
    text, ids = ResponseText(subject.tokenizer, stops), response.ids
    kinds = [kind_of(piece, token, stops) for piece, token in zip(pieces_of(text, ids), ids, strict=True)]
    fai, logits = read_response(subject.model, response.prompt, ids, settings.horizon)
    eligible = np.array([token not in stops for token in ids])
    eligible[-1:] = False  # nothing follows the last token
    groups = choose_positions(fai, kinds, settings.positions, eligible)
    positions = np.array(sorted(p for own in groups.values() for p in own), dtype=np.int64)
    if not len(positions):
        return []
    others = logits.float().clone()  # (n, V)
    others[range(len(ids)), ids] = float("-inf")
    others[:, sorted(stops)] = float("-inf")
    counts = right_continuations(subject, response, positions, others.argmax(-1).cpu().numpy(), text, settings, seed)
    own, other = (
        dict(zip(positions.tolist(), (counts[f"{name}_a"] + counts[f"{name}_b"]) / settings.samples, strict=True))
        for name in ("after", "other")
    )
    return [
        {
            "problem": response.problem.id,
            "group": group,
            "position": p,
            "relative_position": p / len(ids),
            "kind": kinds[p],
            "fai": float(fai[p]),
            "own": own[p],
            "other": other[p],
            "stays": other[p] - own[p],
        }
        for group, places in groups.items()
        for p in places
    ]


def summarise(table: pd.DataFrame, seed: int) -> dict[str, Any]:
    """The comparisons of `stays` (shares, -1 to 1) between groups, and of each group the shares that they come from."""
    found = compared(table, "stays", seed)
    for group, own in found["groups"].items():
        rows = table[table["group"] == group]
        own |= {name: float(rows.groupby("problem")[name].mean().mean()) for name in ("own", "other")}
    return found
