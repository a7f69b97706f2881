"""Translators: training, decoding and scoring."""
