"""Section 5 of the paper: GRPO with credit, the loop and its actors, and the policy it is tried on."""
