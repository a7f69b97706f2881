"""GPT-1's tokenizer: the published text pipeline and byte-pair encoding, as one fast tokenizer.

Byte-pair encoding (Sennrich et al. 2016) builds a vocabulary between characters and words. Training starts with every
word as a sequence of characters, the last of which is marked with `</w>`, because a token that ends a word differs
from one that does not. It then merges the most frequent pair of adjacent symbols into a new symbol, everywhere, and
repeats this; the published model has 40,000 merges. For the words hug (10 times), pug (5), pun (12) and hugs (5):

    h u g</w>   p u g</w>   p u n</w>   h u g s</w>       the most frequent pair is p u (17 times)
    h u g</w>   pu g</w>    pu n</w>    h u g s</w>       h u (15 times)
    hu g</w>    pu g</w>    pu n</w>    hu g s</w>        pu n</w> (12 times)
    hu g</w>    pu g</w>    pun</w>     hu g s</w>        ...

To encode a word, the tokenizer applies the merges to its characters in the order in which they were learned. So
frequent words are one token, and rare words are several.

OpenAI's code prepares text with ftfy, a few substitutions and spaCy's English word split, and converts the words to
lower case before it applies the merges. Here the `tokenizers` library's normalisers do all of this. They are saved in
one `tokenizer.json`, which `AutoTokenizer` loads without ftfy, spaCy or this package.

The tokens are those of the original pipeline for:

- curly quotes, dashes, the ellipsis, ligatures, line ends, control characters and composed accents, which ftfy and
  OpenAI's substitutions replace;
- `! " ; ? + , ( ) * [ ] { } _`, which are separate tokens, and runs of `- ~ \\ / |`, which stay together; a line
  break, which is one token together with the white space around it; other white space, which becomes one space;
- spaCy's contractions (`do n't`, `it 's`, `they 'll`, `can not`), opening and closing quotes, final full stops,
  abbreviations that keep their full stop (`Mr.`, `e.g.`, `U.S.`), numbers with units, `word.Word` and `a:b`;
- lower case, merges, and `<unk>` for a character outside the vocabulary.

They differ for text that was decoded with the wrong encoding, full-width forms and HTML entities, which ftfy repairs,
and for emoticons, URLs, e-mail addresses and two apostrophes in a row, which spaCy handles.

The tokenizer has a chat template, which writes a conversation as a play: `user: ...`, a line break, `assistant: ...`
and `<start>`, which ends a reply. It serves to fine-tune on conversations and to use chat clients. GPT-1 itself is not
a chat model, because the format does not occur in its pre-training data.

    >>> tokenizer = published_tokenizer("encoder_bpe_40000.json", "vocab_40000.bpe")
    >>> tokenizer.tokenize("Don't stop\\u2014Mr. Smith can't.")
    ['do</w>', "n't</w>", 'stop</w>', '-</w>', 'mr.</w>', 'smith</w>', 'ca</w>', "n't</w>", '.</w>']
"""

import copy
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

UNKNOWN = "<unk>"
WORD_END = "</w>"
START, DELIMITER, EXTRACT, PADDING = "<start>", "<delimiter>", "<extract>", "<pad>"
MASK = "<mask>"

# Number of most frequent characters of a training corpus that have tokens; others become `<unk>`.
LARGEST_ALPHABET = 1000

# Words of more characters are learned from in pieces of as many. Learning from a word takes time that grows with the
# square of its length, and no word of a language comes near.
LONGEST_WORD = 1000


def _words(*lists: str, capital: bool = True) -> str:
    """Returns look-behind alternatives for whole words, in lower case or with a capital, as in spaCy's tables."""
    words = " ".join(lists).split()
    forms = [f"[{word[0].upper()}{word[0]}]{re.escape(word[1:])}" if capital else re.escape(word) for word in words]
    return "|".join(rf"\A{form}|\s{form}" for form in forms)


# spaCy's rules for splitting what is between two spaces.
_PREFIX = r"(?:[§%=:<>#&'`«»¿¡$£€¥¢]|(?:US|A|C)\$)"
_SUFFIX = r"[:<>#&'`«»¿¡]"
_UNIT = "(?:km|cm|mm|m|kg|mg|g|t|lb|oz|ft|in|yd|mph|[mkgt]b|[MKGT]B?|%|[$£€])"
_ABBREVIATIONS = _words(  # words that keep their full stop
    "Adm Ak Ala Apr Ariz Ark Aug Bros Calif Co Colo Conn Corp Dec Del Dr Feb Fla Ga Gen Gov Ia Id Ill Inc Ind Jan Jr",
    "Jul Jun Kan Kans Ky La Ltd Mar Mass Md Messrs Mich Minn Miss Mo Mont Mr Mrs Ms Mt Neb Nebr Nev Nov Oct Okla",
    "Ore Pa Prof Rep Rev Sen Sep Sept St Tenn Va Wash Wis co vs a.m p.m e.g E.g i.e I.e v.s",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z ä ö ü",
    capital=False,
)
_CLIPPED_START = "'(?:[Cc]ause|[Cc]os|[Cc]oz|[Cc]uz|[Ss]|bout|d|em|ll|nuff|re)"  # 'em, which keeps its apostrophe
_CLIPPED_END = _words("doin goin havin lovin nothin nuthin somethin ol")
_NEGATED = "ai are ca could dare did do does had has have is may might must need ought sha should was were wo would"
_ASKED = "how what when where who why"
_SHOWN = "these those there"
_MODAL = "could might must should would not"
_CLOSING = rf"(?={_SUFFIX}+(?!\S))(?<=\S)(?<!{_CLIPPED_END}|\A'|\s')"

# Characters that are always tokens of their own.
SEPARATE = r"""!";?+,()*\[\]{}_"""

# The places where spaces are inserted, in this order. Each pattern matches an empty string between two characters. At
# the ends of the text, the library's alignment would break. Conditions that rarely hold come first, which makes the
# patterns several times faster.
_WORD_BREAKS = (
    # OpenAI's substitution and spaCy's punctuation: some characters are separate, runs of others stay together.
    r"""(?:(?=[-~!";?+,()\\/*\[\]{}|_.])|(?<=[-~!";?+,()\\/*\[\]{}|_.]))(?<=\S)(?=\S)(?:"""
    rf"""(?<=[{SEPARATE}])|(?=[{SEPARATE}])|"""
    + "|".join(rf"(?<={mark})(?!{mark})|(?<!{mark})(?={mark})" for mark in ("-", "~", r"\\", "/", r"\|"))
    + r"|(?<!\.)(?=\.\.)|(?<=\.\.)(?!\.))",
    # Opening quotes and other prefixes, one after the other.
    rf"(?:(?<!\S)|\G)(?!{_CLIPPED_START}(?:[.:']|(?!\S))|''(?!\S)){_PREFIX}\K(?=\S)",
    # Closing quotes and other suffixes, a final full stop, and suffixes before a full stop.
    _CLOSING,
    rf"(?=\.(?!\S))(?<=[0-9\p{{Ll}}%²:<>#&'`]|\p{{Lu}}\p{{Lu}})(?<!{_ABBREVIATIONS})",
    rf"(?=['{_SUFFIX[1:-1]}%$£€a-zA-Z])(?:{_CLOSING}|(?='[sS](?!\S))(?<=\S)|(?<=[0-9])(?={_UNIT}(?!\S))|"
    r"(?=(?:[ap]m|[ap]\.m\.)(?!\S))(?<=\A[1-9]|\s[1-9]|\A1[0-2]|\s1[0-2]))",
    # Contractions: do n't, they 'll, can not; spaCy also splits them if the apostrophe is missing.
    rf"(?=n'?t(?:'?ve)?(?!\S))(?<={_words(_NEGATED)})|(?='?(?:ll|d|re|ve|m|s)(?:'?ve)?(?!\S))(?:"
    rf"(?='(?:ll|d))(?<={_words('i you he she it we they that this', _ASKED, _SHOWN)})|"
    rf"(?=ll)(?<={_words('you it they that this', _ASKED, _SHOWN)})|"
    rf"(?=d)(?<={_words('i you he it we they that this', _ASKED, _SHOWN)})|"
    rf"(?='re)(?<={_words('you we they', _ASKED, _SHOWN)})|"
    rf"(?=re)(?<={_words('you they how what when where why', _SHOWN)})|"
    rf"(?='?ve)(?<={_words('i you we they', _ASKED, _SHOWN, _MODAL)})|(?='?m)(?<={_words('i')})|"
    rf"(?=s)(?<={_words('he she that this there', _ASKED)}))|"
    r"(?=not(?!\S))(?<=\A[Cc]an|\s[Cc]an)|(?=na(?!\S))(?<=\A[Gg]on|\s[Gg]on)|(?=ta(?!\S))(?<=\A[Gg]ot|\s[Gg]ot)|"
    r"(?=on(?!\S))(?<=\A[Cc]'m|\s[Cc]'m)|(?=all(?!\S))(?<=\Ay'|\sy')",
    r"(?='ve(?!\S))(?<=n't|'d|'ll)",
    # Inside a word: a missing space after a full stop, or a sign between letters.
    r"(?=\.\p{Lu})(?<=\p{Ll})|(?<=\.)(?=\p{Lu})(?<=\p{Ll}\.)|"
    r"(?=[:<>=]\p{L})(?<=[\p{L}0-9])|(?<=[:<>=])(?=\p{L})(?<=[\p{L}0-9].)",
)

# Characters that ftfy and OpenAI's substitutions replace.
CHARACTERS = (
    (r"\r\n?|[\x{85}\x{2028}\x{2029}]", "\n"),
    (r"[\x00-\x08\x0b\x0e-\x1f\x7f\x{206a}-\x{206f}\x{feff}\x{fff9}-\x{fffb}]", ""),
    ("[\u2014\u2013\u2015]", "-"),
    ("[\u2018-\u201b\u02bc\u00b4]", "'"),
    ("[\u201c-\u201f]", '"'),
    ("\u2026", "..."),
    ("\ufb00", "ff"),
    ("\ufb01", "fi"),
    ("\ufb02", "fl"),
    ("\ufb03", "ffi"),
    ("\ufb04", "ffl"),
    ("[\ufb05\ufb06]", "st"),
)

# Spaces that the word split inserts and printed text does not have; decoding removes them.
_SPACE_BEFORE = r" (?=[.,:;!?)\]}%\n]|n't\b|'(?:s|m|d|ll|re|ve)\b)"
_SPACE_AFTER = r"(?<=[(\[{\n]) "

# `generation` marks what TRL's `assistant_only_loss` trains on. TRL requires that the tokens of a conversation begin
# with those of its prompt. They do: the word split is the same in "assistant:" with or without a reply after it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "assistant: {% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}"
    "{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def text_normalizer() -> normalizers.Normalizer:
    """Returns what separates words and punctuation by spaces, and line breaks too, and converts to lower case."""
    steps = [normalizers.NFC()]
    steps += [normalizers.Replace(Regex(pattern), content) for pattern, content in CHARACTERS]
    steps += [normalizers.Replace(Regex(pattern), " ") for pattern in _WORD_BREAKS]
    steps += [
        normalizers.Replace(Regex(r"[^\S\n]*\n\s*"), " \n "),
        normalizers.Replace(Regex(r"[^\S\n]{2,}|[^\S\n ]"), " "),
        normalizers.Strip(),
        normalizers.Lowercase(),
    ]
    return normalizers.Sequence(steps)


def word_splitter() -> pre_tokenizers.PreTokenizer:
    """Returns what splits normalised text at spaces; only they are removed, since a line break is a word."""
    return pre_tokenizers.Split(" ", "removed")


def _decoder() -> decoders.Decoder:
    return decoders.Sequence(
        [
            decoders.BPEDecoder(suffix=WORD_END),
            decoders.Fuse(),
            decoders.Replace(Regex(_SPACE_BEFORE), ""),
            decoders.Replace(Regex(_SPACE_AFTER), ""),
        ]
    )


def _with_pipeline(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = text_normalizer()
    tokenizer.pre_tokenizer = word_splitter()
    tokenizer.decoder = _decoder()
    return tokenizer


def _finish(vocab: dict[str, int], merges: list[tuple[str, str]], model_max_length: int) -> PreTrainedTokenizerFast:
    backend = _with_pipeline(models.BPE(vocab, merges, unk_token=UNKNOWN, end_of_word_suffix=WORD_END))
    # They are added here, because the library would number them in another order.
    backend.add_special_tokens([UNKNOWN, START, DELIMITER, EXTRACT, PADDING])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        bos_token=START,
        eos_token=START,
        sep_token=DELIMITER,
        cls_token=EXTRACT,
        pad_token=PADDING,
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def published_tokenizer(
    vocabulary_file: str | os.PathLike, merges_file: str | os.PathLike, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Builds the tokenizer of the published model from the two files that OpenAI published with it.

    Args:
        vocabulary_file: `encoder_bpe_40000.json`, which maps each token to its number.
        merges_file: `vocab_40000.bpe`, a version line and then the two symbols of one merge per line, in order.
        model_max_length: the number of positions of the model; the tokenizer warns about longer texts.

    Returns:
        A tokenizer of 40,478 published entries and, after them, `<start>`, `<delimiter>`, `<extract>` and `<pad>`.
        `save_pretrained` writes it for `AutoTokenizer`. It adds no special tokens to texts.

    Raises:
        ValueError: a file is not in the expected format; the message says which one and where.
    """
    try:
        with open(vocabulary_file, encoding="utf-8") as file:
            vocab = json.load(file)
    except ValueError as error:  # not UTF-8, or not JSON
        raise ValueError(f"{vocabulary_file} is not a vocabulary in JSON: {error}") from error
    if not isinstance(vocab, dict) or sorted(vocab.values()) != list(range(len(vocab))) or UNKNOWN not in vocab:
        raise ValueError(
            f"{vocabulary_file} must map every token, {UNKNOWN} included, to a different number, counted from 0."
        )
    merges = []
    with open(merges_file, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            pair = line.split()
            if not pair or line.startswith("#version"):
                continue
            if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys():
                raise ValueError(
                    f"{merges_file}, line {number}: {line.strip()!r} must be two symbols that merge into an entry "
                    f"of {vocabulary_file}."
                )
            merges.append((pair[0], pair[1]))
    return _finish(vocab, merges, model_max_length)


def _report_long_words(texts: Iterable[str]) -> Iterator[str]:
    """Yields the texts, and then warns if a word was longer than `LONGEST_WORD`."""
    normalizer = text_normalizer()  # its own: the learner's is locked while it learns
    long_run, longest = re.compile(rf"\S{{{LONGEST_WORD},}}"), 0
    for text in texts:
        for run in long_run.findall(text):
            longest = max(longest, *map(len, normalizer.normalize_str(run).split(" ")))
        yield text
    if longest > LONGEST_WORD:
        logger.warning(
            "The texts to learn a vocabulary from have words of up to %s characters; those of more than %s were "
            "learned from in pieces of as many.",
            f"{longest:,}",
            f"{LONGEST_WORD:,}",
        )


def train_tokenizer(
    texts: Iterable[str], merges: int = 40_000, model_max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Learns a vocabulary by byte-pair encoding within words, after the published pipeline.

    Args:
        texts: the corpus, in strings of any length; read once.
        merges: number of merges to learn, 40,000 in the paper. A small corpus may give fewer, because pairs that occur
            once are not merged.
        model_max_length: as in `published_tokenizer`.

    Returns:
        A tokenizer with the published order of tokens: `<unk>`, the characters (separate symbols for those that end a
        word), the merges in order, then `<start>`, `<delimiter>`, `<extract>` and `<pad>`.

    Raises:
        ValueError: `merges` is less than 1, or the corpus has no text.
    """
    if merges < 1:
        raise ValueError(f"merges is {merges}; it must be at least 1.")
    learner = _with_pipeline(models.BPE(unk_token=UNKNOWN, end_of_word_suffix=WORD_END))
    learner.pre_tokenizer = pre_tokenizers.Sequence([learner.pre_tokenizer, pre_tokenizers.FixedLength(LONGEST_WORD)])
    trainer = trainers.BpeTrainer(
        # Each character has two symbols. Superfluous merges are removed below.
        vocab_size=merges + 2 * LARGEST_ALPHABET + 1,
        min_frequency=2,
        special_tokens=[UNKNOWN],
        limit_alphabet=LARGEST_ALPHABET,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(_report_long_words(texts), trainer)
    learned = json.loads(learner.to_str())["model"]
    if len(learned["vocab"]) == 1:
        raise ValueError("texts holds no text: a vocabulary needs at least one word.")
    merged = {"".join(pair) for pair in learned["merges"]}
    # A line break is always the end of a word, even if the corpus has none.
    characters = {token for token in learned["vocab"] if token not in merged} | {"\n" + WORD_END}
    kept = [(first, second) for first, second in learned["merges"][:merges]]
    tokens = dict.fromkeys([UNKNOWN, *sorted(characters - {UNKNOWN}), *("".join(pair) for pair in kept)])
    return _finish({token: number for number, token in enumerate(tokens)}, kept, model_max_length)


def forget_last_call(tokenizer: PreTrainedTokenizerFast) -> None:
    """Resets truncation and padding of the last call, which the backend would apply to every text it encodes.

    A call of the tokenizer sets both anew, but not a call of its backend, and a saved tokenizer keeps them.
    """
    backend = tokenizer.backend_tokenizer
    # Another thread may be encoding, which forbids changes, also those that change nothing.
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()


def add_mask_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with a mask token, which masked language models need: `<mask>`, after all other entries.

    Args:
        tokenizer: it is not changed. One that has a mask token keeps that.
    """
    masking = copy.deepcopy(tokenizer)
    if masking.mask_token is None:
        masking.add_special_tokens({"mask_token": MASK})
    return masking


def add_task_template(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Returns a copy of the tokenizer that adds the special tokens of the paper's figure 1 to texts.

    A text becomes `<start> text <extract>`, a pair `<start> text <delimiter> other text <extract>`. This is the input
    of classification, entailment, similarity (the model makes the second order itself) and multiple choice, where each
    answer forms a pair with the context. The template is saved with the tokenizer, so `AutoTokenizer` and pipelines
    apply it. `truncation=True` keeps the special tokens and shortens the longer text first.

    Raises:
        ValueError: the tokenizer lacks a special token; the message says which one and how to add it.
    """
    roles = {"bos_token": START, "sep_token": DELIMITER, "cls_token": EXTRACT, "pad_token": PADDING}
    missing = {role: token for role, token in roles.items() if getattr(tokenizer, role) is None}
    if missing:
        raise ValueError(
            f"The tokenizer has no {', '.join(missing)}, which texts of a task need. Add the tokens with "
            f"tokenizer.add_special_tokens({missing}) and their embeddings with "
            "model.resize_token_embeddings(len(tokenizer))."
        )
    framed = copy.deepcopy(tokenizer)
    start, delimiter, extract = framed.bos_token, framed.sep_token, framed.cls_token
    framed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {extract}",
        pair=f"{start} $A {delimiter} $B {extract}",
        special_tokens=[(token, framed.convert_tokens_to_ids(token)) for token in (start, delimiter, extract)],
    )
    return framed
