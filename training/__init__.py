"""Section 5 of the paper: credit from attention, GRPO, and the policy it is tried on."""
