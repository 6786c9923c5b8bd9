"""What the report says: its sections, what stands in each, and a caption for every figure."""

from __future__ import annotations

from dataclasses import dataclass

from figures.run import EXPERIMENTS

CURVES = (
    "Training curves of the embedded policy, one colour a strategy: means over seeds, bands their 95% interval where "
    "there are several."
)
DIFFERENCES = (
    "Final held-out accuracy of each variant less that of plain GRPO, and less that of random credit of equal budget. "
    "The black bar is the paper's difference, at its scale."
)
CAPTIONS = {
    "fig_summary": (
        "The claims that have a result here. Colour and marker are the verdict, the line our 95% interval, the black "
        "bar the paper's number, the grey line no effect."
    ),
    "fig2_attention": (
        "Fig. 2. Above: attention among the first tokens of one response, mean over the local heads (left) and the "
        "global heads (right). Below: WAAD, FAI and entropy of the same tokens. Triangles are peaks, grey lines WAAD "
        "peaks."
    ),
    "fig9_tokens": (
        "Fig. 9. The text of that response, coloured by each signal. Bold and underlined: a peak. Grey: the signal is "
        "undefined there."
    ),
    "fig_sensitivity": (
        "The three lifts of Table 2 under every convention that the paper leaves open. A row is one set of answers; "
        "the dashed line is the paper's lift."
    ),
    "fig3_perturbation": (
        "Fig. 3. Words that a continuation keeps after a forced token, at positions of high and of low FAI. Dots are "
        "problems, diamonds means with their 95% interval, dashed lines the paper's numbers. Below, a typical case of "
        "each, chosen by rule."
    ),
    "fig_training": CURVES,
    "fig_training_extended": f"{CURVES} More seeds and steps than the default run.",
    **{f"fig_credit_{experiment}": DIFFERENCES for experiment in EXPERIMENTS},
    "fig_accuracy": (
        "Accuracy with its 95% interval; n is the number of problems. Where a generator stood in for a benchmark, its "
        "name stands at the axis."
    ),
}


@dataclass(frozen=True)
class Section:
    """A part of the page; `names` are figures (figures/NAME.png) and tables, in the order of the page."""

    anchor: str
    title: str
    text: str
    names: tuple[str, ...] = ()


TOKENS = "every-token"  # the section with the token view
SECTIONS = (
    Section(
        "summary",
        "Summary",
        "Each claim that can be held against a result of this profile. The verdict is read off our interval alone.",
        ("fig_summary", "summary"),
    ),
    Section(
        "rhythm",
        "The rhythm (Section 4.2)",
        "WAAD says how far back the local heads look, FAI how much later tokens look at this one. The paper claims "
        "that WAAD peaks fall on uncertain tokens, and FAI peaks on them or right after.",
        (
            "fig2_attention",
            "fig9_tokens",
            "table2_couplings",
            "table10_layers",
            "fig_sensitivity",
            "table_sensitivity",
            "table20_overlap",
        ),
    ),
    Section(
        TOKENS,
        "Every token",
        "The sampled responses with all signals. WAAD, FAI and their peaks follow the paper's analysis (every layer, "
        "FAI to the end of the response); γ follows training (five middle layers, FAI over the next 10 to 100 tokens).",
    ),
    Section(
        "perturbation",
        "Changing one token (Section 4.3)",
        "A token is replaced by another likely one, and the response is continued greedily. If anchors matter, less of "
        "the original text survives a change at high FAI.",
        ("fig3_perturbation", "table1_perturbation"),
    ),
    Section(
        "training",
        "Credit in training (Section 5)",
        "A policy of about a million parameters learns Countdown puzzles with each credit strategy: same warm start, "
        "same puzzles, same random numbers; only γ differs. The last table asks which tokens get credit: on the "
        "sampled responses of the model above, under other answers to what the paper leaves open.",
        (
            *(
                name
                for experiment in EXPERIMENTS
                for name in (f"fig_{experiment}", f"fig_credit_{experiment}", experiment)
                if name in CAPTIONS or name == experiment
            ),
            "table_credit_sensitivity",
        ),
    ),
    Section(
        "accuracy",
        "Accuracy on benchmarks",
        "The model as it was handed in, and models trained and evaluated into evaluations/, beside the paper's.",
        ("fig_accuracy", "table3_puzzles", "table4_math", "table6_families"),
    ),
)
