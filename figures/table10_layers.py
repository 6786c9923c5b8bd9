"""Table 10: the statistics of Table 2 with heads of the top, middle and bottom third of the layers."""

from __future__ import annotations

import pandas as pd

from figures import registry, table2_couplings
from figures.tables import Table

LAYERS = ("top", "middle", "bottom")


def build(couplings: dict, seed: int) -> pd.DataFrame:
    """One row a statistic and layer range; columns and units as in Table 2."""
    facts = table2_couplings.build(couplings, seed, LAYERS)
    return facts.sort_values(
        "statistic", key=lambda names: names.map(list(names.unique()).index), kind="stable"
    ).reset_index(drop=True)


@registry.table("table10_layers", needs=("couplings", "model", "seed"), section="rhythm", place=4)
def make(couplings: dict, model: dict, seed: int) -> Table:
    """Table 10."""
    facts = build(couplings, seed)
    title = "Table 10. Coupling by layer range, ours and the paper's."
    return Table(facts, table2_couplings.shown(facts), title, table2_couplings.note(couplings, model, seed))
