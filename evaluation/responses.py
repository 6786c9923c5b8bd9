"""Stage `responses`: two responses to each problem, one sampled (couplings) and one greedy (perturbation)."""

from __future__ import annotations

from dataclasses import replace

from attention_rhythm.files import write_jsonl
from attention_rhythm.generation.base import SamplingConfig
from attention_rhythm.generation.hf import HFGenerator
from attention_rhythm.generation.resumable import Request, complete
from attention_rhythm.models import context_length, load_model
from attention_rhythm.tasks.grading import grade
from attention_rhythm.tasks.problems import load_problems
from attention_rhythm.tasks.prompts import build_prompt, prompts_that_fit
from evaluation.settings import ResponsesSettings, Run


def stage(run: Run, settings: ResponsesSettings) -> None:
    """Write responses.jsonl: one row a response, sampled ones first, in the order of the problems."""
    problems = load_problems(
        settings.task, limit=settings.problems, seed=run.seed, data_dir=run.data_dir, source=settings.source
    )
    model, tokenizer = load_model(run.model.id, dtype=run.model.dtype, device=run.model.device)
    generator = HFGenerator(model, tokenizer)
    context = context_length(model.config)
    prompts = prompts_that_fit(problems, tokenizer, context, settings.max_new_tokens)

    sampled = SamplingConfig(settings.max_new_tokens, temperature=settings.temperature, seed=run.seed)
    rows = []
    for kind, sampling in (("sampled", sampled), ("greedy", replace(sampled, temperature=0))):
        requests = [Request(f"{kind}/{p.id}", prompts[p.id]) for p in problems]
        path = run.partial("responses.jsonl")
        records = complete(generator, requests, sampling, path, settings.batch_size, f"{kind} responses")
        for problem, record in zip(problems, records, strict=True):
            result = grade(problem, record["text"])
            rows.append(
                {
                    "id": record["id"],
                    "problem_id": problem.id,
                    "kind": kind,
                    "source": problem.metadata["source"],
                    "question": problem.question,
                    "answer": problem.answer,
                    "prompt": build_prompt(problem, tokenizer),
                    "prompt_ids": prompts[problem.id],
                    "response_ids": record["token_ids"],
                    "text": record["text"],
                    "finish_reason": record["finish_reason"],
                    "correct": result.correct,
                    "extracted": result.extracted,
                }
            )
    write_jsonl(run.path("responses.jsonl"), rows)
    for kind in ("sampled", "greedy"):
        of_kind = [row for row in rows if row["kind"] == kind]
        correct = sum(row["correct"] for row in of_kind)
        length = sum(len(row["response_ids"]) for row in of_kind) / len(of_kind)
        print(f"{kind}: {correct} of {len(of_kind)} correct, {length:.0f} tokens on average")
