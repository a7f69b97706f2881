"""The task `translation` for transformers' `pipeline()`, which no longer has this task."""

import os
from collections.abc import Iterable
from typing import Any

from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase

from .alignments import align, pharaoh
from .tokenization import load_target_tokenizer, save_tokenizers
from .translation import Hypothesis, check_vocabularies, translate

TASK = "translation"
DEFAULT_BATCH_SIZE = 64


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
        check_vocabularies(model, tokenizer, self.target_tokenizer)

    def __call__(self, texts: str | Iterable[str], **kwargs: Any) -> Any:
        """Translates one text, a list of texts, or the texts of a generator or a data set.

        Args:
            texts: one sentence each; a line feed counts as a space.
            **kwargs: `batch_size`, and the arguments of `translate`: those of `generate()` (`num_beams`,
                `max_new_tokens`, ...), `max_source_length`, `num_return_sequences`, `with_scores`. With
                `return_alignments=True`, a dictionary also has `alignment`, pairs of words in Pharaoh format, and
                `alignment_weights` with `source_tokens` and `target_tokens` (see `alignments.py`).

        Returns:
            For one text, a list of `num_return_sequences` dictionaries with `translation_text`, and `score` if
            requested, the best first. For a list of texts, one dictionary for each, or a list of dictionaries if
            `num_return_sequences` is above 1. For a generator or data set, an iterator over lists of dictionaries.

        Raises:
            ValueError: an input is not a text, settings of the search contradict each other, or a model without
                attention is to return alignments.
        """
        if not isinstance(texts, list | tuple):
            return super().__call__(texts, **kwargs)
        results = super().__call__(list(texts), **kwargs) if texts else []
        return [result[0] if len(result) == 1 else result for result in results]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves the model, its code and both tokenizers."""
        super().save_pretrained(save_directory, **kwargs)
        save_tokenizers(save_directory, self.tokenizer, self.target_tokenizer)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, kwargs, {}

    def preprocess(self, text: str) -> dict[str, str]:
        if not isinstance(text, str):
            raise ValueError(
                f"The pipeline translates texts, but {text!r} is of type {type(text).__name__}. Pass a str."
            )
        return {"text": text}

    def _forward(self, inputs: dict[str, str | list[str]], **arguments: Any) -> dict[str, list[Any]]:
        single = isinstance(inputs["text"], str)
        texts = [inputs["text"]] if single else inputs["text"]
        return_alignments = arguments.pop("return_alignments", False)
        hypotheses = translate(self.model, self.tokenizer, self.target_tokenizer, texts, **arguments)
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
