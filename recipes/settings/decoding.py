"""Settings of the scripts that translate with a trained model."""

from dataclasses import dataclass

from papers_to_gpt.settings.arguments import option, parse_settings, read_settings
from papers_to_gpt.settings.corpora import check_test_sets, refuse_same_file
from papers_to_gpt.settings.pretraining import LOWEST_TEMPERATURE
from papers_to_gpt.settings.quantization import QuantizationSettings
from papers_to_gpt.settings.registries import embedded_pairs, quoted
from papers_to_gpt.settings.resuming import ResumableSettings
from papers_to_gpt.settings.training import SEEDS
from papers_to_gpt.settings.translation import BLEU_TOKENIZER_HELP, BleuTokenizer

# `seq2seq_scratch.translation` has the same number; importing it would import torch.
TOKENS_PER_BATCH = 16384

MODELS_HELP = (
    "Folder or Hub id of a trained model; several with one vocabulary are an ensemble, which averages their "
    "probabilities of every token."
)

# As in `TranslationMetric.paired_bootstrap`, and in sacreBLEU.
BOOTSTRAP_SAMPLES = 1000

# As in `seq2seq_scratch.constraints`.
TERM_BIAS = 6.0

RESCORE_WEIGHT = 0.5  # where rescore is set and rescore_weight is not


@dataclass
class ModelsSettings(QuantizationSettings):
    """The trained model, or the models of an ensemble."""

    group = "decoding"

    model_name_or_path: list[str] = option([], MODELS_HELP, "model")
    revision: str | None = option(None, "Branch, tag or commit of the models on the Hub.", "model")
    trust_remote_code: bool = option(False, "Run the code that comes with the models.", "model")
    torch_compile: bool = option(
        False,
        "Compile the decoder of a Transformer with torch.compile, for all lengths at once, which takes minutes at the "
        "start and is kept for later calls. It is meant for GPUs, and for thousands of sentences.",
        "model",
    )

    @property
    def needs_model(self) -> bool:
        return True

    def __post_init__(self):
        super().__post_init__()
        if self.needs_model and not self.model_name_or_path:
            raise ValueError("model_name_or_path is not set. Name the folder or Hub id of a trained model.")
        if self.torch_compile and len(self.model_name_or_path) > 1:
            raise ValueError(
                f"torch_compile is true, but model_name_or_path names {len(self.model_name_or_path)} models, and an "
                "ensemble is not compiled. Name one model, or leave the setting out."
            )


@dataclass
class DecodingSettings(ModelsSettings):
    """The models, and the parameters that every search has."""

    length_penalty: float | None = option(
        None, "Exponent of the length normalization; left out, the number saved with the model."
    )
    max_source_length: int = option(
        256, "Maximum source tokens; longer sentences are cut with a warning.", "data", at_least=2
    )
    max_new_tokens: int | None = option(
        None, "Maximum number of tokens of a translation; left out, the length of the source plus 50.", at_least=1
    )
    max_tokens_per_batch: int = option(
        TOKENS_PER_BATCH, "Maximum number of rows times longest row in a batch.", at_least=1
    )
    bf16: bool | None = option(
        None, "Compute in bfloat16 by autocast; left out, it is on where the processor has bfloat16 instructions."
    )


@dataclass
class SearchSettings(ResumableSettings, DecodingSettings):
    """The models and the parameters of the search or of sampling; subclasses have input_file and output_file."""

    num_beams: int | None = option(None, "Beams of the search; left out, the number saved with the model.", at_least=1)
    do_sample: bool = option(False, "Draw each token from the model's distribution, in place of a search.")
    temperature: float | None = option(
        None, "Temperature of sampling, 1 if left out; needs do_sample.", at_least=LOWEST_TEMPERATURE
    )
    top_k: int | None = option(
        None, "Sample from this many most probable tokens, from all if left out; needs do_sample.", at_least=1
    )
    top_p: float | None = option(
        None,
        "Sample from the most probable tokens whose probabilities add up to this number, from all if left out; needs "
        "do_sample.",
        above=0,
        at_most=1,
    )
    seed: int | None = option(
        None, "Seed of sampling; left out, every call gives other translations. Needs do_sample.", **SEEDS
    )

    def __post_init__(self):
        super().__post_init__()
        given = [name for name in ("temperature", "top_k", "top_p", "seed") if getattr(self, name) is not None]
        if given and not self.do_sample:
            raise ValueError(
                f"{' and '.join(given)} {'are' if given[1:] else 'is'} set, but do_sample is false: a search draws no "
                "tokens. Set do_sample to true, or leave it out."
            )
        search = [name for name in ("num_beams", "length_penalty") if getattr(self, name) not in (None, 1)]
        if search and self.do_sample:
            raise ValueError(
                f"do_sample is true, but {' and '.join(search)} {'belong' if search[1:] else 'belongs'} to a search "
                "with beams. Leave one out."
            )


@dataclass
class TranslationSettings(SearchSettings):
    """The models, the text to translate, the parameters of the search, its constraints and what is written."""

    files_read = ("input_file", "forbidden_words", "terminology")
    files_written = ("output_file", "terminology_report")

    input_file: str | None = option(
        None,
        "UTF-8 file (also .gz, .xz, .zst) with a sentence on each line; left out, standard input or a prompt.",
        "data",
    )
    output_file: str | None = option(
        None, "File for the translations (.gz, .xz or .zst compresses it); left out, standard output.", "output"
    )
    num_return_sequences: int = option(
        1,
        "Translations of each sentence; above 1, each line holds sentence number, score and text.",
        "output",
        at_least=1,
    )
    with_scores: bool = option(False, "Write sentence number, score and text, separated by tabs.", "output")
    with_alignments: bool = option(
        False,
        "Write a line of JSON for each sentence, with the words that belong together by the attention.",
        "output",
    )
    with_prefixes: bool = option(
        False,
        "Read a second column, after a tab, with the beginning that the translation must have; it may be empty.",
        "data",
    )
    forbidden_words: str | None = option(
        None, "File with a word or phrase on each line that no translation may have as whole words."
    )
    terminology: str | None = option(
        None,
        "File with a source term, a tab and a target term on each line; lacking target terms are favoured by a bias.",
    )
    term_bias: float | None = option(
        None,
        f"Bias added to the log-probability of each token of a target term, {TERM_BIAS:g} if left out; needs "
        "terminology.",
        at_least=0,
    )
    terminology_report: str | None = option(
        None,
        "File for the terms that each translation has and lacks, a line of JSON each; needs terminology.",
        "output",
    )

    def __post_init__(self):
        super().__post_init__()
        needing = [name for name in ("term_bias", "terminology_report") if getattr(self, name) is not None]
        if needing and self.terminology is None:
            raise ValueError(
                f"{' and '.join(needing)} {'are' if needing[1:] else 'is'} set, but terminology is not. Name a file "
                "of terms, or leave it out."
            )
        if self.with_alignments and (self.with_scores or self.num_return_sequences > 1):
            raise ValueError(
                "with_alignments is true, so a line of JSON is written for the best translation of each sentence. "
                "Leave with_scores and num_return_sequences out."
            )
        if self.with_alignments and len(self.model_name_or_path) > 1:
            raise ValueError(
                f"with_alignments is true, but model_name_or_path names {len(self.model_name_or_path)} models, and "
                "each has an attention of its own. Name one model."
            )
        if self.with_alignments and self.torch_compile:
            raise ValueError(
                "with_alignments and torch_compile are true, but compiled code returns no weights of the attention. "
                "Leave one of them out."
            )
        if self.resume and self.terminology_report is not None:
            raise ValueError(
                "resume is true, but terminology_report is written anew by every command. Leave one of them out."
            )
        if not self.do_sample and self.num_beams is not None and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences}, but num_beams is {self.num_beams}: a search "
                "finds one translation for each beam. Raise num_beams."
            )


@dataclass
class ScoringSettings(DecodingSettings):
    """The model, the test set and the parameters of the search."""

    output_dir: str | None = option(
        None, "Folder for the scores; left out, the model's folder. An ensemble needs one.", "output"
    )
    dataset_name: str | None = option(
        None, f"Data set: {quoted(embedded_pairs())} (embedded), a Hub id or a local folder.", "data"
    )
    dataset_config_name: str | None = option(None, "Configuration of the data set, such as a language pair.", "data")
    dataset_revision: str | None = option(None, "Branch, tag or commit of the data set on the Hub.", "data")
    test_file: list[str] = option(
        [], "Test file of the kinds that train_translation.py reads; several are several test sets.", "data"
    )
    split: list[str] = option(["test"], "Splits to translate and score; several files are all scored.", "data")
    source_language: str = option("en", "Language code of the source.", "data")
    target_language: str = option("de", "Language code of the target.", "data")
    source_column: str | None = option(None, "Column of the source, if there is no column `translation`.", "data")
    target_column: str | None = option(None, "Column of the target, if there is no column `translation`.", "data")
    reference_columns: list[str] = option(
        [],
        "Further references of the test sets: columns beside the target's, keys of `translation`, or endings of text "
        "files.",
        "data",
    )
    bleu_tokenizer: BleuTokenizer | None = option(None, BLEU_TOKENIZER_HELP)
    force_decode: bool = option(
        False, "Write the log-probabilities of the references, in place of translating and scoring.", "output"
    )
    with_tokens: bool = option(False, "Write each token with its log-probability; needs force_decode.", "output")
    rescore: str | None = option(
        None,
        "List of the n best candidates of another system, to choose from in place of translating: lines `id ||| "
        "candidate ||| score`, or a list that translate.py wrote.",
        "data",
    )
    rescore_weight: list[float] = option(
        [],
        "Weight of the model's log-probability in its mean with the given score; each number gives a choice. Left "
        f"out, {RESCORE_WEIGHT}; it needs rescore.",
        at_least=0,
        at_most=1,
    )
    source_file: str | None = option(
        None, "Text file with a source on each line, for a list without references; needs rescore.", "data"
    )
    compare: list[str] = option(
        [],
        "Files of translations of one test set, a sentence on each line, or folders of runs that hold them; they are "
        "compared with the first one by sacreBLEU's paired bootstrap, in place of translating.",
        "data",
    )
    reference_file: list[str] = option(
        [],
        "Text file with a reference on each line, in place of a test set; several are several references. Needs "
        "compare.",
        "data",
    )
    paired_bs_n: int | None = option(
        None, f"Resamples of the paired bootstrap, {BOOTSTRAP_SAMPLES:,} if left out; needs compare.", at_least=2
    )
    output_file: str | None = option(None, "File for the comparison, as JSON; needs compare.", "output")
    num_beams: list[int] = option([5], "Beams of the search; each number gives a separate score.", at_least=1)

    @property
    def needs_model(self) -> bool:
        return not self.compare

    def __post_init__(self):
        super().__post_init__()
        self._check_comparison()
        if len(self.model_name_or_path) > 1 and not self.output_dir:
            raise ValueError(
                f"output_dir is not set, and model_name_or_path names {len(self.model_name_or_path)} models. Name a "
                "folder for the scores of the ensemble."
            )
        if self.rescore and self.force_decode:
            raise ValueError(
                "rescore and force_decode are both set, but each takes the place of translating. Set one."
            )
        if self.rescore_weight and not self.rescore:
            raise ValueError(
                "rescore_weight is set, but rescore is not: there is no list to choose from. Set rescore, or leave "
                "rescore_weight out."
            )
        if self.source_file and not self.rescore:
            raise ValueError(
                "source_file is set, but rescore is not: a test set has references. Set test_file instead."
            )
        if self.source_file and (self.test_file or self.dataset_name):
            raise ValueError("source_file names the sources, and so does the test set. Leave one out.")
        if self.rescore and len(self.split) != 1:
            raise ValueError(f"rescore is one n-best list, but split names {len(self.split)} splits. Name one.")
        if self.rescore and self.split == ["test"] and len(self.test_file) > 1:
            raise ValueError(
                f"rescore is one n-best list, but test_file names {len(self.test_file)} test sets. Name one."
            )
        if self.with_tokens and not self.force_decode:
            raise ValueError("with_tokens is true, but force_decode is false. Set force_decode to true too.")
        check_test_sets(self)
        if self.reference_columns and self.force_decode:
            raise ValueError(
                "force_decode is true, but reference_columns names further references: log-probabilities are those of "
                "one. Name it with target_column, or target_language, and leave reference_columns out."
            )

    def _check_comparison(self) -> None:
        """Raises ValueError if settings do not go with compare, or need it."""
        needing = [name for name in ("reference_file", "paired_bs_n", "output_file") if getattr(self, name)]
        if not self.compare:
            if needing:
                raise ValueError(
                    f"{' and '.join(needing)} {'are' if needing[1:] else 'is'} set, but compare is not. Name the "
                    "files to compare, or leave it out."
                )
            return
        others = ("model_name_or_path", "output_dir", "rescore", "source_file", "force_decode")
        if given := [name for name in others if getattr(self, name)]:
            raise ValueError(
                f"compare reads translations that are there, but {' and '.join(given)} "
                f"{'are' if given[1:] else 'is'} set too. Leave one of them out."
            )
        refuse_same_file(self.compare, "compare")
        if len(self.compare) < 2:
            raise ValueError(f"compare names only {self.compare[0]}. Name two or more files or folders.")
        if self.reference_file and (self.test_file or self.dataset_name):
            raise ValueError("reference_file names the references, and so does the test set. Leave one of them out.")
        if not (self.reference_file or self.test_file or self.dataset_name):
            raise ValueError(
                "compare is set, but there are no references. Set reference_file, test_file or dataset_name."
            )
        if len(self.split) > 1 or (len(self.test_file) > 1 and self.split == ["test"]):
            raise ValueError("compare is of one test set, but there are several. Name one with split.")


def parse_translation(arguments: list[str] | None = None, description: str = "") -> tuple[TranslationSettings]:
    """Reads the command line of translate.py."""
    return parse_settings(read_settings(arguments), TranslationSettings, description=description)


def parse_scoring(arguments: list[str] | None = None, description: str = "") -> tuple[ScoringSettings]:
    """Reads the command line of score_translation.py."""
    return parse_settings(read_settings(arguments), ScoringSettings, description=description)
