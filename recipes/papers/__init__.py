"""The papers' claims, measured: one file a paper, in the order of the paper, and what the experiments share."""
