"""Stage `controls`: what is left of the couplings of Table 2 when like is compared with like.

A WAAD peak may have high entropy because it is a number, or because it stands early. So what is observed at the peaks
is also compared with what tokens of the same type, or at the same place, have in *other* responses:

    none   all tokens: Table 2 itself
    type   tokens of the same id; a peak whose token is nowhere else is left out
    place  tokens of the same fifth of the response
    both   tokens of the same id in the same fifth

And the paper reads a peak and its entropy from different rows: attention from the token's own row, entropy from the row
before, which predicted it. `predicted` has the entropy that the peak's own row predicts, that of the next token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.couplings import STATISTICS
from analysis.settings import CouplingsSettings
from attention_rhythm.files import write_table
from attention_rhythm.statistics import CONFIDENCE, Interval, bootstrap_statistic
from evaluation.settings import Run

FIFTHS = 5
CONTROLS = ("none", "type", "place", "both")
PREDICTED = "waad_peak_entropy_predicted"


def stage(run: Run, settings: CouplingsSettings) -> None:
    """Write controls.csv, a row a statistic and control, from tokens.parquet."""
    tokens = pd.read_parquet(run.path("tokens.parquet"))
    write_table(run.path("controls.csv"), controlled(tokens, resamples=settings.bootstrap, seed=run.seed))


def controlled(tokens: pd.DataFrame, *, resamples: int, seed: int) -> pd.DataFrame:
    """One row a statistic and control: lift over what is expected, percent, with its 95% bootstrap interval over
    responses; `peaks`, and the percent of them that could be compared; `density`, peaks in percent of the tokens."""
    tokens = tokens.sort_values(["response", "t"], kind="stable").reset_index(drop=True)
    response = pd.factorize(tokens["response"])[0]
    rows: list[dict[str, Any]] = []
    for name, (chosen, value, usable) in statistics_of(tokens).items():
        for control in CONTROLS:
            cells = Cells.of(strata(tokens, control), response, chosen, value, usable, elsewhere=control != "none")
            whole = np.arange(cells.responses)[None]
            lift = Interval(*[float("nan")] * 3, CONFIDENCE)
            if not np.isnan(cells.lift(whole)[0]):
                lift = bootstrap_statistic(cells.responses, cells.lift, resamples=resamples, seed=seed)
            rows.append(
                {
                    "statistic": name,
                    "control": control,
                    "lift": 100 * lift.estimate,
                    "lift_low": 100 * lift.low,
                    "lift_high": 100 * lift.high,
                    "peaks": int(chosen.sum()),
                    "compared": 100 * float(cells.compared()) / max(int(chosen.sum()), 1),
                    "density": 100 * float(chosen.sum()) / max(int(usable.sum()), 1),
                    "n_responses": cells.responses,
                }
            )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Cells:
    """Sums over the tokens of a stratum in a response, (C,) each; a stratum's cells stand together."""

    stratum: np.ndarray  # from 0 on, rising
    response: np.ndarray  # from 0 on
    peaks: np.ndarray  # number of peaks
    at_peaks: np.ndarray  # sum of the value over peaks
    tokens: np.ndarray  # number of usable tokens
    total: np.ndarray  # sum of the value over usable tokens
    responses: int
    elsewhere: bool  # whether what is expected comes from other responses alone

    @classmethod
    def of(
        cls,
        stratum: np.ndarray,
        response: np.ndarray,
        chosen: np.ndarray,
        value: np.ndarray,
        usable: np.ndarray,
        *,
        elsewhere: bool,
    ) -> Cells:
        """From (T,) arrays; chosen and usable are masks, and chosen tokens are usable."""
        known = np.nan_to_num(value)
        frame = pd.DataFrame(
            {"stratum": stratum, "response": response, "peaks": chosen.astype(float), "at_peaks": chosen * known,
             "tokens": usable.astype(float), "total": usable * known}
        )  # fmt: skip
        sums = frame.groupby(["stratum", "response"], sort=True).sum().reset_index()
        dense = pd.factorize(sums.pop("stratum"))[0]
        columns = {name: sums[name].to_numpy() for name in sums}
        return cls(stratum=dense, **columns, responses=int(response.max()) + 1, elsewhere=elsewhere)

    def lift(self, drawn: np.ndarray) -> np.ndarray:
        """Observed over expected - 1 for the responses drawn, (r, R) -> (r,); NaN where nothing can be compared."""
        times = np.zeros((len(drawn), self.responses))
        np.add.at(times, (np.arange(len(drawn))[:, None], drawn), 1)
        times = times[:, self.response]  # (r, C)
        mean, known = self._expected(times)
        observed = (times * self.at_peaks * known).sum(1)
        expected = (times * self.peaks * mean * known).sum(1)
        return np.divide(observed, expected, out=np.full(len(drawn), np.nan), where=expected > 0) - 1

    def compared(self) -> float:
        """Peaks whose stratum is in other responses too."""
        _, known = self._expected(np.ones((1, len(self.response))))
        return float((self.peaks * known).sum())

    def _expected(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each cell the mean value of its stratum, (r, C), in other responses if wanted; and where it is known."""
        first = np.flatnonzero(np.diff(self.stratum, prepend=-1))
        total, tokens = (np.add.reduceat(times * x, first, axis=1)[:, self.stratum] for x in (self.total, self.tokens))
        if self.elsewhere:
            total, tokens = total - times * self.total, tokens - times * self.tokens
        known = tokens > 0.5
        return np.divide(total, tokens, out=np.zeros_like(total), where=known), known


def statistics_of(tokens: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each statistic of Table 2: which tokens are its peaks, the value that is averaged over them, and over which
    tokens chance is; (T,) each."""
    waad, fai, receiver = (tokens[f"{name}_peak"].to_numpy(bool) for name in ("waad", "fai", "receiver"))
    entropy = tokens["entropy"].to_numpy(float)
    following = tokens.groupby("response", sort=False)["entropy"].shift(-1).to_numpy(float)
    before = tokens.groupby("response", sort=False)["waad_peak"].shift(1).fillna(False).to_numpy(bool)
    usable = tokens["fai"].notna().to_numpy()
    found = {
        "waad_peak_entropy": (waad & ~np.isnan(entropy), entropy, ~np.isnan(entropy)),
        "receiver_global_fai_cooccurrence": (receiver & usable, fai.astype(float), usable),
        "fai_follows_or_coincides_waad": (fai & usable, (waad | before).astype(float), usable),
    }
    assert tuple(found) == STATISTICS
    return found | {PREDICTED: (waad & ~np.isnan(following), following, ~np.isnan(following))}


def strata(tokens: pd.DataFrame, control: str) -> np.ndarray:
    """The number of each token's stratum, (T,)."""
    length = tokens.groupby("response", sort=False)["t"].transform("size")
    place = (tokens["t"] * FIFTHS // length).to_numpy()
    kind = pd.factorize(tokens["token_id"])[0]
    nothing = np.zeros(len(tokens), dtype=np.int64)
    return {"none": nothing, "type": kind, "place": place, "both": kind * FIFTHS + place}[control]
