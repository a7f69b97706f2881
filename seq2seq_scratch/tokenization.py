"""Subword and word vocabularies, trained on the training split and saved as fast tokenizers that need no code of ours.

Text is split the same way for both kinds, without losing anything: a mark stands where a word starts and punctuation
is cut off. Joining the pieces and turning marks into spaces gives the text back, so hypotheses can be scored as they
are, without a detokeniser.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

# The order fixes the ids 0 to 3 that the translators' configs have as defaults.
SPECIAL_TOKENS = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
WORD_START = "▁"
TARGET_SUBFOLDER = "target_tokenizer"


def _normalizer(lowercase: bool) -> normalizers.Normalizer:
    steps = [
        normalizers.NFC(),
        normalizers.Replace(WORD_START, "_"),  # in text it would come back as a space
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    if lowercase:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence(steps)


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always"),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )


def _train_bpe(
    sentences: Iterable[str] | Iterable[list[str]], vocab_size: int, min_frequency: int, lowercase: bool
) -> Tokenizer:
    """The vocabulary is the special tokens, the 256 bytes, the characters, then the merges."""
    reserved = list(SPECIAL_TOKENS.values()) + BYTE_TOKENS
    room = vocab_size - len(reserved)
    if room < 2:
        raise ValueError(
            f"vocab_size is {vocab_size}; a BPE vocabulary needs at least {len(reserved) + 2}, because "
            f"{len(SPECIAL_TOKENS)} special tokens and {len(BYTE_TOKENS)} bytes come first."
        )
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = _normalizer(lowercase), _pre_tokenizer()
    learner.train_from_iterator(
        sentences,
        trainers.BpeTrainer(
            vocab_size=room,
            min_frequency=min_frequency,
            initial_alphabet=[WORD_START],
            # Thousands of rare characters would leave no room for merges; beyond half, they are written as bytes.
            limit_alphabet=max(room // 2, 2),
            show_progress=False,
        ),
    )
    learned = json.loads(learner.to_str())["model"]
    if len(learned["vocab"]) == 1:  # the mark
        raise ValueError("The sentences to train a vocabulary on hold no text.")
    # The trainer could add the bytes as special tokens only, and decoding would skip them.
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
    """The vocabulary is the special tokens, then the most frequent words and punctuation marks."""
    if vocab_size <= len(SPECIAL_TOKENS):
        raise ValueError(
            f"vocab_size is {vocab_size}; a word vocabulary needs more than its {len(SPECIAL_TOKENS)} special tokens."
        )
    unknown = SPECIAL_TOKENS["unk_token"]
    tokenizer = Tokenizer(models.WordLevel(unk_token=unknown))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _normalizer(lowercase), _pre_tokenizer()
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
        raise ValueError(f"The sentences to train a vocabulary on hold no word {min_frequency} times (min_frequency).")
    tokenizer.decoder = decoders.Sequence(
        [
            # An unknown word has lost its mark; where <unk> is shown, it stands apart.
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
    """Learns a vocabulary and returns a tokenizer that is ready for `save_pretrained` and a translator.

    Text is brought to Unicode NFC, runs of white space become one space, outer white space goes, and the character
    `▁`, which marks where words start, becomes `_`. Up to that, decoding gives the text back. A final `</s>` is
    added to every encoded text. Text that reads like a special token (`</s>` in a web page) stays text.

    Args:
        sentences: text to learn from, single or in batches; each is read once.
        kind: `bpe` for byte pair encoding in which the 256 bytes are part of the vocabulary, so that a character never
            seen in training is written in bytes and nothing is unknown; `word` for whole words and punctuation marks,
            everything else being `<unk>`.
        vocab_size: entries of the vocabulary, all counted. Little text gives fewer: `len()` of the result tells.
        lowercase: whether text is lower-cased. Decoding then gives lower case.
        min_frequency: how often a pair must occur to be merged, or a word to be kept.

    Returns:
        The tokenizer, with `<unk>`, `<pad>`, `<s>`, `</s>` as ids 0 to 3.

    Raises:
        ValueError: an unknown kind, a vocabulary without room for what comes first, or sentences without any text
            to learn from.
    """
    trainers_of_kind = {"bpe": _train_bpe, "word": _train_words}
    if kind not in trainers_of_kind:
        raise ValueError(f"kind is {kind!r}; a vocabulary is one of {', '.join(trainers_of_kind)}.")
    if min_frequency < 1:
        raise ValueError(f"min_frequency is {min_frequency}; it must be at least 1.")
    tokenizer = trainers_of_kind[kind](sentences, vocab_size, min_frequency, lowercase)
    tokenizer.normalizer, tokenizer.pre_tokenizer = _normalizer(lowercase), _pre_tokenizer()
    end = SPECIAL_TOKENS["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
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
    """Drops the truncation and padding of the last call, which a fast tokenizer would save as if they were its own."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


def save_tokenizers(
    folder: str | Path, source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Saves a model's tokenizers into its folder.

    The source's stands at the root, where `AutoTokenizer.from_pretrained(folder)` finds it. The target's, if it is
    another, stands in the sub-folder `target_tokenizer`; a shared one is saved once.
    """
    for tokenizer in (source_tokenizer, target_tokenizer):
        forget_last_call(tokenizer)
    source_tokenizer.save_pretrained(folder)
    target_folder = Path(folder, TARGET_SUBFOLDER)
    if target_tokenizer is not source_tokenizer:
        target_tokenizer.save_pretrained(target_folder)
    elif target_folder.exists():
        # Left from an earlier save, it would be taken for the target's tokenizer.
        shutil.rmtree(target_folder)


def load_tokenizers(
    folder_or_hub_id: str | Path, revision: str | None = None
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Loads what `save_tokenizers` saved, or the one tokenizer of any other model.

    Args:
        folder_or_hub_id: a local folder or the id of a model on the Hub.
        revision: a branch, tag or commit on the Hub.

    Returns:
        The source's and the target's tokenizer; the same object twice where the model shares one.

    Raises:
        ValueError: a local folder without a tokenizer.
        OSError: neither a local folder nor a model on the Hub.
    """
    name = str(folder_or_hub_id)
    files = ("tokenizer_config.json", "tokenizer.json")
    if Path(name).is_dir() and not any(Path(name, file).exists() for file in files):
        raise ValueError(f"The folder {name} holds no tokenizer: neither {' nor '.join(files)} is there.")
    source_tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    target_tokenizer = load_target_tokenizer(name, revision=revision)
    return source_tokenizer, source_tokenizer if target_tokenizer is None else target_tokenizer


def load_target_tokenizer(folder_or_hub_id: str, revision: str | None = None) -> PreTrainedTokenizerBase | None:
    """The target's tokenizer of a model that has one of its own, else None; arguments as in `load_tokenizers`."""
    target_file = cached_file(
        folder_or_hub_id,
        "tokenizer_config.json",
        subfolder=TARGET_SUBFOLDER,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
    )
    if target_file is None:
        return None
    # AutoTokenizer would look for a configuration in the subfolder, and give up where there is no network.
    return PreTrainedTokenizerFast.from_pretrained(folder_or_hub_id, subfolder=TARGET_SUBFOLDER, revision=revision)
