"""Fig. 9 as a page: every response, any signal, values under the pointer. One HTML file that opens offline.

The page carries its data as JSON and shows text through textContent only (see pages.py). The report has the same view
among its sections: templates/tokens.html is both.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from figures import pages
from figures.style import PEAKS, SIGNALS
from figures.tables import cited


def page(tokens: pd.DataFrame, responses: pd.DataFrame, model: dict) -> str:
    """The HTML page of all sampled responses. A signal without a column in `tokens` is left out."""
    return pages.render("token_view.html", payload=pages.as_json(payload(tokens, responses, model)))


def payload(tokens: pd.DataFrame, responses: pd.DataFrame, model: dict) -> dict:
    """What the page's script reads. A response that `responses` lacks is shown without its question."""
    names = [name for name in ("waad", "fai", "entropy", "receiver_fai", "gamma") if name in tokens]
    sampled = responses[responses["kind"] == "sampled"].drop_duplicates("problem_id").set_index("problem_id")
    sampled.index = sampled.index.astype(str)
    shown = []
    for number, (response, group) in enumerate(tokens.groupby("response", sort=False), start=1):
        rows = group.sort_values("t")
        facts = sampled.loc[str(response)] if str(response) in sampled.index else None
        question = "" if facts is None else facts["question"]
        shown.append(
            {
                "label": _shortened(f"{number}. {response}" + (f": {question}" if question else "")),
                "question": question,
                "outcome": "" if facts is None else _outcome(facts),
                "start": int(rows["t"].iloc[0]),
                "tokens": rows["token"].tolist(),
                "values": {name: [_rounded(value) for value in rows[name]] for name in names},
                "peaks": {
                    name: np.flatnonzero(rows[PEAKS[name]].to_numpy(dtype=bool)).tolist()
                    for name in names
                    if PEAKS.get(name) in rows
                },
            }
        )
    about = f"{len(shown)} sampled responses, {len(tokens)} tokens; model {cited(model)}."
    return {"about": about, "signals": [_signal(name, tokens[name]) for name in names], "responses": shown}


def _signal(name: str, values: pd.Series) -> dict:
    signal, defined = SIGNALS[name], values.dropna()
    low, high = np.percentile(defined, [5, 95]) if len(defined) else (0.0, 1.0)
    low, high = float(f"{low:.2g}"), float(f"{high:.2g}")
    return {
        "key": name,
        "label": signal.label,
        "unit": signal.unit,
        "suffix": f" {signal.unit}" if signal.unit in ("tokens", "nats") else "",
        "meaning": signal.meaning,
        "rgb": " ".join(str(round(255 * part)) for part in to_rgb(signal.color)),
        "low": low,
        "high": high if high > low else low + 1,
    }


def _shortened(text: str, limit: int = 70) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _outcome(facts: pd.Series) -> str:
    verdict = "Correct answer" if facts["correct"] else "Wrong answer"
    return f"{verdict} (expected {facts['answer']}); " + (
        "ended by itself." if facts["finish_reason"] == "stop" else "cut at the token limit."
    )


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{value:.3g}")
