"""Settings of the benchmark: the contenders, their data and sizes, and the number of measurements."""

from dataclasses import dataclass
from typing import Literal

from papers_to_gpt.settings.arguments import CheckedSettings, option, parse_settings, read_settings
from papers_to_gpt.settings.corpora import refuse_no_file

# The unit that each section counts.
SECTIONS = {
    "translation_training": "target tokens, without padding,",
    "translation_decoding": "sentences",
    "gpt_training": "tokens",
    "gpt_generation": "new tokens",
    "gpt_finetuning": "examples",
    "gpt_growth": "tokens",
    "training_profile": "target tokens, without padding,",
}

# The sections that compare contenders. The others measure our models alone, and only on request.
COMPARISONS = [name for name in SECTIONS if name not in ("gpt_growth", "training_profile")]


@dataclass
class BenchmarkSettings(CheckedSettings):
    """The contenders, the data, and the number of measurements."""

    group = "data"

    sections: list[str] = option(
        COMPARISONS,
        "Sections to measure; besides the default ones there are gpt_growth, our GPT-1's training by length, width "
        "and vocabulary, and training_profile, where the time of an update of each of our models goes.",
        "measurement",
    )
    contenders: list[str] = option(
        [], "Measure only rows whose section, group or name contains one of these texts; case matters.", "measurement"
    )
    rounds: int = option(3, "Measurements of each contender.", "measurement", at_least=1)
    threads: int | None = option(
        None,
        "Value of OMP_NUM_THREADS for every contender; left out, the number of cores.",
        "measurement",
        at_least=1,
    )
    train_file: str | None = option(
        None, "Sentence pairs, as train_translation.py reads them; left out, the embedded numbers."
    )
    validation_file: str | None = option(None, "Sentence pairs to validate on.")
    test_file: str | None = option(None, "Sentence pairs to translate.")
    source_language: str = option("en", "Language code of the source.")
    target_language: str = option("de", "Language code of the target.")
    output_file: str | None = option(None, "File for every measurement as JSON.", "output")

    def __post_init__(self):
        super().__post_init__()
        unknown = [name for name in self.sections if name not in SECTIONS]
        if unknown:
            raise ValueError(f"sections names {', '.join(unknown)}; there are {', '.join(SECTIONS)}.")
        refuse_no_file(self.output_file, "output_file")


@dataclass
class Workload:
    """The length of a measurement and the sizes of the models. The defaults are those of the published figures."""

    group = "model"

    device: Literal["cpu", "cuda"] = option(
        "cpu",
        "Where the models compute. On cuda, those of PyTorch alone are measured, and training_profile is not.",
        "measurement",
    )
    updates: int = option(20, "Training updates that are measured.", "measurement")
    warm_up_updates: int = option(5, "Training updates before the measurement starts.", "measurement")
    vocab_size: int = option(8000, "Vocabulary size of the translators, shared by both languages.")
    d_model: int = option(256, "Size of the embeddings of the translating Transformers.")
    d_ff: int = option(1024, "Inner size of the feed-forward layers of the translating Transformers.")
    num_layers: int = option(3, "Layers of the encoder, and of the decoder, of the translating Transformers.")
    num_heads: int = option(4, "Attention heads in each layer of the translating Transformers.")
    embedding_size: int = option(256, "Size of the embeddings of the recurrent translators.")
    hidden_size: int = option(512, "Units of the recurrent translators.")
    max_tokens_per_batch: int = option(
        4096, "Maximum number of rows times longest row in a batch, for translators that batch by tokens.", "data"
    )
    marian_batch_size: int = option(96, "Sentences per update of MarianMTModel.", "data")
    model_name_or_path: str | None = option(
        None, "Folder of a trained Transformer to decode with; left out, one is trained first."
    )
    decoding_updates: int = option(400, "Training updates of the Transformer that is trained to decode with.")
    max_sentences: int = option(1000, "Test sentences to translate, from the first.", "data")
    output_tokens: int | None = option(
        None,
        "Length that every translation is forced to, so that all contenders compute as many tokens; left out, a "
        "translation ends where the model ends it.",
        "measurement",
    )
    tokens_per_decoding_batch: int = option(
        16384, "Beams times longest source times sentences of a batch that our models translate at once.", "data"
    )
    ctranslate2_tokens_per_batch: int = option(
        2048, "Sentences times longest source of a batch that CTranslate2 translates at once.", "data"
    )
    gpt_vocab_size: int = option(10_000, "Vocabulary size of the GPTs.")
    gpt_hidden_size: int = option(384, "Size of the embeddings of the GPTs.")
    gpt_layers: int = option(6, "Layers of the GPTs.")
    gpt_heads: int = option(6, "Attention heads in each layer of the GPTs.")
    context: int = option(512, "Positions of the GPTs, and tokens of a training sequence.")
    gpt_batch_size: int = option(8, "Sequences per training batch of the GPTs.", "data")
    prompt_tokens: int = option(16, "Tokens of the prompt that a GPT continues.", "data")
    new_tokens: int = option(256, "Tokens that a GPT generates after the prompt.", "measurement")
    task: str = option("stories_sentiment", "Task that the GPTs are fine-tuned on, such as sst2.", "data")
    data_dir: str | None = option(None, "Folder of the task, as finetune_gpt1.py reads it.", "data")
    task_batch_size: int = option(32, "Examples per update of a classifier.", "data")
    growth_lengths: list[int] = option(
        [64, 128, 256, 512, 1024, 2048], "Tokens of a sequence in gpt_growth, with as many tokens in a batch."
    )
    growth_widths: list[int] = option(
        [128, 256, 512, 768, 1024], "Sizes of the embeddings in gpt_growth, with heads of the same width."
    )
    growth_vocabularies: list[int] = option([1000, 10_000, 40_000], "Vocabulary sizes in gpt_growth.")
    nanogpt_dir: str | None = option(None, "Checkout of nanoGPT; left out, nanoGPT is skipped.")

    def __post_init__(self):
        for name, value in vars(self).items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int) and number < 1:
                    raise ValueError(f"{name} is {number}; it must be at least 1.")
        if self.gpt_hidden_size % self.gpt_heads:
            raise ValueError(
                f"gpt_heads is {self.gpt_heads}, which does not divide gpt_hidden_size, {self.gpt_hidden_size}. "
                "Choose a divisor."
            )

    @property
    def is_on_gpu(self) -> bool:
        return self.device != "cpu"

    def check_growth(self) -> None:
        """Raises ValueError if a size of gpt_growth cannot be measured."""
        if min(self.growth_lengths, default=2) < 2:
            raise ValueError(
                "growth_lengths has 1, but a sequence of 1 token has nothing to predict. Name at least 2."
            )
        head = self.gpt_hidden_size // self.gpt_heads
        for width in self.growth_widths:
            if width % head:
                raise ValueError(
                    f"growth_widths has {width}, which is no multiple of {head}, the width of a head (gpt_hidden_size "
                    "/ gpt_heads). Name multiples."
                )

    def check_generation(self) -> None:
        """Raises ValueError if gpt_generation needs more positions than there are."""
        if self.prompt_tokens + self.new_tokens > self.context:
            raise ValueError(
                f"prompt_tokens {self.prompt_tokens} and new_tokens {self.new_tokens} exceed the context of "
                f"{self.context} positions. Lower one, or raise context."
            )


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[BenchmarkSettings, Workload]:
    """Reads the command line. What concerns a section alone is checked if the section is measured."""
    settings, work = parse_settings(read_settings(arguments), BenchmarkSettings, Workload, description=description)
    if work.is_on_gpu and "training_profile" in settings.sections:
        raise ValueError("device is cuda, and sections names training_profile, which clocks a CPU. Leave one out.")
    if "gpt_growth" in settings.sections:
        work.check_growth()
    if "gpt_generation" in settings.sections:
        work.check_generation()
    return settings, work
