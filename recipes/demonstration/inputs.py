"""Checks what a user has typed."""

from transformers import PreTrainedTokenizerBase

from gpt1_scratch.data.visible_text import has_visible_text

# A text with more characters than this for each token that is allowed is refused before it is tokenised.
CHARACTERS_PER_TOKEN = 50


def check_text(text: str | None, tokenizer: PreTrainedTokenizerBase, largest: int, what: str = "The sentence") -> int:
    """Returns the number of tokens of a text, without those that mark its start and end.

    Args:
        text: what a user has typed.
        tokenizer: the model's tokenizer.
        largest: the largest number of tokens.
        what: the text's name at the beginning of a message.

    Raises:
        ValueError: if the text is too long, or nothing of it is visible.
    """
    if text is None or not has_visible_text(text):
        raise ValueError(f"{what} is empty. Type at least a word.")
    if len(text) > CHARACTERS_PER_TOKEN * largest:
        raise ValueError(f"{what} has {len(text):,} characters. At most {largest} tokens are read; shorten it.")
    count = len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    if count > largest:
        raise ValueError(f"{what} has {count} tokens. At most {largest} are read; shorten it.")
    return count
