"""Zero-shot heuristics on a model whose probabilities are written down: each token depends on the one before it."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_models import VOCABULARY, tiny_tokenizer

from gpt1_scratch.pretraining.zero_shot import choose_endings, compare_words, mean_log_probabilities

# log P(next | this): after word4 comes word5 with 1/2, word6 with 1/4; the other 14 tokens share the rest.
FAVOURED = {4: {5: 0.5, 6: 0.25}, 5: {7: 0.8}, 6: {7: 0.1, 8: 0.6}}


class BigramModel:
    device = torch.device("cpu")
    config = SimpleNamespace(max_position_embeddings=6)

    def __init__(self):
        self.table = torch.full((VOCABULARY, VOCABULARY), 1 / VOCABULARY)
        for token, favoured in FAVOURED.items():
            self.table[token] = (1 - sum(favoured.values())) / (VOCABULARY - len(favoured))
            for following, probability in favoured.items():
                self.table[token, following] = probability

    def __call__(self, input_ids, attention_mask=None):
        # Logits may have any constant added to them.
        return SimpleNamespace(logits=self.table[input_ids].log() + 3.0)


def test_the_acceptability_of_a_sentence_is_the_mean_log_probability_of_its_tokens():
    texts = ["word4 word5 word7", "word4 word6 word7", "word4"]
    found = mean_log_probabilities(BigramModel(), tiny_tokenizer(), texts)
    assert found[:2] == pytest.approx([(math.log(0.5) + math.log(0.8)) / 2, (math.log(0.25) + math.log(0.1)) / 2])
    assert found[2] == -math.inf


def test_two_words_are_compared_behind_a_text():
    texts = ["word9 word4", "word6", "word9"]
    found = compare_words(BigramModel(), tiny_tokenizer(), texts, ("word5", "word6"))
    assert found == pytest.approx([math.log(0.25 / 0.5), 0.0, 0.0])
    with pytest.raises(ValueError, match="'word4' and 'word4' begin with the same token"):
        compare_words(BigramModel(), tiny_tokenizer(), texts, ("word4", "word4"))


def test_an_ending_is_chosen_by_the_mean_and_not_by_the_sum_and_long_contexts_lose_their_beginning():
    endings = [["word5", "word6 word8"], ["word6", "word5 word7"], ["word5", "word6 word8"]]
    contexts = ["word4", "word4", " ".join(["word9"] * 9 + ["word4"])]
    # log 1/2 against (log 1/4 + log 0.6) / 2; log 1/4 against (log 1/2 + log 0.8) / 2.
    assert choose_endings(BigramModel(), tiny_tokenizer(), contexts, endings) == [0, 1, 0]
    summed = [["word5", "word5 word7"]]
    assert choose_endings(BigramModel(), tiny_tokenizer(), ["word4"], summed) == [1]  # by the sum it would be 0


@pytest.mark.parametrize(("context", "endings"), [("word4 word5", ["", "word6"]), ("", ["word4", "word5 word6"])])
def test_an_ending_without_a_token_to_predict_is_chosen_last(context, endings):
    for order in (1, -1):
        (chosen,) = choose_endings(BigramModel(), tiny_tokenizer(), [context], [endings[::order]])
        assert endings[::order][chosen] == endings[1]
