"""The task `translation` for transformers' `pipeline()`, which no longer has this task."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase

from .alignments import align, pharaoh
from .constraints import Constraints
from .tokenization import load_target_tokenizer, save_tokenizers
from .translation import Hypothesis, check_vocabularies, make_constraints, translate

TASK = "translation"
DEFAULT_BATCH_SIZE = 64


@dataclass(frozen=True)
class _Prefixed:
    """A text with the beginning of its translation."""

    text: Any
    prefix: Any = ""


class TranslationPipeline(Pipeline):
    """Translates texts the way `translate` does, with the search that the model was saved with.

        translator = pipeline("translation", model="runs/numbers_bahdanau")
        translator("three")                           # [{"translation_text": "drei"}]
        translator(["three", "four"], num_beams=1)    # [{"translation_text": "drei"}, {"translation_text": "vier"}]

    Args:
        model, tokenizer, device and so on: as in every pipeline; `tokenizer` is the source's.
        target_tokenizer: decodes the translations. By default the one in the model's sub-folder `target_tokenizer`, or
            `tokenizer` if there is none, because source and target then share a vocabulary.
        batch_size: number of texts that are encoded and sorted by length together, by default 64.
            `max_tokens_per_batch` of `translate` limits the model's own batches.
        **kwargs: defaults for the arguments of calls.

    Raises:
        ValueError: the tokenizer is another model's.
    """

    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        target_tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
        **kwargs: Any,
    ):
        super().__init__(model, tokenizer, batch_size=batch_size, **kwargs)
        name = model.name_or_path
        if target_tokenizer is None and name:
            target_tokenizer = load_target_tokenizer(name, revision=getattr(model.config, "_commit_hash", None))
        self.target_tokenizer = tokenizer if target_tokenizer is None else target_tokenizer
        self._constraints: tuple[Any, Constraints | None] = (None, None)  # the last ones, with what they were made of
        check_vocabularies(model, tokenizer, self.target_tokenizer)

    def __call__(self, texts: str | Iterable[str], **kwargs: Any) -> Any:
        """Translates one text, a list of texts, or the texts of a generator or a data set.

        Args:
            texts: one sentence each; a line feed counts as a space.
            **kwargs: `batch_size`, and the arguments of `translate`: those of `generate()` (`num_beams`,
                `max_new_tokens`, ...), `max_source_length`, `num_return_sequences`, `with_scores`. With
                `return_alignments=True`, a dictionary also has `alignment`, pairs of words in Pharaoh format, and
                `alignment_weights` with `source_tokens` and `target_tokens` (see `alignments.py`). Constraints (see
                `Constraints`) are `forbidden_words`, a list; `terminology`, a dictionary or a list of pairs, with
                `term_bias`; and `prefixes`, for each text the beginning of its translation, or "".

        Returns:
            For one text, a list of `num_return_sequences` dictionaries with `translation_text`, and `score` if
            requested, the best first. For a list of texts, one dictionary for each, or a list of dictionaries if
            `num_return_sequences` is above 1. For a generator or data set, an iterator over lists of dictionaries.

        Raises:
            ValueError: an input is not a text, settings of the search contradict each other, a model without
                attention is to return alignments, or constraints cannot be met.
        """
        prefixes = kwargs.pop("prefixes", None)
        if prefixes is not None:
            texts = self._join(texts, prefixes)
        if not isinstance(texts, list | tuple):
            return super().__call__(texts, **kwargs)
        results = super().__call__(list(texts), **kwargs) if texts else []
        asked = kwargs.get("num_return_sequences", self._forward_params.get("num_return_sequences", 1))
        return [result if asked > 1 else result[0] for result in results]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves the model, its code and both tokenizers."""
        super().save_pretrained(save_directory, **kwargs)
        save_tokenizers(save_directory, self.tokenizer, self.target_tokenizer)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, kwargs, {}

    @staticmethod
    def _join(texts: str | Iterable[str], prefixes: str | Iterable[str]) -> Any:
        """Returns texts as `_Prefixed` ones: one, a list, or a generator."""
        if isinstance(texts, str):
            (prefix,) = [prefixes] if isinstance(prefixes, str) else prefixes
            return _Prefixed(texts, prefix)
        if isinstance(texts, list | tuple):
            if isinstance(prefixes, str) or len(prefixes := list(prefixes)) != len(texts):
                raise ValueError(f'prefixes must be a list of {len(texts)}, one for each text; it may be "".')
            return [_Prefixed(*pair) for pair in zip(texts, prefixes, strict=True)]
        return (_Prefixed(*pair) for pair in zip(texts, prefixes, strict=True))

    def preprocess(self, text: "str | _Prefixed") -> dict[str, str]:
        given = text if isinstance(text, _Prefixed) else _Prefixed(text)
        for each in (given.text, given.prefix):
            if not isinstance(each, str):
                raise ValueError(
                    f"The pipeline translates texts, but {each!r} is of type {type(each).__name__}. Pass a str."
                )
        return {"text": given.text, "prefix": given.prefix}

    def _make_constraints(
        self, has_prefixes: bool, forbidden_words: Any = (), terminology: Any = (), term_bias: float | None = None
    ) -> Constraints | None:
        """Returns the constraints of a call. Those of the last batch are kept, because they take time to make."""
        made_of = repr((has_prefixes, forbidden_words, terminology, term_bias))
        if self._constraints[0] != made_of:
            settings: dict[str, Any] = {"forbidden_words": forbidden_words or (), "terminology": terminology or ()}
            settings |= {} if term_bias is None else {"term_bias": term_bias}
            made = None
            if has_prefixes or forbidden_words or terminology:
                made = make_constraints(self.model, self.target_tokenizer, **settings)
            self._constraints = (made_of, made)
        return self._constraints[1]

    def _forward(self, inputs: dict[str, str | list[str]], **arguments: Any) -> dict[str, list[Any]]:
        single = isinstance(inputs["text"], str)
        texts, prefixes = ([inputs[name]] if single else inputs[name] for name in ("text", "prefix"))
        return_alignments = arguments.pop("return_alignments", False)
        names = ("forbidden_words", "terminology", "term_bias")
        stated = {name: arguments.pop(name) for name in names if name in arguments}
        hypotheses = translate(
            *(self.model, self.tokenizer, self.target_tokenizer, texts),
            constraints=self._make_constraints(any(prefixes), **stated),
            prefixes=prefixes if any(prefixes) else None,
            **arguments,
        )
        described = [[self._describe(hypothesis) for hypothesis in each] for each in hypotheses]
        if return_alignments:
            self._add_alignments(texts, described, arguments.get("max_source_length"))
        return {"hypotheses": described[0] if single else described}

    @staticmethod
    def _describe(hypothesis: Hypothesis) -> dict[str, Any]:
        score = {} if hypothesis.score is None else {"score": hypothesis.score}
        return {"translation_text": hypothesis.text} | score

    def _add_alignments(self, texts: list[str], described: list[list[dict[str, Any]]], max_length: int | None) -> None:
        rows = [(text, each) for text, several in zip(texts, described, strict=True) for each in several]
        found = align(
            self.model,
            self.tokenizer,
            self.target_tokenizer,
            [text for text, _ in rows],
            [each["translation_text"] for _, each in rows],
            max_source_length=max_length,
        )
        for (_, each), alignment in zip(rows, found, strict=True):
            each["alignment"] = "" if alignment is None else pharaoh(alignment.word_pairs())
            each["alignment_weights"] = [] if alignment is None else alignment.weights.tolist()
            each["source_tokens"] = [] if alignment is None else list(alignment.source_tokens)
            each["target_tokens"] = [] if alignment is None else list(alignment.target_tokens)

    def postprocess(self, outputs: dict[str, list[Any]]) -> list[dict[str, Any]]:
        return outputs["hypotheses"]
