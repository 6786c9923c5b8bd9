"""Stage `credit`: gamma of every sampled token, as coupled-rhythm credit would give it in training.

tokens.parquet holds WAAD and FAI as the paper's analysis reads them: every layer, FAI to the end of the response.
Training reads others (SignalConfig's defaults: five middle layers, FAI over the band of Eq. 10), and gamma follows
those. So both signals are averaged anew, over the heads that training would choose, from signals/: no model is loaded.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from analysis.heads import head_sets, select_layers
from analysis.read_signals import HORIZONS, WINDOW, load
from analysis.signals import SignalConfig
from evaluation.artifacts import ReproError, Run, write_table
from training.credit import CreditConfig, credit_weights

CREDIT = CreditConfig()
SIGNALS = SignalConfig(window=WINDOW, horizon=HORIZONS["fai_band"])  # the defaults; what signals/ holds of each head


def stage(run: Run) -> None:
    """Write token_credit.parquet: one row a token of tokens.parquet, joined to it by `response` and `t`."""
    responses = load(run.path("signals"))
    if not responses:
        raise ReproError("signals/ holds no response: delete the folder, and the stage 'signals' makes it anew")
    write_table(
        run.path("token_credit.parquet"), pd.concat([token_credit(one) for one in responses], ignore_index=True)
    )


def token_credit(response: dict[str, np.ndarray]) -> pd.DataFrame:
    """WAAD (tokens), FAI and gamma of each token `t` of one response, as training reads them."""
    span = torch.from_numpy(response["span"])  # (L, H)
    layers = list(select_layers(len(span), SIGNALS.layers, SIGNALS.num_layers))
    local, glob = head_sets(span[layers], SIGNALS.head_fraction)
    rows = {"token": slice(1, None), "predictor": slice(None, -1)}[SIGNALS.row]
    waad = torch.from_numpy(response["waad"][layers][..., rows])[local].float().mean(0)  # (n,)
    fai = torch.from_numpy(response["fai_band"][layers])[glob].float().mean(0)  # (n,)
    whole = torch.ones(1, len(waad), dtype=torch.bool)
    gamma = credit_weights(whole, CREDIT, waad=waad[None], fai=fai[None])[0]
    return pd.DataFrame(
        {
            "response": str(response["response"]),
            "t": range(len(waad)),
            "waad": waad.numpy(),
            "fai": fai.numpy(),
            "gamma": gamma.numpy(),
        }
    )
