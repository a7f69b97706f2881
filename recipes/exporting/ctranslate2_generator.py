"""Continues text with an export of GPT-1 for CTranslate2."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from papers_to_gpt.engine.model_folder import EXPORT_FILE, read_json
from papers_to_gpt.exporting.ctranslate2_engine import load_engine
from papers_to_gpt.exporting.exported_folder import check_tokenizer
from papers_to_gpt.exporting.saved_generation import SavedGeneration

# Stands for the end token of a model that has none, because an empty list would mean the default. No token has it.
NO_TOKEN = 2**31 - 1


class ExportedGenerator:
    """A GPT-1 in CTranslate2.

    Args:
        folder: the folder of an export.

    Raises:
        ValueError: the package, the tokenizer or the weights are missing, or the model was saved with settings of
            generation that CTranslate2 does not have.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        check_tokenizer(self.folder)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.positions = read_json(self.folder / EXPORT_FILE)["positions"]
        self.engine = load_engine("Generator", self.folder)
        self.defaults = GenerationConfig.from_pretrained(self.folder)
        self.saved = SavedGeneration.of(self.defaults, self.tokenizer)
        ends = self.defaults.eos_token_id
        self.end_ids = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)

    def generate(
        self,
        ids: Sequence[int],
        max_new_tokens: int,
        *,
        num_beams: int = 1,
        num_return_sequences: int = 1,
        sampling: dict[str, Any] | None = None,
        on_token: Callable[[int], Any] | None = None,
    ) -> list[list[int]]:
        """Returns sequences of ids that begin with the prompt, up to the end token or the limit.

        Args:
            ids: the prompt.
            max_new_tokens: largest number of tokens after it.
            num_beams, num_return_sequences: as in transformers' `generate()`.
            sampling: options of CTranslate2's sampling; None for a search.
            on_token: is called with each token as it is generated, without beams.
        """
        # What is forbidden or penalized depends on the prompt too, which must then be a part of the engine's result.
        with_prompt = bool(self.saved.options)
        forced = len(ids) - 1 if with_prompt else 0  # tokens that the engine counts, though they are given

        def pass_on(step: Any) -> bool:
            return step.step >= forced and bool(on_token(step.token_id))

        results = self.engine.generate_batch(
            [self.tokenizer.convert_ids_to_tokens(list(ids))],
            max_length=forced + max_new_tokens,
            min_length=forced + self.saved.shortest(len(ids)),
            beam_size=num_beams,
            num_hypotheses=num_return_sequences,
            length_penalty=1.0 if self.defaults.length_penalty is None else self.defaults.length_penalty,
            include_prompt_in_result=with_prompt,
            return_end_token=True,
            end_token=self.end_ids or [NO_TOKEN],
            callback=None if on_token is None else pass_on,
            **self.saved.options,
            **(sampling or {}),
        )
        sequences = results[0].sequences_ids
        return sequences if with_prompt else [[*ids, *sequence] for sequence in sequences]

    def log_probabilities(self, ids: Sequence[int]) -> list[float]:
        """Returns the log-probability of each token of a text after the first one."""
        (scored,) = self.engine.score_batch([self.tokenizer.convert_ids_to_tokens(list(ids))])
        return list(scored.log_probs)
