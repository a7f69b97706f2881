"""Subword and word vocabularies, trained on the training split and saved as fast tokenizers that need no own code.

Both kinds split text in the same way: the mark `▁` is put before every word, and punctuation is separated from words.
Nothing is lost: joining the pieces and replacing marks by spaces gives the text back. So hypotheses can be scored as
they are, without a detokeniser.

Byte-pair encoding (BPE, Sennrich, Haddow and Birch 2016) is between characters and words. Training starts with every
word as a sequence of characters, and then merges the most frequent pair of adjacent symbols into a new symbol,
everywhere, until the vocabulary is full. For the words low (5 times), lower (2), newest (6) and widest (3):

    ▁ l o w    ▁ l o w e r    ▁ n e w e s t    ▁ w i d e s t        the most frequent pair is e s (9 times)
    ▁ l o w    ▁ l o w e r    ▁ n e w es t     ▁ w i d es t         es t (9 times)
    ▁ l o w    ▁ l o w e r    ▁ n e w est      ▁ w i d est          ...

To encode a word, the tokenizer applies the merges to its characters in the order in which they were learned. So
frequent words are one token, rare words are several, and a new word such as "lowest" becomes known pieces: ▁low est.
"""

import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

logger = logging.getLogger(__name__)

# The order gives the tokens the ids 0 to 3, which are the defaults of the translators' configurations.
SPECIAL_TOKENS = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
WORD_START = "▁"
TARGET_SUBFOLDER = "target_tokenizer"

# Words of more characters are learned from in pieces of as many. Learning from a word takes time that grows with the
# square of its length, and no word of a language comes near.
LONGEST_WORD = 1000


def text_normalizer(lowercase: bool) -> normalizers.Normalizer:
    """Returns what `train_tokenizer` normalises text with."""
    steps = [
        normalizers.NFC(),
        normalizers.Replace(WORD_START, "_"),  # decoding would turn the mark into a space
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    if lowercase:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence(steps)


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """Returns what puts the mark before every word and separates punctuation."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always"),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )


def end_of_sentence(end_id: int) -> processors.PostProcessor:
    """Returns what appends the end token to a sentence."""
    end = SPECIAL_TOKENS["eos_token"]
    return processors.TemplateProcessing(single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, end_id)])


def _report_long_words(sentences: Iterable[str] | Iterable[list[str]], lowercase: bool) -> Iterator[str | list[str]]:
    """Yields the sentences, and then warns if a word was longer than `LONGEST_WORD`."""
    # New objects, because those of the trainer are locked while it trains.
    normalizer, splitter = text_normalizer(lowercase), word_splitter()
    long_run, longest = re.compile(rf"\S{{{LONGEST_WORD},}}"), 0
    for item in sentences:
        for sentence in [item] if isinstance(item, str) else item:
            for run in long_run.findall(sentence):
                words = splitter.pre_tokenize_str(normalizer.normalize_str(run))
                longest = max(longest, *(len(word) for word, _ in words))
        yield item
    if longest > LONGEST_WORD:
        logger.warning(
            "The sentences to train a vocabulary on have words of up to %s characters; those of more than %s were "
            "learned from in pieces of as many.",
            f"{longest:,}",
            f"{LONGEST_WORD:,}",
        )


def _train_bpe(
    sentences: Iterable[str] | Iterable[list[str]], vocab_size: int, min_frequency: int, lowercase: bool
) -> Tokenizer:
    """Trains BPE; the vocabulary is the special tokens, the 256 bytes, the characters and then the merges."""
    reserved = list(SPECIAL_TOKENS.values()) + BYTE_TOKENS
    room = vocab_size - len(reserved)
    if room < 2:
        raise ValueError(
            f"vocab_size is {vocab_size}; a BPE vocabulary needs at least {len(reserved) + 2}, because "
            f"{len(SPECIAL_TOKENS)} special tokens and {len(BYTE_TOKENS)} bytes come first. Raise vocab_size."
        )
    learner = Tokenizer(models.BPE())
    learner.normalizer = text_normalizer(lowercase)
    learner.pre_tokenizer = pre_tokenizers.Sequence([word_splitter(), pre_tokenizers.FixedLength(LONGEST_WORD)])
    learner.train_from_iterator(
        _report_long_words(sentences, lowercase),
        trainers.BpeTrainer(
            vocab_size=room,
            min_frequency=min_frequency,
            initial_alphabet=[WORD_START],
            # Thousands of rare characters would leave no room for merges. Characters beyond half of it become bytes.
            limit_alphabet=max(room // 2, 2),
            show_progress=False,
        ),
    )
    learned = json.loads(learner.to_str())["model"]
    if len(learned["vocab"]) == 1:  # nothing but the mark
        raise ValueError("The sentences to train a vocabulary on contain no text. Check the training file.")
    # The trainer can add the bytes only as special tokens, which decoding would skip.
    pieces = reserved + sorted(learned["vocab"], key=learned["vocab"].get)
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[tuple(merge) for merge in learned["merges"]],
            unk_token=SPECIAL_TOKENS["unk_token"],
            byte_fallback=True,
        )
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement=WORD_START, prepend_scheme="always")]
    )
    return tokenizer


def _train_words(
    sentences: Iterable[str] | Iterable[list[str]], vocab_size: int, min_frequency: int, lowercase: bool
) -> Tokenizer:
    """Trains a word vocabulary: the special tokens, then the most frequent words and punctuation marks."""
    if vocab_size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"vocab_size is {vocab_size}; a word vocabulary needs more than its {len(SPECIAL_TOKENS)} special tokens. "
            "Raise vocab_size."
        )
    unknown = SPECIAL_TOKENS["unk_token"]
    tokenizer = Tokenizer(models.WordLevel(unk_token=unknown))
    tokenizer.normalizer, tokenizer.pre_tokenizer = text_normalizer(lowercase), word_splitter()
    tokenizer.train_from_iterator(
        sentences,
        trainers.WordLevelTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=list(SPECIAL_TOKENS.values()),
            show_progress=False,
        ),
    )
    if tokenizer.get_vocab_size() == len(SPECIAL_TOKENS):
        raise ValueError(
            f"min_frequency is {min_frequency}, but the sentences to train a vocabulary on contain no word as often. "
            "Lower min_frequency."
        )
    tokenizer.decoder = decoders.Sequence(
        [
            # An unknown word has lost its mark, so <unk> gets one if it is shown.
            decoders.Replace(unknown, WORD_START + unknown),
            decoders.Metaspace(replacement=WORD_START, prepend_scheme="always"),
        ]
    )
    return tokenizer


def train_tokenizer(
    sentences: Iterable[str] | Iterable[list[str]],
    *,
    kind: Literal["bpe", "word"],
    vocab_size: int,
    lowercase: bool = False,
    min_frequency: int = 2,
) -> PreTrainedTokenizerFast:
    """Trains a vocabulary and returns a tokenizer that is ready for `save_pretrained` and a translator.

    Text is normalised: Unicode NFC, one space for a run of white space, no outer white space, and `_` for the
    character `▁`, which marks the start of a word. Apart from this, decoding gives the text back. Every encoded text
    ends with `</s>`. Text that reads like a special token (`</s>` in a web page) stays text.

    Args:
        sentences: text to learn from, single sentences or batches; each is read once.
        kind: `bpe` for byte-pair encoding. The vocabulary contains the 256 bytes, so a character that does not occur
            in training is written as bytes, and nothing is unknown. `word` for whole words and punctuation marks;
            everything else becomes `<unk>`.
        vocab_size: number of entries of the vocabulary, special tokens included. Little text gives fewer entries; the
            `len()` of the result is the true number.
        lowercase: whether text is converted to lower case. Decoding then gives lower case.
        min_frequency: number of times that a pair must occur to be merged, or a word to be kept.

    Returns:
        The tokenizer, with `<unk>`, `<pad>`, `<s>`, `</s>` as ids 0 to 3.

    Raises:
        ValueError: the kind is unknown, `min_frequency` is below 1, the vocabulary is too small for the entries that
            come first, or the sentences contain no text to learn from.
    """
    trainers_of_kind = {"bpe": _train_bpe, "word": _train_words}
    if kind not in trainers_of_kind:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(trainers_of_kind)}.")
    if min_frequency < 1:
        raise ValueError(f"min_frequency is {min_frequency}; it must be at least 1.")
    tokenizer = trainers_of_kind[kind](sentences, vocab_size, min_frequency, lowercase)
    tokenizer.normalizer, tokenizer.pre_tokenizer = text_normalizer(lowercase), word_splitter()
    tokenizer.post_processor = end_of_sentence(tokenizer.token_to_id(SPECIAL_TOKENS["eos_token"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **SPECIAL_TOKENS,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


def forget_last_call(tokenizer: PreTrainedTokenizerBase) -> None:
    """Resets truncation and padding of the last call, which a fast tokenizer would save as its own settings."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


def save_tokenizers(
    folder: str | Path, source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Saves a model's tokenizers into its folder.

    The source's tokenizer is saved at the root, where `AutoTokenizer.from_pretrained(folder)` finds it. A separate
    tokenizer of the target is saved in the sub-folder `target_tokenizer`; a shared one is saved once.

    Args:
        folder: the model's folder.
        source_tokenizer, target_tokenizer: the same object if the model has one tokenizer for both.
    """
    for tokenizer in (source_tokenizer, target_tokenizer):
        forget_last_call(tokenizer)
    source_tokenizer.save_pretrained(folder)
    target_folder = Path(folder, TARGET_SUBFOLDER)
    if target_tokenizer is not source_tokenizer:
        target_tokenizer.save_pretrained(target_folder)
    elif target_folder.exists():
        # A folder that an earlier save left would be loaded as the target's tokenizer.
        shutil.rmtree(target_folder)


def load_tokenizers(
    folder_or_hub_id: str | Path, revision: str | None = None
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Loads the tokenizers that `save_tokenizers` saved, or the one tokenizer of any other model.

    Args:
        folder_or_hub_id: a local folder or the id of a model on the Hub.
        revision: a branch, tag or commit on the Hub.

    Returns:
        The source's and the target's tokenizer; the same object twice if the model has one for both.

    Raises:
        ValueError: the local folder has no tokenizer.
        OSError: there is neither a local folder nor a model on the Hub with this name.
    """
    name = str(folder_or_hub_id)
    files = ("tokenizer_config.json", "tokenizer.json")
    if Path(name).is_dir() and not any(Path(name, file).exists() for file in files):
        raise ValueError(f"The folder {name} holds no tokenizer: neither {' nor '.join(files)} is there.")
    source_tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    target_tokenizer = load_target_tokenizer(name, revision=revision)
    return source_tokenizer, source_tokenizer if target_tokenizer is None else target_tokenizer


def load_target_tokenizer(folder_or_hub_id: str, revision: str | None = None) -> PreTrainedTokenizerBase | None:
    """Loads the target's tokenizer, or returns None for a model with one tokenizer; see `load_tokenizers`."""
    target_file = cached_file(
        folder_or_hub_id,
        "tokenizer_config.json",
        subfolder=TARGET_SUBFOLDER,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
    )
    if target_file is None:
        return None
    # AutoTokenizer would look for a configuration in the sub-folder, and fail without a network.
    return PreTrainedTokenizerFast.from_pretrained(folder_or_hub_id, subfolder=TARGET_SUBFOLDER, revision=revision)
