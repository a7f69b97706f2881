"""The task `text-generation` of transformers' `pipeline()` for GPT-1, with correct spaces after the prompt."""

from typing import Any

from transformers import TextGenerationPipeline
from transformers.pipelines.text_generation import ReturnType

from .bidirectional_attention import refuse_bidirectional

TASK = "text-generation"


class GPT1TextGenerationPipeline(TextGenerationPipeline):
    """The library's pipeline, with the right space between the prompt and the generated text.

    The library decodes the new tokens alone and appends the text to the prompt. In GPT-1's vocabulary a token marks
    the end of a word, not its beginning. Therefore neither "a big cake" nor ", who" decodes with a leading space, and
    "Anna was" would become "Anna wasa big cake". This pipeline decodes the whole sequence and returns what follows the
    text of the prompt's tokens.

        generator = pipeline("text-generation", model="runs/stories_gpt1_mini")
        generator("Anna was", max_new_tokens=3)                          # [{"generated_text": "Anna was a big cake"}]
        generator("Anna was", max_new_tokens=3, return_full_text=False)  # [{"generated_text": " a big cake"}]

    Arguments and results are those of `transformers.TextGenerationPipeline`. The result begins with the prompt as it
    was written. The new text begins with a space if one belongs there, unless the prompt ends in white space. The
    reply in a chat begins with its first word.

    A GPT-1 with bidirectional attention is refused with a ValueError.

    One class serves a task for all models. For models other than GPT-1, it creates the library's own pipeline.
    """

    def __new__(cls, model: Any, *args: Any, **kwargs: Any) -> TextGenerationPipeline:
        if model.config.model_type != "gpt1":
            return TextGenerationPipeline(model, *args, **kwargs)
        refuse_bidirectional(model.config)
        return super().__new__(cls)

    # Extends TextGenerationPipeline.postprocess, whose text it replaces.
    def postprocess(
        self,
        model_outputs: dict[str, Any],
        return_type: ReturnType = ReturnType.FULL_TEXT,
        clean_up_tokenization_spaces: bool | None = None,
        continue_final_message: bool | None = None,
        skip_special_tokens: bool | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        decoding = {
            "skip_special_tokens": skip_special_tokens is not False,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
        }
        records = super().postprocess(
            model_outputs, return_type, continue_final_message=continue_final_message, **decoding, **kwargs
        )
        if return_type == ReturnType.TENSORS:
            return records
        prompt, prompt_ids = model_outputs["prompt_text"], model_outputs["input_ids"]
        prompt_length = 0 if prompt_ids is None else prompt_ids.shape[1]
        for record, ids in zip(records, model_outputs["generated_sequence"][0].tolist(), strict=True):
            added = self._decode_added(ids, prompt_length, **decoding)
            if isinstance(prompt, str):
                before = prompt
            else:
                last = prompt.messages[-1]
                continues = last["role"] == "assistant" if continue_final_message is None else continue_final_message
                before = last["content"] if continues else ""
            if not before or before[-1].isspace():
                added = added.lstrip(" ")
            if return_type == ReturnType.NEW_TEXT:
                record["generated_text"] = added
            elif isinstance(prompt, str):
                record["generated_text"] = before + added
            else:
                record["generated_text"][-1]["content"] = before + added
        return records

    def _decode_added(self, ids: list[int], prompt_length: int, **decoding: Any) -> str:
        """Returns the text of the tokens after the prompt, with a leading space if one belongs there."""
        before, whole = (self.tokenizer.decode(part, **decoding) for part in (ids[:prompt_length], ids))
        # Punctuation may remove a space at the end of the prompt's text. Nothing else in that text changes.
        left, end = len("".join(before.split())), 0
        while left:
            left -= not whole[end].isspace()
            end += 1
        added = whole[end:]
        # <unk> does not mark the end of a word, but the last token of a prompt always ends one.
        after_unknown = self.tokenizer.decode(ids[:prompt_length][-1:]) == "<unk>"
        return " " + added if after_unknown and added[:1].isalnum() else added
