"""Translating sentences: batches of similar length, one search for each batch, results in the order of the input."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from .batch_search import BatchSearch, Hypothesis, length_limits
from .constraints import Constraints, Prefix, Term
from .encoding import check_texts, encode_sources, source_limit
from .tokenization import load_tokenizers
from .visible_text import has_visible_text

logger = logging.getLogger(__name__)

# Larger batches take fewer steps. In bf16 on one core, beam 5 takes 7 % more CPU time with 8192, and 19 % more with
# 4096; with 32768 it gained nothing in one measurement and 9 % in another.
TOKENS_PER_BATCH = 16384


def load_translator(
    folder_or_hub_id: str, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Loads a model with its source and target tokenizers, which are one object if the model has one for both.

    Args:
        folder_or_hub_id: a local folder or the id of a model on the Hub.
        revision: a branch, tag or commit on the Hub.
        trust_remote_code: whether code in the model's folder may run. The models of this package do not need it.

    Returns:
        The model in evaluation mode, the source's tokenizer and the target's.

    Raises:
        ValueError: the folder has no tokenizer, or that of another model.
        OSError: there is neither a local folder nor a model on the Hub with this name.
    """
    model = AutoModelForSeq2SeqLM.from_pretrained(
        folder_or_hub_id, revision=revision, trust_remote_code=trust_remote_code, use_safetensors=True
    )
    source_tokenizer, target_tokenizer = load_tokenizers(folder_or_hub_id, revision=revision)
    check_vocabularies(model, source_tokenizer, target_tokenizer)
    if getattr(model.config, "share_vocabulary", True) is None:  # saved by an earlier version
        model.config.share_vocabulary = source_tokenizer is target_tokenizer
    return model.eval(), source_tokenizer, target_tokenizer


def check_vocabularies(
    model: PreTrainedModel, source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raises a ValueError if a tokenizer has more entries than the model, so it must be another model's."""
    source_size = model.config.vocab_size
    target_size = getattr(model.config, "decoder_vocab_size", None) or source_size
    name = model.name_or_path or "the model"
    for side, tokenizer, size in (
        ("source", source_tokenizer, source_size),
        ("target", target_tokenizer, target_size),
    ):
        if len(tokenizer) > size:
            raise ValueError(
                f"The {side} tokenizer of {name} has {len(tokenizer):,} entries, but its model has only {size:,}: it "
                "is another model's. Put the tokenizer files that this model was trained with into its folder."
            )


def _batches_by_length(lengths: Sequence[int], rows_each: int, max_tokens_per_batch: int) -> Iterator[list[int]]:
    """Yields indices of sentences for each batch, the longest first, so that memory runs out at once or never."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * rows_each * lengths[batch[0]] > max_tokens_per_batch:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def make_constraints(
    model: PreTrainedModel, target_tokenizer: PreTrainedTokenizerBase, **settings: Any
) -> Constraints:
    """Returns the constraints of translations by a model.

    Args:
        model, target_tokenizer: a translator.
        settings: `forbidden_words`, `terminology`, `term_bias` and `places` of `Constraints`.

    Raises:
        ValueError: as `Constraints`.
    """
    config = model.config
    end = model.generation_config.eos_token_id
    end_ids = (
        {target_tokenizer.eos_token_id} if end is None else set(end) if isinstance(end, list | tuple) else {int(end)}
    )
    size = getattr(config, "decoder_vocab_size", None) or config.vocab_size
    return Constraints(target_tokenizer, size=size, end_ids=end_ids, **settings)


def check_prefixes(
    model: PreTrainedModel,
    source_tokenizer: PreTrainedTokenizerBase,
    constraints: Constraints,
    sentences: Sequence[str],
    prefixes: Sequence[str],
    *,
    max_source_length: int | None = None,
    max_new_tokens: int | None = None,
    places: Sequence[str] | None = None,
) -> list[Prefix | None]:
    """Reads the beginnings that translations must have, before any sentence is translated.

    Args:
        model, source_tokenizer, max_source_length, max_new_tokens: as in `translate`.
        constraints: those of the model.
        sentences, prefixes: N of each; an empty prefix is none.
        places: where the prefixes come from, for messages; by default their index.

    Returns:
        N prefixes.

    Raises:
        ValueError: the numbers differ, a sentence has a prefix but no text, or a prefix has a forbidden word, a word
            that the vocabulary lacks, or more tokens than the translation may have.
    """
    if len(prefixes) != len(sentences):
        raise ValueError(
            f"prefixes has {len(prefixes)} entries for {len(sentences)} sentences. Give one for each; it may be empty."
        )
    read: list[Prefix | None] = [None] * len(sentences)
    given = [index for index, prefix in enumerate(prefixes) if has_visible_text(prefix)]
    named = {index: places[index] if places else f"prefixes[{index}]" for index in given}
    if given:
        ids, _ = encode_sources(source_tokenizer, [sentences[index] for index in given], max_source_length)
        _, limits = length_limits(model, max_new_tokens, [len(row) for row in ids])
        for index, limit in zip(given, limits, strict=True):
            if not has_visible_text(sentences[index]):
                raise ValueError(
                    f"{named[index]}: the sentence is empty, but it has the prefix {prefixes[index][:60]!r}. "
                    "Leave the prefix out."
                )
            read[index] = constraints.read_prefix(prefixes[index], limit, named[index])
    return read


@torch.inference_mode()
def translate(
    model: PreTrainedModel,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    *,
    max_source_length: int | None = None,
    max_tokens_per_batch: int = TOKENS_PER_BATCH,
    num_return_sequences: int = 1,
    with_scores: bool = False,
    constraints: Constraints | None = None,
    prefixes: Sequence[str] | None = None,
    favoured_terms: Sequence[Sequence[Term]] | None = None,
    progress: Callable[[int], Any] | None = None,
    **generate_kwargs: Any,
) -> list[list[Hypothesis]]:
    """Translates sentences with an encoder-decoder model.

    Sentences of similar length share a batch, and the results are in the order of the input. A sentence without
    visible text gets an empty translation and never reaches the model. Dropout is off during the search.

    Args:
        model: any model whose `generate()` takes the source as `input_ids` and `attention_mask`. Its
            `generation_config` gives the defaults of `generate_kwargs`.
        source_tokenizer: encodes the sentences.
        target_tokenizer: decodes the hypotheses; the same object if the model has one tokenizer for both.
        sentences: plain text.
        max_source_length: largest number of tokens of a source, the end token included. Longer sources are truncated,
            and one warning counts them. By default, and at most, the number of positions that the model has learned;
            other models have no limit.
        max_tokens_per_batch: largest product of a batch's sentences, the hypotheses of each (beams, or samples) and
            the length of its longest source.
        num_return_sequences: number of translations of each sentence.
        with_scores: whether hypotheses have scores. Without beams, with sampling and with constraints that look at a
            sentence's place in the batch, scores cost memory for hypotheses times vocabulary numbers at every step.
        constraints: forbidden words and a terminology (see `make_constraints`).
        prefixes: the beginning that the translation of each sentence must have, or "".
        favoured_terms: for each sentence the terms that get the bias. By default a search runs without bias, and again
            with it for the sentences whose best translation lacks terms, and for these terms. Its translations count
            if the best one has more of the sentence's terms. Samples are drawn with the bias of all terms.
        progress: is called after each batch with the number of sentences that it finished.
        generate_kwargs: arguments of `generate()`: `num_beams`, `length_penalty`, `do_sample`, `temperature`,
            `max_new_tokens`, `max_length` (one more, because it counts the start token) and so on, or a
            `generation_config` with them. By default, hypotheses have at most 50 tokens more than their source
            (Vaswani et al. 2017, section 6.1), and no more than the model's `generation_config` allows; never more
            than the model has learned positions.

    Returns:
        The translations of each sentence: those of a search with the best first, samples in the order drawn. There
        are fewer than num_return_sequences where the limits and constraints of the search allow no more. A terminology
        orders them by their scores with its bias.

    Raises:
        ValueError: settings of the search contradict each other, or allow no translation of a sentence; a sentence
            cannot be read (see `check_texts`); a prefix cannot be met (see `check_prefixes`).
    """
    sentences = check_texts(sentences, "sentences")  # a column of a data set would be read again at every use
    max_source_length = source_limit(model, max_source_length)
    if prefixes is not None:
        prefixes = check_texts(prefixes, "prefixes")
        constraints = constraints or make_constraints(model, target_tokenizer)
    search = BatchSearch.from_arguments(
        model, target_tokenizer, constraints, num_return_sequences, with_scores, generate_kwargs
    )
    results = [[Hypothesis("", 0.0 if with_scores else None)] * num_return_sequences for _ in sentences]
    with_text = [index for index, sentence in enumerate(sentences) if has_visible_text(sentence)]
    if progress is not None and len(with_text) < len(sentences):
        progress(len(sentences) - len(with_text))
    if not with_text:
        return results
    ids, truncated = encode_sources(source_tokenizer, [sentences[index] for index in with_text], max_source_length)
    if any(truncated) and favoured_terms is None:
        logger.warning(
            "%d of %d sources have more than %d tokens (max_source_length, or learned positions) and were truncated.",
            sum(truncated),
            len(sentences),
            max_source_length,
        )
    read_prefixes: list[Prefix | None] = [None] * len(sentences)
    if prefixes is not None and constraints:
        search_limits = {"max_source_length": max_source_length, "max_new_tokens": search.max_new_tokens}
        read_prefixes = check_prefixes(model, source_tokenizer, constraints, sentences, prefixes, **search_limits)
    terms: Sequence[Sequence[Term]] = favoured_terms or [[] for _ in sentences]
    if constraints and favoured_terms is None and search.do_sample:
        terms = [constraints.terms_in(sentence) for sentence in sentences]

    was_training = model.training
    model.eval()
    try:
        for batch in _batches_by_length([len(row) for row in ids], search.rows_each, max_tokens_per_batch):
            indices = [with_text[place] for place in batch]
            found = search.run(
                [ids[place] for place in batch],
                source_tokenizer.pad_token_id,
                [terms[index] for index in indices],
                [read_prefixes[index] for index in indices],
            )
            for index, hypotheses in zip(indices, found, strict=True):
                if not hypotheses:
                    raise ValueError(
                        f"The limits and constraints of the search leave no translation for sentence {index} "
                        f"(counted from 0), {sentences[index][:60]!r}. Loosen them."
                    )
                results[index] = hypotheses
            if progress is not None:
                progress(len(batch))
    finally:
        model.train(was_training)
    if constraints and constraints.terms and favoured_terms is None and not search.do_sample:
        # Favoured throughout, a term that the model writes anyway would often come too early.
        lacking = [
            _terms_lacking(constraints, sentence, best.text)
            for sentence, (best, *_) in zip(sentences, results, strict=True)
        ]
        again = [index for index in with_text if lacking[index]]
        others = translate(
            *(model, source_tokenizer, target_tokenizer, [sentences[index] for index in again]),
            max_source_length=max_source_length,
            max_tokens_per_batch=max_tokens_per_batch,
            num_return_sequences=num_return_sequences,
            with_scores=with_scores,
            constraints=constraints,
            prefixes=None if prefixes is None else [prefixes[index] for index in again],
            favoured_terms=[lacking[index] for index in again],
            **generate_kwargs,
        )
        for index, hypotheses in zip(again, others, strict=True):
            if len(_terms_lacking(constraints, sentences[index], hypotheses[0].text)) < len(lacking[index]):
                results[index] = hypotheses
    return results


def _terms_lacking(constraints: Constraints, sentence: str, translation: str) -> list[Term]:
    return [term for term in constraints.terms_in(sentence) if not term.is_met(translation)]
