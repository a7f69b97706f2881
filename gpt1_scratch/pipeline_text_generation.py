"""The task `text-generation` of transformers' `pipeline()` for GPT-1, which joins prompt and new text correctly."""

from typing import Any

from transformers import TextGenerationPipeline
from transformers.pipelines.text_generation import ReturnType

TASK = "text-generation"


class GPT1TextGenerationPipeline(TextGenerationPipeline):
    """The library's pipeline, with the right space between the prompt and what the model adds.

    The library decodes the new tokens alone and appends them to the prompt. In GPT-1's vocabulary a token tells where
    its word ends, not where it begins: alone, the tokens of "a big cake" and of ", who" decode without a leading
    space, and "Anna was" would become "Anna wasa big cake". This pipeline decodes the whole sequence and takes from it
    what follows the prompt's tokens.

        generator = pipeline("text-generation", model="runs/stories_gpt1_mini")
        generator("Anna was", max_new_tokens=3)                          # [{"generated_text": "Anna was a big cake"}]
        generator("Anna was", max_new_tokens=3, return_full_text=False)  # [{"generated_text": " a big cake"}]

    Arguments and results are those of `transformers.TextGenerationPipeline`. The prompt is given back as it was
    written; the new text begins with the space that belongs between the two, unless the prompt ends in white space.
    The reply to a chat begins with its first word.

    For another model than GPT-1, the class makes the library's own pipeline, because one class serves a task.
    """

    def __new__(cls, model: Any, *args: Any, **kwargs: Any) -> TextGenerationPipeline:
        if model.config.model_type != "gpt1":
            return TextGenerationPipeline(model, *args, **kwargs)
        return super().__new__(cls)

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
        """The text of the tokens behind the prompt, with the space before it where one belongs there."""
        before, whole = (self.tokenizer.decode(part, **decoding) for part in (ids[:prompt_length], ids))
        # Punctuation may take away a space at the end of the prompt's text, but nothing else changes in it.
        left, end = len("".join(before.split())), 0
        while left:
            left -= not whole[end].isspace()
            end += 1
        added = whole[end:]
        # <unk> does not say that a word ends, but a prompt's last token always ends one.
        after_unknown = self.tokenizer.decode(ids[:prompt_length][-1:]) == "<unk>"
        return " " + added if after_unknown and added[:1].isalnum() else added
