"""Draws trained models and runs: what they attend to, what they predict and how they were trained."""
