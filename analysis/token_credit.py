"""Stage `credit`: gamma of every sampled token, as coupled-rhythm credit would give it in training.

tokens.parquet holds WAAD and FAI as the paper's analysis reads them: every layer, FAI to the end of the response.
Training reads others (SignalConfig's defaults: five middle layers, FAI over the band of Eq. 10), and gamma follows
those. So both signals are averaged anew, over the heads that training would choose, from signals/: no model is loaded.

The same is done under every other answer to what the paper leaves open, one change at a time: how much of the credit
goes to other tokens then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.read_signals import HORIZONS, WINDOW, load, signals_of
from attention_rhythm.credit import CreditConfig, credit_weights
from attention_rhythm.errors import ReproError
from attention_rhythm.files import write_table
from attention_rhythm.signals.reading import SignalConfig
from evaluation.settings import Run

CREDIT = CreditConfig()
SIGNALS = SignalConfig(window=WINDOW, horizon=HORIZONS["fai_band"])  # the defaults; what signals/ holds of each head
# Fields of SignalConfig and CreditConfig, and the values that are tried in place of the default. Another strategy is no
# answer to an open question: random credit says what overlap chance gives, the others how far the strategies agree.
SIGNAL_CHOICES: dict[str, tuple[Any, ...]] = {
    "row": ("predictor",),
    "layers": ("all", "bottom", "top"),
    "num_layers": (None,),
    "head_fraction": (0.2, 0.5, None),
    "horizon": (HORIZONS["fai_open"],),
}
CREDIT_CHOICES: dict[str, tuple[Any, ...]] = {
    "topq": ("threshold",),
    "undefined_fai": ("zero",),
    "tau_waad": (0.25, 0.75),
    "tau_delta": (0.25, 0.75),
    "neighborhood": (1, 5),
    "intro": ("nearest",),
    "alpha": (0.25, 0.75),
    "strategy": ("global_anchor", "local_chunk", "entropy", "random"),
}
CHOICES = [
    ("default", "", SIGNALS, CREDIT),
    *((n, v, replace(SIGNALS, **{n: v}), CREDIT) for n, values in SIGNAL_CHOICES.items() for v in values),
    *((n, v, SIGNALS, replace(CREDIT, **{n: v})) for n, values in CREDIT_CHOICES.items() for v in values),
]


def stage(run: Run) -> None:
    """Write token_credit.parquet, a row a token of tokens.parquet, joined to it by `response` and `t`; and
    credit_sensitivity.csv, a row a choice and response."""
    responses = load(run.path("signals"))
    if not responses:
        raise ReproError("signals/ holds no response: delete the folder, and the stage 'signals' makes it anew")
    write_table(
        run.path("token_credit.parquet"), pd.concat([token_credit(one) for one in responses], ignore_index=True)
    )
    generator = torch.Generator().manual_seed(run.seed)
    rows = [row for one in responses for row in sensitivity(one, generator)]
    write_table(run.path("credit_sensitivity.csv"), pd.DataFrame(rows).sort_values("choice", kind="stable"))


def token_credit(response: dict[str, np.ndarray]) -> pd.DataFrame:
    """WAAD (tokens), FAI and gamma of each token `t` of one response, as training reads them."""
    waad, fai = signals = signals_of(response, SIGNALS)
    return pd.DataFrame(
        {
            "response": str(response["response"]),
            "t": range(len(waad)),
            "waad": waad.numpy(),
            "fai": fai.numpy(),
            "gamma": gamma_of(response, signals, CREDIT).numpy(),
        }
    )


def sensitivity(response: dict[str, np.ndarray], generator: torch.Generator) -> list[dict[str, Any]]:
    """For each choice, how much of the defaults' credit, e = gamma - 1, stays where it is in one response.

    stays: sum over tokens of the smaller e of the two; default: of the defaults' e; extra: of the choice's; credited:
    tokens with gamma other than 1 under the choice, of `tokens`.
    """
    read = {config: signals_of(response, config) for config in {signals for _, _, signals, _ in CHOICES}}
    extras = [gamma_of(response, read[signals], credit, generator) - 1 for *_, signals, credit in CHOICES]  # (n,) each
    default = extras[0]
    return [
        {
            "choice": number,
            "name": name,
            "value": described(value),
            "response": str(response["response"]),
            "stays": torch.minimum(extra, default).sum().item(),
            "default": default.sum().item(),
            "credited": int((extra != 0).sum()),
            "extra": extra.sum().item(),
            "tokens": len(extra),
        }
        for number, ((name, value, *_), extra) in enumerate(zip(CHOICES, extras, strict=True))
    ]


def described(value: Any) -> Any:
    """A value of a choice as the table shows it: None is all there is, a pair a horizon."""
    if value is None:
        return "all"
    if isinstance(value, tuple):
        low, high = value
        return f"{low} to {'the end' if high is None else high}"
    return value


def gamma_of(
    response: dict[str, np.ndarray],
    signals: tuple[Float[Tensor, "n"], Float[Tensor, "n"]],
    credit: CreditConfig,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n"]:
    """gamma of each token of one response, from its WAAD and FAI."""
    waad, fai = signals
    entropy = torch.from_numpy(response["entropy"])
    whole = torch.ones(1, len(waad), dtype=torch.bool)
    return credit_weights(whole, credit, waad=waad[None], fai=fai[None], entropy=entropy[None], generator=generator)[0]
