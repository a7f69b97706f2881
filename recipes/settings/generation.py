"""Settings of the script that continues text."""

from dataclasses import dataclass

from papers_to_gpt.settings.arguments import option, parse_settings, read_settings
from papers_to_gpt.settings.pretraining import LOWEST_TEMPERATURE
from papers_to_gpt.settings.quantization import QuantizationSettings
from papers_to_gpt.settings.training import SEEDS


@dataclass
class GenerationSettings(QuantizationSettings):
    """The model, the prompts and the parameters of generation."""

    group = "decoding"

    model_name_or_path: str | None = option(None, "Folder or Hub id of a trained model.", "model")
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.", "model")
    trust_remote_code: bool = option(False, "Run the code that comes with the model.", "model")
    prompt: str | None = option(
        None, "Text to continue; left out, standard input, or prompts typed at the terminal.", "data"
    )
    prompt_file: str | None = option(
        None,
        "UTF-8 file (also .gz, .xz or .zst) with a prompt on each line; each continuation is one line too.",
        "data",
    )
    max_new_tokens: int = option(200, "Maximum number of tokens to add.", at_least=1)
    num_return_sequences: int = option(1, "Continuations of each prompt.", at_least=1)
    do_sample: bool = option(True, "Sample tokens; false takes the most probable ones, by beams if num_beams is set.")
    temperature: float | None = option(
        None, "Temperature of sampling, 1 if left out; needs do_sample.", at_least=LOWEST_TEMPERATURE
    )
    top_k: int | None = option(
        None,
        "Sample from this many most probable tokens, 50 if left out; 0 samples from all. Needs do_sample.",
        at_least=0,
    )
    top_p: float | None = option(
        None,
        "Sample from the most probable tokens whose probabilities add up to this number, from all if left out; needs "
        "do_sample.",
        above=0,
        at_most=1,
    )
    num_beams: int = option(1, "Beams of the search.", at_least=1)
    seed: int | None = option(
        None, "Seed of sampling; left out, every call generates another text. Needs do_sample.", **SEEDS
    )
    bf16: bool | None = option(
        None, "Compute in bfloat16; left out, it is on where the processor has bfloat16 instructions."
    )

    torch_compile: bool = option(
        False,
        "Compile the step that adds a token with torch.compile, which takes up to a minute at the start and is kept "
        "for later calls. It is meant for many tokens on a GPU: on a CPU generation has fast steps of its own.",
    )

    def __post_init__(self):
        super().__post_init__()
        if self.torch_compile and self.num_beams > 1:
            raise ValueError(
                f"torch_compile is true and num_beams is {self.num_beams}, but only steps without beams are compiled. "
                "Leave one of them out."
            )
        if not self.model_name_or_path:
            raise ValueError("model_name_or_path is not set. Name the folder or Hub id of a trained model.")
        if self.prompt is not None and self.prompt_file is not None:
            raise ValueError("prompt and prompt_file are both set. Set one.")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError(f"prompt is {self.prompt!r}. Give at least a word, or leave it out to type one.")
        if self.num_return_sequences > self.num_beams and not self.do_sample:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences}, but without do_sample there are only "
                f"{self.num_beams} (num_beams). Raise num_beams, or set do_sample true."
            )
        if self.num_return_sequences > self.num_beams > 1:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences}, but num_beams is {self.num_beams}: a search "
                "finds one text for each beam, sampled or not. Raise num_beams, or leave it out."
            )
        given = [name for name in ("temperature", "top_k", "top_p", "seed") if getattr(self, name) is not None]
        if given and not self.do_sample:
            raise ValueError(
                f"{' and '.join(given)} {'are' if given[1:] else 'is'} set, but do_sample is false: a search draws no "
                f"tokens. Leave {'them' if given[1:] else 'it'} out, or do_sample."
            )

    @property
    def sampling(self) -> dict[str, float]:
        """The parameters of sampling, those that are left out at their defaults."""
        defaults = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
        given = {name: getattr(self, name) for name in defaults}
        return defaults | {name: value for name, value in given.items() if value is not None}


def parse(arguments: list[str] | None = None, description: str = "") -> tuple[GenerationSettings]:
    """Reads the command line."""
    return parse_settings(read_settings(arguments), GenerationSettings, description=description)
