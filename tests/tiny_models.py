"""Tiny models of every kind and examples for them, which the tests of the ecosystem share."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import gpt1_scratch as gpt1
import seq2seq_scratch as seq2seq

VOCABULARY = 16
PAD, END = 1, 3
WORDS = ["<unk>", "<pad>", "<s>", "</s>", *(f"word{number}" for number in range(4, VOCABULARY))]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordLevel(dict(zip(WORDS, range(VOCABULARY), strict=True)), unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


TRANSLATORS = {
    "rnn_seq2seq": (
        seq2seq.RNNSeq2SeqForConditionalGeneration,
        seq2seq.RNNSeq2SeqConfig,
        {"embedding_size": 8, "hidden_size": 8, "num_hidden_layers": 2, "dropout": 0.0},
    ),
    "bahdanau": (
        seq2seq.BahdanauForConditionalGeneration,
        seq2seq.BahdanauConfig,
        {"embedding_size": 8, "hidden_size": 8, "attention_size": 6, "maxout_size": 5},
    ),
    "transformer": (
        seq2seq.TransformerForConditionalGeneration,
        seq2seq.TransformerConfig,
        {
            **{"d_model": 8, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0, "max_position_embeddings": 64},
            **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
            **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16),
        },
    ),
}
GPT1_SIZES = {
    **{"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64},
    **{"pad_token_id": PAD, "bos_token_id": 2, "eos_token_id": END, "num_labels": 3},
    **dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout", "classifier_dropout"), 0.0),
}
GPT1_HEADS = {
    "causal_lm": (gpt1.GPT1ForCausalLM, gpt1.GPT1Config, GPT1_SIZES),
    "masked_lm": (gpt1.GPT1ForMaskedLM, gpt1.GPT1Config, {**GPT1_SIZES, "attention": "bidirectional"}),
    "classification": (gpt1.GPT1ForSequenceClassification, gpt1.GPT1Config, GPT1_SIZES),
    "multiple_choice": (gpt1.GPT1ForMultipleChoice, gpt1.GPT1Config, GPT1_SIZES),
}
MODELS = TRANSLATORS | GPT1_HEADS


def tiny_model(name: str, **settings) -> PreTrainedModel:
    """Returns one of `MODELS` in evaluation mode: the same weights at every call, no dropout, far from symmetric."""
    model_class, config_class, sizes = MODELS[name]
    torch.manual_seed(0)
    if name in TRANSLATORS:
        settings = {"decoder_vocab_size": VOCABULARY, **settings}
    model = model_class(config_class(**{"vocab_size": VOCABULARY, **sizes, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def row(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [*torch.randint(4, VOCABULARY, (length - 1,), generator=generator).tolist(), END]


def tiny_examples(name: str, count: int = 8) -> list[dict]:
    """Returns examples of different lengths, in the form of a data set."""
    if name in TRANSLATORS:
        return [{"input_ids": row(2 + i % 5, i), "labels": row(2 + i % 4 + i // 4, 50 + i)} for i in range(count)]
    if name == "causal_lm":
        return [{"input_ids": row(3 + i, i)} for i in range(count)]
    if name == "masked_lm":  # of every row, the second token is predicted
        rows = [row(3 + i, i) for i in range(count)]
        return [{"input_ids": [ids[0], 0, *ids[2:]], "labels": [-100, ids[1], *[-100] * len(ids[2:])]} for ids in rows]
    if name == "classification":
        return [{"input_ids": row(3 + i, i), "label": i % 3} for i in range(count)]
    return [{"input_ids": [row(3 + i, i), row(4 + i % 3, 70 + i)], "label": i % 2} for i in range(count)]


def tiny_collator(name: str, model: PreTrainedModel | None = None):
    """Returns the library's collator for the task."""
    tokenizer = tiny_tokenizer()
    if name in TRANSLATORS:
        return DataCollatorForSeq2Seq(tokenizer, model=model)
    if name == "causal_lm":
        return DataCollatorForLanguageModeling(tokenizer, mlm=False)
    if name == "masked_lm":
        return DataCollatorForTokenClassification(tokenizer)
    return (DataCollatorWithPadding if name == "classification" else DataCollatorForMultipleChoice)(tokenizer)


def tiny_batch(name: str, count: int = 8) -> dict[str, torch.Tensor]:
    """Returns the examples as one batch."""
    return dict(tiny_collator(name)(tiny_examples(name, count)))
