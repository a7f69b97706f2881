"""What pre-training predicts: every next token, as in GPT-1's paper, or masked tokens, as in BERT's.

An objective decides the model's class and attention, the targets of a batch, the scores of an evaluation, and the
samples to read. All else of a run is the same.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gpt1_scratch.data.visible_text import has_visible_text
from gpt1_scratch.modeling_gpt1 import GPT1ForCausalLM
from gpt1_scratch.modeling_gpt1_masked import GPT1ForMaskedLM
from gpt1_scratch.pretraining.masking import IGNORE_INDEX, PREDICTED_SHARE, FixedMasks, TokenMasker
from gpt1_scratch.pretraining.packing import PackedTexts
from gpt1_scratch.tokenization import add_mask_token
from papers_to_gpt.engine.batching import Batch
from papers_to_gpt.engine.log_window import TokenCounts
from papers_to_gpt.engine.model_folder import LANGUAGE_MODEL, MASKED_MODEL
from papers_to_gpt.settings.pretraining import MASKED, NEXT_TOKEN, SampleSettings

# Of a text whose beginning is tokenized for a sample.
SAMPLE_CHARACTERS = 2000


class NextToken:
    """Predicts every next token from the tokens before it: equation 1 of the paper.

    Attributes:
        attention: the field of `GPT1Config`.
        model_class: the class of the model.
        kind: the kind of model that a run may start from.
        loss_arguments: further arguments of the model's forward in an evaluation.
        summary: a template for the line about a finished run, with the names of scores.
        use, script, arguments: what the model is for, and the command that does it.
    """

    attention = "causal"
    model_class: type[PreTrainedModel] = GPT1ForCausalLM
    kind = LANGUAGE_MODEL
    loss_arguments: dict[str, Any] = {"logits_to_keep": 1}
    summary = "{bits_per_byte:.3f} bits per byte on the validation text."
    use = "To continue a text with it"
    script, arguments = "generate_text", ("--prompt", "Once upon a time")
    # Functions of the training loop and the evaluation that this objective does not need.
    draw_targets = count_correct = None

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer

    @staticmethod
    def prepare_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
        """Returns the tokenizer with the tokens that the objective needs."""
        return tokenizer

    def evaluation_blocks(self, blocks: Dataset) -> Sequence[Any]:
        """Returns the blocks of an evaluation, with their targets if these are not the tokens themselves."""
        return blocks

    def count(self, batch: Batch) -> TokenCounts:
        """Counts the predicted tokens of a batch: all but the first of each block. Blocks have no padding."""
        rows, length = batch["input_ids"].shape
        return TokenCounts(target_tokens=rows * (length - 1), tokens=rows * length, slots=rows * length)

    def add_scores(self, scores: dict[str, float], packed: PackedTexts) -> dict[str, float]:
        """Returns the scores with perplexity per word and bits per byte, which compare across vocabularies."""
        nats = scores["loss"] * packed.tokens
        return scores | {
            "word_perplexity": math.exp(min(nats / packed.words, 700.0)),
            "bits_per_byte": nats / packed.bytes / math.log(2),
        }

    def samples(self, model: PreTrainedModel, *, texts: Dataset, sampling: SampleSettings) -> list[str]:
        """Samples continuations of the beginnings of validation texts."""
        positions = model.config.max_position_embeddings
        samples = []
        for prompt in self._openings(texts, sampling.num_samples, sampling.sample_prompt_tokens):
            output = model.generate(
                prompt.to(model.device),
                attention_mask=torch.ones_like(prompt).to(model.device),
                # Shorter than the setting where the model's positions end, which would otherwise log a warning each
                # time.
                max_new_tokens=max(1, min(sampling.sample_new_tokens, positions - prompt.shape[1])),
                do_sample=True,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
            )
            beginning, continuation = (
                self.tokenizer.decode(part) for part in (prompt[0], output[0, prompt.shape[1] :])
            )
            samples.append(f"[{beginning}] {continuation}")
        return samples

    def flops_per_target(self, model: PreTrainedModel, block_size: int) -> float:
        """Returns the FLOP per predicted token."""
        return training_flops_per_token(model, block_size)

    def _openings(self, texts: Dataset, count: int, length: int) -> list[torch.LongTensor]:
        """Returns the first tokens of the first texts, (1, up to `length`) each."""
        visible = (row["text"] for row in texts if has_visible_text(row["text"] or ""))
        return [
            self.tokenizer(text[:SAMPLE_CHARACTERS], return_tensors="pt", verbose=False).input_ids[:, :length]
            for text in itertools.islice(visible, count)
        ]


class MaskedTokens(NextToken):
    """Predicts 15 % of the tokens, most of them masked, from both sides (Devlin et al. 2018, section 3.1).

    Bits per byte and perplexity per word are not defined: the probabilities of the tokens, each given all others, are
    no factors of a probability of the text. Perplexity and accuracy are those of the predicted tokens.
    """

    attention = "bidirectional"
    model_class = GPT1ForMaskedLM
    kind = MASKED_MODEL
    loss_arguments: dict[str, Any] = {}
    summary = (
        "{accuracy:.1%} of the masked tokens of the validation text are predicted right, with a perplexity of "
        "{perplexity:.2f}."
    )
    use = "To fine-tune it on labelled texts"
    script, arguments = "finetune_gpt1", ("--train_file", "mine.csv", "--output_dir", "runs/mine")

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        super().__init__(tokenizer)
        self.masker = TokenMasker.of(tokenizer)

    @staticmethod
    def prepare_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
        return add_mask_token(tokenizer)

    def draw_targets(self, batch: Batch) -> Batch:
        """Returns the batch with masked inputs and the labels of the tokens to predict."""
        input_ids, labels = self.masker(batch["input_ids"])
        return batch | {"input_ids": input_ids, "labels": labels}

    def evaluation_blocks(self, blocks: Dataset) -> Sequence[Any]:
        return FixedMasks(blocks, self.masker)

    def count(self, batch: Batch) -> TokenCounts:
        """Counts the predicted tokens of a batch."""
        tokens = batch["input_ids"].numel()
        targets = int((batch["labels"] != IGNORE_INDEX).sum())
        return TokenCounts(target_tokens=targets, tokens=tokens, slots=tokens)

    def count_correct(self, batch: Batch, outputs: Any) -> torch.Tensor:
        """Counts the tokens that the model finds most probable where they stand."""
        return (outputs.logits.argmax(dim=-1) == batch["labels"]).sum()

    def add_scores(self, scores: dict[str, float], packed: PackedTexts) -> dict[str, float]:
        return scores

    def samples(self, model: PreTrainedModel, *, texts: Dataset, sampling: SampleSettings) -> list[str]:
        """Returns the beginnings of validation texts with the predictions of masked tokens in brackets.

        A wrong one is followed by the right one: [bird, was: dog].
        """
        length = min(sampling.sample_prompt_tokens + sampling.sample_new_tokens, model.config.max_position_embeddings)
        samples = []
        for number, tokens in enumerate(self._openings(texts, sampling.num_samples, length)):
            input_ids, labels = self.masker(tokens, torch.Generator().manual_seed(number))
            best = model(input_ids.to(model.device)).logits.argmax(dim=-1).cpu()
            samples.append(self._describe(tokens[0].tolist(), labels[0].tolist(), best[0].tolist()))
        return samples

    def _describe(self, tokens: list[int], labels: list[int], best: list[int]) -> str:
        parts = []
        for predicted, group in itertools.groupby(range(len(tokens)), lambda place: labels[place] != IGNORE_INDEX):
            places = list(group)
            if not predicted:
                parts.append(self.tokenizer.decode([tokens[place] for place in places]))
                continue
            for place in places:
                guess, right = (self.tokenizer.decode([each[place]]) for each in (best, tokens))
                parts.append(f"[{guess}]" if best[place] == tokens[place] else f"[{guess}, was: {right}]")
        return " ".join(parts)

    def flops_per_target(self, model: PreTrainedModel, block_size: int) -> float:
        """Returns the FLOP per predicted token: the softmax is computed for these alone, the blocks for all tokens."""
        softmax = 6 * model.lm_head.weight.numel()
        return (training_flops_per_token(model, block_size) - softmax) / PREDICTED_SHARE + softmax


OBJECTIVES: dict[str, type[NextToken]] = {NEXT_TOKEN: NextToken, MASKED: MaskedTokens}


def training_flops_per_token(model: PreTrainedModel, block_size: int) -> float:
    """Returns the FLOP per token of forward and backward, 6 N + 12 L D T (Chowdhery et al. 2022, appendix B).

    N is the number of parameters without the position table, which is only added; the token table counts because it
    is also the softmax matrix. L is the number of layers, D the model width and T the block size. The second term is
    that of attention, so it is 0 for an LSTM.
    """
    config = model.config
    matrices = model.num_parameters() - config.max_position_embeddings * config.hidden_size
    attention = 12 * config.num_hidden_layers * config.hidden_size * block_size if config.lstm_size is None else 0
    return 6 * matrices + attention
