"""Stage `token_values`: by how much each token of a response changes the chance that it ends right.

The value of a prefix is the share of its continuations that are graded right. At each chosen position of a sampled
response three prefixes are continued K times: the text before the token, the text with it, and the text with the most
likely *other* token in its place. Half of the K continuations make one estimate, half another.

    NAME.parquet          a row a token of every response: place, kind, probabilities, right continuations of each half
    NAME_signals.parquet  a row a token: every signal of analysis/token_signals.py
    NAME.json             what it was made with, and the scores of the signals (analysis/token_scores.py)
    NAME.partial.jsonl    responses that are done, while others are not: may be committed, goes when all are

Continuations cost hours, so what is done stays valid whatever happens to the code: a response is known by the hash of
its policy, its tokens and the settings that decide its values, and its row says at which commit it was continued.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from analysis.read_signals import Horizons, read
from analysis.settings import CorrectnessSettings, SignalsSettings, StudySettings, TokenValuesSettings
from analysis.token_scores import FIFTHS, scores_of
from analysis.token_signals import Reading, parts_of, signals_table
from analysis.token_text import KINDS, answer_tokens, begins_part, kind_of, pieces_of
from attention_rhythm.errors import ReproError
from attention_rhythm.files import append_jsonl, resume_jsonl, sha256_of, write_json, write_table
from attention_rhythm.generation.base import Generator, Prefix, SamplingConfig
from attention_rhythm.generation.conventions import ResponseText, stop_token_ids
from attention_rhythm.generation.engines import fastest_of_prefixes
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.generation.resumable import Request, complete
from attention_rhythm.memory import in_halves
from attention_rhythm.models import context_length, load_model, model_sha256
from attention_rhythm.provenance import environment
from attention_rhythm.signals.heads import kurtosis, receiver_heads
from attention_rhythm.signals.reading import SignalConfig
from attention_rhythm.tasks.base import Problem, problems_sha256
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.problems import load_problems
from attention_rhythm.tasks.prompts import build_prompt_ids, prompts_that_fit
from attention_rhythm.token_value import stratified_positions
from evaluation.settings import Run

COUNTS = tuple(f"{prefix}_{half}" for prefix in ("before", "after", "other") for half in "ab")
COLUMNS = {  # of a response's table, in order, with their types; what they mean: docs/token-values.md
    "t": "int32", "token": "int32", "text": "str", "kind": "str", "begins_part": "bool", "place": "str",
    "logprob": "float32", "entropy": "float32", "collision": "float32", "other": "int32", "other_logprob": "float32",
    "weight": "float32", **dict.fromkeys(COUNTS, "float32"),
    "problem": "str", "right": "bool", "pass_rate": "float32", "mark": "str", "commit": "str",
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A policy whose tokens are studied, and the problems that it answers."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    generator: Generator  # of continuations
    digest: str  # of the model
    problems: Sequence[Problem]
    with_texts: bool  # whether the table keeps what each token says: not where it may quote a benchmark


class Response(NamedTuple):
    """One response that is studied."""

    problem: Problem
    prompt: list[int]
    ids: list[int]
    right: bool
    pass_rate: float  # of the problem, among its screened responses


class Written(NamedTuple):
    """What a response says."""

    pieces: list[str]  # by its tokens
    answer: slice | None  # the tokens of its own answer; None: it gives none


def stage(run: Run, settings: TokenValuesSettings) -> None:
    """Token values of the profile's model; what is written: see above, NAME = token_values."""
    problems = load_problems(
        settings.task, limit=settings.problems, seed=run.seed, data_dir=run.data_dir, source=settings.source
    )
    model, tokenizer = load_model(run.model.id, dtype=run.model.dtype, device=run.model.device)
    context = max(len(build_prompt_ids(problem, tokenizer)) for problem in problems) + settings.max_new_tokens
    generator = fastest_of_prefixes(model, tokenizer, run.model.id, dtype=run.model.dtype, context=context)
    subject = Subject("model", model, tokenizer, generator, model_sha256(run.model.id), problems, with_texts=False)
    study(run, "token_values", [subject], settings)


def study(run: Run, name: str, subjects: Iterable[Subject], settings: StudySettings) -> None:
    """Values, signals and scores of one policy after the other."""
    partial = run.path(f"{name}.partial.jsonl")
    kept = kept_responses(run.path(f"{name}.parquet"), partial)
    commit = (environment()["git"] or {}).get("commit")
    values, signals, about = [], [], {}
    for subject in subjects:
        responses = sample_responses(run, name, subject, settings)
        written = [written_of(subject, response) for response in responses]
        own_signals = read_responses(subject, responses, written, settings, run.seed)
        tables = []
        with tqdm(total=len(responses), desc=f"token values, {subject.name}", unit="response") as bar:
            for number, (response, said, read_signals) in enumerate(zip(responses, written, own_signals, strict=True)):
                mark = mark_of(subject, response, settings, run.seed)
                if mark not in kept:
                    measured = measure(subject, response, said, read_signals, settings, run.seed)
                    kept[mark] = as_columns(measured.assign(mark=mark, commit=commit))
                    append_jsonl(partial, {"mark": mark, "columns": kept[mark].to_dict("list")})
                tables.append(kept[mark].assign(subject=subject.name, response=number))
                bar.update()
        values.append(pd.concat(tables, ignore_index=True))
        signals += [
            pd.DataFrame(table).assign(subject=subject.name, response=number, t=range(len(response.ids)))
            for number, (response, table) in enumerate(zip(responses, own_signals, strict=True))
        ]
        about[subject.name] = {
            "model": subject.digest,
            "problems": problems_sha256(subject.problems),
            "responses": len(responses),
            "right": sum(response.right for response in responses),
            "with_an_answer": sum(said.answer is not None for said in written),
            "tokens": sum(len(response.ids) for response in responses),
        }
    whole, read_of_all = in_order(pd.concat(values)), in_order(pd.concat(signals))
    write_table(run.path(f"{name}.parquet"), whole)
    write_table(run.path(f"{name}_signals.parquet"), read_of_all)
    scores = {subject: scores_of(whole, read_of_all, subject, settings, run.seed) for subject in about}
    write_json(run.path(f"{name}.json"), {"settings": asdict(settings), "subjects": about, "scores": scores})
    partial.unlink(missing_ok=True)


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that name a token first."""
    names = ["subject", "response", "t"]
    return table[[*names, *(column for column in table if column not in names)]].reset_index(drop=True)


def kept_responses(table: Path, partial: Path) -> dict[str, pd.DataFrame]:
    """What has been measured of responses, by their marks: in the finished table, and in that of an unfinished run."""
    kept: dict[str, pd.DataFrame] = {}
    if table.exists():
        whole = pd.read_parquet(table).drop(columns=["subject", "response"])
        kept = {str(mark): own.reset_index(drop=True) for mark, own in whole.groupby("mark", sort=False)}
    return kept | {record["mark"]: as_columns(pd.DataFrame(record["columns"])) for record in resume_jsonl(partial)}


def as_columns(table: pd.DataFrame) -> pd.DataFrame:
    """A response's table with its columns in order and of their types, wherever it comes from."""
    return table[[name for name in COLUMNS if name in table]].astype({n: t for n, t in COLUMNS.items() if n in table})


def mark_of(subject: Subject, response: Response, settings: StudySettings, seed: int) -> str:
    """Of what decides the values of a response's tokens."""
    decides = [settings.samples, settings.positions, settings.max_new_tokens, seed]
    return sha256_of([subject.digest, response.prompt, response.ids, *decides])[:16]


# -------------------------------------------------------------------------------------------- responses


def sample_responses(run: Run, name: str, subject: Subject, settings: StudySettings) -> list[Response]:
    """One response at T = 1 to each problem whose pass rate lies within the bounds, at most `settings.responses`.

    ReproError: no problem is left.
    """
    prompts = prompts_that_fit(
        subject.problems, subject.tokenizer, context_length(subject.model.config), settings.max_new_tokens
    )
    sampling = SamplingConfig(settings.max_new_tokens, samples=settings.screen, seed=run.seed)
    key = sha256_of([subject.digest, problems_sha256(subject.problems), asdict(sampling)])[:16]
    requests = [Request(problem.id, prompts[problem.id]) for problem in subject.problems]
    path = run.path("runs", name, f"responses-{key}.jsonl")
    records = complete(
        HFGenerator(subject.model, subject.tokenizer),
        requests,
        sampling,
        path,
        settings.batch_size,
        f"responses, {subject.name}",
    )
    found = []
    low, high = settings.pass_rate
    for number, problem in enumerate(subject.problems):
        own = records[number * settings.screen : (number + 1) * settings.screen]
        right = [grade(problem, record["text"]).correct for record in own]
        rate = float(np.mean(right))
        if settings.screen == 1 or low <= rate <= high:
            found.append(Response(problem, prompts[problem.id], own[0]["token_ids"], right[0], rate))
    if not found:
        raise ReproError(f"no problem of {len(subject.problems)} has a pass rate of {low} to {high}: try more problems")
    return found[: settings.responses]


# -------------------------------------------------------------------------------------------- signals


def written_of(subject: Subject, response: Response) -> Written:
    """The text of a response by its tokens, and where its answer is."""
    pieces = pieces_of(ResponseText(subject.tokenizer, _stops(subject)), response.ids)
    return Written(pieces, answer_tokens(pieces, grade(response.problem, "".join(pieces)).extracted))


def read_responses(
    subject: Subject, responses: Sequence[Response], written: Sequence[Written], settings: StudySettings, seed: int
) -> list[dict[str, np.ndarray]]:
    """The signals of each response, (n,) each."""
    horizons: Horizons = {"fai": settings.horizon, "fai_receiver": (SignalsSettings.receiver_gap, None)}
    rows = [{"prompt_ids": r.prompt, "response_ids": r.ids} for r in responses]
    arrays = [read(subject.model, [row], horizons)[0] for row in tqdm(rows, desc="attention", unit="response")]
    concentration = torch.stack([kurtosis(torch.from_numpy(a["fai_receiver"])) for a in arrays])  # (R, L, H)
    receivers = receiver_heads(concentration, settings.receiver_heads).numpy()
    tables = []
    bar = tqdm(responses, desc="signals", unit="response")
    for number, (response, said, own) in enumerate(zip(bar, written, arrays, strict=True)):
        tables.append(
            signals_table(
                Reading(
                    model=subject.model,
                    ids=torch.tensor(response.prompt + response.ids, device=subject.model.device),
                    start=len(response.prompt),
                    arrays=own,
                    horizons=horizons,
                    training=SignalConfig(horizon=settings.horizon),
                    receivers=receivers,
                    answer=said.answer,
                    parts=parts_of(begins_part(said.pieces)),
                    mask=_mask_token(subject.tokenizer),
                    seed=seed + number,
                )
            )
        )
    return tables


def _stops(subject: Subject) -> set[int]:
    return stop_token_ids(subject.model.generation_config, subject.tokenizer)


def _mask_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What stands for a masked token: padding, or the end of a sequence where there is none."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


# --------------------------------------------------------------------------------------------- values


def measure(
    subject: Subject,
    response: Response,
    written: Written,
    signals: dict[str, np.ndarray],
    settings: StudySettings,
    seed: int,
) -> pd.DataFrame:
    """A row a token of one response; the counts of COUNTS are NaN at positions that were not chosen."""
    stops, ids, length = _stops(subject), response.ids, len(response.ids)
    text, pieces = ResponseText(subject.tokenizer, stops), written.pieces
    table = pd.DataFrame({"t": range(length), "token": ids})
    if subject.with_texts:
        table["text"] = [piece.strip() for piece in pieces]
    table["kind"] = [kind_of(piece, token, stops) for piece, token in zip(pieces, ids, strict=True)]
    table["begins_part"] = begins_part(pieces)
    table["place"] = [_place(t, written.answer) for t in range(length)]
    for column, array in probabilities(subject.model, response).items():
        table[column] = array
    credited = signals["coupled_rhythm"] > 0
    kinds = table["kind"].map(KINDS.index).to_numpy()
    strata = (np.arange(length) * FIFTHS // length * len(KINDS) + kinds) * 2 + credited
    rng = np.random.default_rng([seed, int(sha256_of(ids)[:8], 16)])
    positions, weights = stratified_positions(strata, settings.positions or length, rng)
    counts = right_continuations(subject, response, positions, table["other"].to_numpy(), text, settings, seed)
    table["weight"] = 0.0
    table.loc[positions, "weight"] = weights
    for column, values in counts.items():
        table[column] = np.float32("nan")
        table.loc[positions, column] = values.astype(np.float32)
    return table.assign(problem=response.problem.id, right=response.right, pass_rate=np.float32(response.pass_rate))


def _place(t: int, answer: slice | None) -> str:
    if answer is None:
        return "no answer"
    return "before the answer" if t < answer.start else "answer" if t < answer.stop else "after the answer"


@torch.no_grad()
def probabilities(model: PreTrainedModel, response: Response) -> dict[str, np.ndarray]:
    """What the policy predicts at each token, (n,): `logprob` and `entropy` (nats), `collision` (sum of p^2), `other`,
    the most likely token besides its own, and its `other_logprob`."""
    ids: Int[Tensor, "1 N"] = torch.tensor([response.prompt + response.ids], device=model.device)
    length = len(response.ids)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=length + 1).logits[0, :-1]  # (n, V)
    logp = logits.float().log_softmax(-1)
    own = ids[0, -length:, None]  # (n, 1)
    best = logp.scatter(-1, own, float("-inf")).max(-1)
    found = {
        "logprob": logp.gather(-1, own)[:, 0],
        "entropy": -(logp.exp() * logp).sum(-1),
        "collision": logp.exp().square().sum(-1),
        "other": best.indices,
        "other_logprob": best.values,
    }
    return {name: array.cpu().numpy() for name, array in found.items()}


def right_continuations(
    subject: Subject,
    response: Response,
    positions: np.ndarray,
    other: np.ndarray,
    text: ResponseText,
    settings: StudySettings | CorrectnessSettings,
    seed: int,
) -> dict[str, np.ndarray]:
    """For each column of COUNTS, how many of a half's continuations are right, (positions,)."""
    prompt, ids, stops = response.prompt, response.ids, _stops(subject)
    half, start = settings.samples // 2, len(prompt)
    known: dict[str, bool] = {}

    def right(tokens: Sequence[int]) -> bool:
        written = text(tokens)
        if written not in known:
            known[written] = grade(response.problem, written).correct
        return known[written]

    prefixes: dict[
        tuple[str, int], list[int]
    ] = {}  # ("own", t): the first t tokens; ("other", t): the other as the t-th
    for t in positions.tolist():
        prefixes |= {("own", t): ids[:t], ("own", t + 1): ids[: t + 1], ("other", t): [*ids[:t], int(other[t])]}
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for name, tokens in prefixes.items():
        if tokens and (tokens[-1] in stops or len(tokens) == settings.max_new_tokens):
            found[name] = (half * right(tokens),) * 2  # nothing follows: its outcome is certain
    whole = prompt + ids
    open_ones = {
        name: Prefix(
            text=0,
            visible=start + len(tokens) - 1,
            first=tokens[-1] if tokens else prompt[-1],
            limit=settings.max_new_tokens - len(tokens),
        )
        for name, tokens in prefixes.items()
        if name not in found
    }

    def continued(names: Sequence[tuple[str, int]]) -> list[list[list[int]]]:
        return subject.generator.continue_prefixes([whole], [open_ones[n] for n in names], settings.samples, seed)

    names, at_once = list(open_ones), max(settings.batch_size // settings.samples, 1)
    for first in range(0, len(names), at_once):
        few = names[first : first + at_once]
        for name, rows in zip(few, in_halves(continued, few, "batch_size"), strict=True):
            outcomes = [right(prefixes[name] + row) for row in rows]
            found[name] = sum(outcomes[:half]), sum(outcomes[half:])
    result = {}
    for column, at in (("before", ("own", 0)), ("after", ("own", 1)), ("other", ("other", 0))):
        pairs = np.array([found[at[0], t + at[1]] for t in positions.tolist()]).reshape(-1, 2)  # (positions, 2)
        result[f"{column}_a"], result[f"{column}_b"] = pairs.T
    return result
