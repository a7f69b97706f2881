"""Where the weights of a fine-tuned model come from, and what settings make of them."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

from gpt1_scratch.finetuning.models import load_pretrained, make_task_model
from gpt1_scratch.finetuning.tasks import TASKS
from gpt1_scratch.tokenization import published_tokenizer
from papers_to_gpt import finetune_gpt1


def model_of(pretrained, **options):
    backbone, tokenizer = load_pretrained(str(pretrained))
    torch.manual_seed(1)
    return make_task_model(TASKS["sst2"], backbone, tokenizer, **options)


def test_layers_are_transferred_from_the_first_and_the_others_start_at_random(pretrained):
    saved = load_file(pretrained / "model.safetensors")
    matrices = {name for name, tensor in saved.items() if tensor.std() > 0}

    def kept(**options):
        weights = model_of(pretrained, **options).state_dict()
        # The tokens that frame texts, and padding, are the last rows of their table; see below.
        table = {name: slice(None, -4) for name in matrices if "tokens_embed" in name}
        return {
            name
            for name in matrices
            if torch.equal(*(tensors[name][table.get(name, slice(None))] for tensors in (weights, saved)))
        }

    assert kept() == kept(transferred_layers=2) == matrices
    assert kept(transferred_layers=1) == {name for name in matrices if "blocks.1" not in name}
    assert kept(transferred_layers=0) == {"model.tokens_embed.weight", "model.positions_embed.weight"}
    assert kept(from_scratch=True) == set()


def test_tokens_that_frame_texts_are_drawn_anew_once(pretrained, tmp_path):
    def table_of(model):
        return model.get_input_embeddings().weight.detach()

    backbone, tokenizer = load_pretrained(str(pretrained))
    framing = [tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id]
    others = [row for row in range(len(tokenizer)) if row not in framing]
    with torch.no_grad():
        table_of(backbone)[framing] = 5.0  # what pre-training makes of tokens that it never reads
    torch.manual_seed(0)
    first = make_task_model(TASKS["sst2"], backbone, tokenizer)
    rows = table_of(first)[framing]
    assert 0.1 < rows.std() < 0.3 and abs(torch.corrcoef(rows) - torch.eye(3)).max() < 0.8
    torch.testing.assert_close(table_of(first)[others], table_of(backbone)[others], rtol=0, atol=0)
    # A task learns them, and a second task resumes from there.
    first.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    second = make_task_model(TASKS["mrpc"], *load_pretrained(str(tmp_path)))
    torch.testing.assert_close(table_of(second)[framing], rows, rtol=0, atol=0)


def test_a_regression_starts_at_the_mean_of_its_labels(pretrained):
    backbone, tokenizer = load_pretrained(str(pretrained))
    model = make_task_model(TASKS["stsb"], backbone, tokenizer, mean_label=2.5).eval()
    inputs = tokenizer("the kite", "the mill", return_tensors="pt")
    with torch.no_grad():
        by_chance = model(**inputs).logits.item()
        model.score.weight.zero_()
        assert model(**inputs).logits.item() == 2.5 != by_chance


def test_settings_of_the_head_reach_the_saved_model(finetune, files):
    arguments = ["--auxiliary_loss_weight", "0.2", "--classifier_dropout", "0.3", "--dropout", "0.05"]
    config = AutoConfig.from_pretrained(finetune(*files, "--max_steps", 1, *arguments))
    assert (config.auxiliary_loss_weight, config.classifier_dropout, config.residual_dropout) == (0.2, 0.3, 0.05)
    config = AutoConfig.from_pretrained(finetune(*files, "--max_steps", 1, name="defaults"))
    assert (config.auxiliary_loss_weight, config.classifier_dropout, config.residual_dropout) == (0.5, 0.1, 0.0)


def test_defaults_are_the_papers(pretrained):
    _, data, optimization, training, _ = finetune_gpt1.parse(
        ["--model_name_or_path", str(pretrained), "--task", "sst2", "--output_dir", "x"]
    )
    assert (training.num_train_epochs, data.per_device_train_batch_size) == (3, 32)
    assert (optimization.learning_rate, optimization.warmup_steps, optimization.max_grad_norm) == (6.25e-5, 0.002, 1.0)
    assert (optimization.lr_scheduler_type, optimization.weight_decay) == ("linear", 0.01)


@pytest.fixture
def openai_gpt(tmp_path):
    """Saves a small checkpoint of the library's model in the published form."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = [
        "<unk>",
        *letters,
        *(f"{letter}</w>" for letter in letters),
        ".</w>",
        "n't</w>",
        "th",
        "the</w>",
        "\n</w>",
    ]
    merges = [("t", "h"), ("th", "e</w>")]
    folder = tmp_path / "openai-gpt"
    torch.manual_seed(0)
    config = OpenAIGPTConfig(vocab_size=len(vocab), n_positions=32, n_embd=16, n_layer=2, n_head=2)
    OpenAIGPTLMHeadModel(config).save_pretrained(folder)
    tokenizer = OpenAIGPTTokenizer(vocab={token: number for number, token in enumerate(vocab)}, merges=merges)
    tokenizer.save_pretrained(folder)
    (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocab)}))
    (tmp_path / "merges.txt").write_text("".join(" ".join(pair) + "\n" for pair in merges))
    return folder


def test_an_openai_gpt_checkpoint_is_converted_and_fine_tuned(finetune, openai_gpt, files, tmp_path):
    folder = finetune(*files, "--model_name_or_path", openai_gpt, "--max_steps", 2, "--learning_rate", "1e-9")
    weights, saved = load_file(folder / "model.safetensors"), load_file(openai_gpt / "model.safetensors")
    torch.testing.assert_close(
        weights["model.blocks.1.mlp.expand.weight"], saved["transformer.h.1.mlp.c_fc.weight"].T, atol=1e-6, rtol=0
    )
    table, published = weights["model.tokens_embed.weight"], saved["transformer.tokens_embed.weight"]
    torch.testing.assert_close(table[: len(published)], published, atol=1e-6, rtol=0)
    # <start>, <delimiter>, <extract> and <pad>, drawn from N(0, 0.02).
    assert len(table) == len(published) + 4
    assert 0.005 < table[len(published) :].std() < 0.04
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = published_tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")
    text = "The mill didn't\nturn."
    ids = [tokenizer.bos_token_id, *expected(text).input_ids, tokenizer.cls_token_id]
    assert tokenizer(text).input_ids == ids
    assert tokenizer.convert_tokens_to_ids("<start>") == len(published)
