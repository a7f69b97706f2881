"""Ensembles: several translators that decode together, by the mean of their probabilities."""

from .loading import first_difference, load_ensemble
from .modeling import EnsembleForSeq2SeqLM

__all__ = ["EnsembleForSeq2SeqLM", "first_difference", "load_ensemble"]
