"""Translates with an export for CTranslate2, with the results and settings of `seq2seq_scratch.translation`."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from papers_to_gpt.engine.model_folder import EXPORT_FILE, read_json
from papers_to_gpt.exporting.ctranslate2_engine import load_engine, sampling_options
from papers_to_gpt.exporting.exported_folder import refuse_settings
from papers_to_gpt.exporting.saved_generation import SavedGeneration, saved_sampling
from papers_to_gpt.settings.decoding import SearchSettings
from seq2seq_scratch.batch_search import TOKENS_BEYOND_SOURCE, Hypothesis
from seq2seq_scratch.beam_search import length_normalization
from seq2seq_scratch.encoding import encode_sources
from seq2seq_scratch.tokenization import load_tokenizers
from seq2seq_scratch.visible_text import has_visible_text

logger = logging.getLogger(__name__)

# Settings of the scripts that translate which need our own model.
REFUSED = ("with_alignments", "with_prefixes", "forbidden_words", "terminology", "force_decode", "rescore")

# Longer hypotheses, which the normalization favours, finish later. With 1, the search ends before some of them.
PATIENCE = 2


class ExportedTranslator:
    """A translator in CTranslate2.

    Args:
        folder: the folder of an export.

    Raises:
        ValueError: the package, the tokenizer or the weights are missing, the export is of another kind, or the model
            was saved with settings of generation that CTranslate2 does not have.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.tokenizers = load_tokenizers(self.folder)
        self.positions = read_json(self.folder / EXPORT_FILE)["positions"]
        self.engine = load_engine("Translator", self.folder)
        self.defaults = GenerationConfig.from_pretrained(self.folder)
        self.saved = SavedGeneration.of(self.defaults, self.target_tokenizer)
        ends = self.defaults.eos_token_id
        self.end_ids = [ends] if isinstance(ends, int) else ends

    @property
    def source_tokenizer(self) -> PreTrainedTokenizerBase:
        return self.tokenizers[0]

    @property
    def target_tokenizer(self) -> PreTrainedTokenizerBase:
        return self.tokenizers[1]

    def make_translator(self, settings: SearchSettings, **n_best: Any) -> Callable[..., list[list[Hypothesis]]]:
        """Returns a function from sentences to hypotheses, best first; see `translation.decoding.make_translator`."""
        refuse_settings(settings, REFUSED, self.folder)
        given = {name: getattr(settings, name) for name in ("num_beams", "length_penalty", "max_new_tokens")}
        if settings.do_sample:
            limits = (settings.temperature, settings.top_k, settings.top_p)
            given |= {"num_beams": 1, "sampling": sampling_options(len(self.target_tokenizer), *limits)}

        def translate_lines(lines: list[str], first: int = 0, **arguments: Any) -> list[list[Hypothesis]]:
            import ctranslate2

            if settings.seed is not None:
                # As in our own search, a group of lines has a seed of its own. A thread of the engine reads the seed
                # only once, so every group gets new threads.
                ctranslate2.set_random_seed((settings.seed + first) % 2**32)
                self.engine = load_engine("Translator", self.folder)
            chosen = given | {name: value for name, value in arguments.items() if value is not None}
            return self.translate(
                lines,
                max_source_length=settings.max_source_length,
                max_tokens_per_batch=settings.max_tokens_per_batch,
                **n_best,
                **{name: value for name, value in chosen.items() if value is not None},
            )

        return translate_lines

    def translate(
        self,
        sentences: Sequence[str],
        *,
        num_beams: int | None = None,
        length_penalty: float | None = None,
        max_new_tokens: int | None = None,
        max_source_length: int | None = None,
        max_tokens_per_batch: int = 16384,
        num_return_sequences: int = 1,
        with_scores: bool = False,
        do_sample: bool | None = None,
        sampling: dict[str, Any] | None = None,
    ) -> list[list[Hypothesis]]:
        """Translates sentences; arguments and results are those of `seq2seq_scratch.translation.translate`.

        CTranslate2 divides by another power of the length than our models. So it searches without a divisor, until
        `PATIENCE` times as many hypotheses as beams are finished, and these are then ordered by the scores of Wu et
        al. 2016.

        Args:
            do_sample: whether to sample with the saved settings; by default, as the model was saved.
            sampling: options of CTranslate2's sampling in place of the saved ones.

        Raises:
            ValueError: a source has more tokens than the export has positions, the number of beams is too small, or
                samples are asked for with beams.
        """
        num_beams = num_beams or self.defaults.num_beams or 1
        if sampling is None and (self.defaults.do_sample if do_sample is None else do_sample):
            sampling = saved_sampling(self.defaults, len(self.target_tokenizer))
        if num_beams > 1 and sampling is not None:
            raise ValueError(
                f"The model was saved with do_sample, and num_beams is {num_beams}, but CTranslate2 samples without "
                "beams. Set num_beams to 1."
            )
        if num_return_sequences > num_beams and sampling is None:
            raise ValueError(
                f"num_return_sequences is {num_return_sequences}, but num_beams is {num_beams}: a search returns no "
                "more translations than it has beams. Raise num_beams, or set do_sample."
            )
        alpha = self.defaults.length_penalty if length_penalty is None else length_penalty
        alpha = 1.0 if alpha is None else alpha
        alpha = alpha if num_beams > 1 else 0.0
        reorder = bool(alpha) and sampling is None
        patience = PATIENCE if reorder and self.defaults.early_stopping is not True else 1
        results = [[Hypothesis("", 0.0 if with_scores else None)] * num_return_sequences for _ in sentences]
        with_text = [index for index, sentence in enumerate(sentences) if has_visible_text(sentence)]
        if not with_text:
            return results
        ids, truncated = encode_sources(
            self.source_tokenizer, [sentences[index] for index in with_text], max_source_length
        )
        if any(truncated):
            logger.warning(
                "%d of %d sources have more than %d tokens (max_source_length) and were truncated.",
                *(sum(truncated), len(sentences), max_source_length),
            )
        if max(map(len, ids)) > self.positions:
            raise ValueError(
                f"A source has {max(map(len, ids))} tokens, and {self.folder} has {self.positions} positions. "
                f"Set max_source_length to {self.positions} or less."
            )
        limits = [self._limit(len(row), max_new_tokens) for row in ids]
        options = {
            "beam_size": num_beams,
            "length_penalty": 0,
            "return_scores": True,
            "return_end_token": True,
            "end_token": self.end_ids,
            # All finished hypotheses are needed to order them anew.
            "patience": patience,
            "num_hypotheses": patience * num_beams if reorder else num_return_sequences,
            # With a minimum of 1, the end would get no probability at the first step. Ours counts the start token.
            "min_decoding_length": self.saved.shortest(1),
            "max_input_length": 0,
            "max_batch_size": max(1, max_tokens_per_batch // num_beams),
            "batch_type": "tokens",
            **self.saved.options,
            **(sampling or {}),
        }
        tokens = [self.source_tokenizer.convert_ids_to_tokens(row) for row in ids]
        found = self._search(tokens, max(limits), options)
        # The engine has one limit for all sentences. Those that went beyond their own are searched again.
        beyond: dict[int, list[int]] = {}
        for index, (hypotheses, limit) in enumerate(zip(found, limits, strict=True)):
            if any(len(words) > limit for words, _ in hypotheses):
                beyond.setdefault(limit, []).append(index)
        for limit, indices in beyond.items():
            again = self._search([tokens[index] for index in indices], limit, options)
            for index, hypotheses in zip(indices, again, strict=True):
                found[index] = hypotheses
        for index, hypotheses in zip(with_text, found, strict=True):
            scored = [(total / length_normalization(len(words), alpha), words) for words, total in hypotheses]
            if sampling is None:
                scored.sort(key=lambda each: -each[0])
            results[index] = [
                Hypothesis(self._text(words), score if with_scores else None)
                for score, words in scored[:num_return_sequences]
            ]
        return results

    def score(self, sources: Sequence[Sequence[str]], targets: Sequence[Sequence[str]]) -> list[list[float]]:
        """Returns the log-probability of each token of given translations, the end token included.

        Args:
            sources: tokens of N sources, the end token included.
            targets: tokens of N translations, without start and end token.
        """
        return [list(each.log_probs) for each in self.engine.score_batch(sources, targets, max_input_length=0)]

    def _limit(self, source_length: int, max_new_tokens: int | None) -> int:
        """Returns the largest number of tokens of a translation, by the rule of `seq2seq_scratch.translation`."""
        if max_new_tokens is None:
            of_model = [self.defaults.max_new_tokens, self.defaults.max_length and self.defaults.max_length - 1]
            given = [value for value in of_model if value is not None]
            max_new_tokens = min([source_length + TOKENS_BEYOND_SOURCE, *given])
        return min(max_new_tokens, self.positions)

    def _search(
        self, sources: list[list[str]], limit: int, options: dict[str, Any]
    ) -> list[list[tuple[list[str], float]]]:
        """Returns the tokens of the hypotheses of each source, with the end token, and their log-probabilities."""
        results = self.engine.translate_batch(sources, max_decoding_length=limit, **options)
        return [list(zip(result.hypotheses, result.scores, strict=True)) for result in results]

    def _text(self, tokens: Sequence[str]) -> str:
        ids = self.target_tokenizer.convert_tokens_to_ids(list(tokens))
        return " ".join(self.target_tokenizer.decode(ids, skip_special_tokens=True).split())
