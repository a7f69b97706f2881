"""PEFT's LoRA on every family and TRL's `SFTTrainer` on GPT-1: what trains, is saved, and loads to the same."""

import math

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from tiny_models import row, tiny_batch, tiny_model, tiny_tokenizer
from torch.nn import functional

from gpt1_scratch.tokenization import train_tokenizer

peft = pytest.importorskip("peft", reason="peft is not installed; the extra `test` has it")

LSTM_WEIGHTS = [f"{side}.lstm.weight_{of}h_l0" for side in ("encoder", "decoder") for of in "ih"]
GRU_WEIGHTS = [f"encoder.bidirectional_gru.{kind}_weight" for kind in ("input", "gate", "candidate")]
LORA = {
    "transformer": ("transformer", {"task_type": "SEQ_2_SEQ_LM", "target_modules": "all-linear"}),
    "rnn_seq2seq": (
        "rnn_seq2seq",
        {"task_type": "SEQ_2_SEQ_LM", "target_modules": [], "target_parameters": LSTM_WEIGHTS},
    ),
    "bahdanau": ("bahdanau", {"task_type": "SEQ_2_SEQ_LM", "target_modules": [], "target_parameters": GRU_WEIGHTS}),
    # Four of these layers stand in the decoder's loop, which multiplies by their weights without calling them.
    "bahdanau_linear": ("bahdanau", {"task_type": "SEQ_2_SEQ_LM", "target_modules": "all-linear"}),
    "causal_lm": ("causal_lm", {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}),
    "classification": ("classification", {"task_type": "SEQ_CLS", "target_modules": "all-linear"}),
}


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def with_adapter(name, **settings):
    torch.manual_seed(1)
    return peft.get_peft_model(tiny_model(name), peft.LoraConfig(r=2, **settings))


@pytest.mark.parametrize("case", LORA)
def test_lora_trains_saves_and_loads(case, tmp_path):
    name, settings = LORA[case]
    batch, model = tiny_batch(name), with_adapter(name, **settings)
    untrained = tiny_model(name)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(6):
        loss = model.train()(**batch).loss
        loss.backward()
        losses.append(loss.item())
        if len(losses) == 2:  # in the first step B is 0, and so is the gradient of A
            idle = [key for key, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
            assert not idle
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.03
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(name), tmp_path)
    with torch.no_grad():
        logits = model.eval()(**batch).logits
        assert (logits - untrained(**batch).logits).abs().max() > 0.1
        torch.testing.assert_close(loaded.eval()(**batch).logits, logits)
        torch.testing.assert_close(loaded.merge_and_unload()(**batch).logits, logits, atol=1e-5, rtol=1e-4)
    for key, parameter in model.base_model.model.named_parameters():
        if "lora" not in key and "modules_to_save" not in key:
            original = key.replace("base_layer.", "").replace("original_module.", "")
            assert torch.equal(parameter, untrained.get_parameter(original)), key


@pytest.mark.parametrize("case", ["transformer", "bahdanau_linear", "causal_lm"])
def test_an_adapted_model_generates_as_its_merged_weights_do(case):
    name, settings = LORA[case]
    model = with_adapter(name, **settings, init_lora_weights=False)
    batch = tiny_batch(name)
    inputs = {"input_ids": batch["input_ids"][:, :3], "attention_mask": batch["attention_mask"][:, :3]}
    search = {"num_beams": 3, "max_new_tokens": 5, "do_sample": False}
    adapted = model.generate(**inputs, **search)
    assert adapted.tolist() != tiny_model(name).generate(**inputs, **search).tolist()
    assert adapted.tolist() == model.merge_and_unload().generate(**inputs, **search).tolist()


def test_an_adapter_of_only_the_loops_layers_changes_the_translation_like_its_merged_weights():
    layers = ["attention.query", "attention.score", "state_gates", "candidate"]
    model = with_adapter("bahdanau", target_modules=layers, init_lora_weights=False, use_dora=True)
    batch = tiny_batch("bahdanau")
    model.train()(**batch).loss.backward()
    trained = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 3 * len(layers) and all(gradient.any() for gradient in trained.values())
    with torch.no_grad():
        logits, untrained = model.eval()(**batch).logits, tiny_model("bahdanau")(**batch).logits
        assert (logits - untrained).abs().max() > 0.01
        torch.testing.assert_close(model.merge_and_unload()(**batch).logits, logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "layer"), [("transformer", "lm_head"), ("bahdanau", "lm_head"), ("causal_lm", "lm_head")]
)
def test_an_adapter_of_the_softmax_has_its_say_in_the_loss(name, layer):
    task = "CAUSAL_LM" if name == "causal_lm" else "SEQ_2_SEQ_LM"
    model = with_adapter(
        name, task_type=task, target_modules=[layer], init_lora_weights=False, ensure_weight_tying=False
    )
    batch = tiny_batch(name)
    loss = model.train()(**batch).loss
    loss.backward()
    logits, labels = model.eval()(**batch).logits, batch["labels"]
    if name == "causal_lm":
        logits, labels = logits[:, :-1], labels[:, 1:]
    torch.testing.assert_close(loss, functional.cross_entropy(logits.transpose(1, 2), labels))
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("lora", [False, True])
def test_trl_trains_gpt1(lora, tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed; the extra `test` has it")
    tokenizer, model = tiny_tokenizer(), tiny_model("causal_lm")
    texts = [tokenizer.decode(row(4 + seed, seed)[:-1]) for seed in range(8)]
    arguments = trl.SFTConfig(
        str(tmp_path),
        **{"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True},
        **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_steps": 1, "max_length": 32},
        **{"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0},
    )
    config = peft.LoraConfig(r=2, task_type="CAUSAL_LM", target_modules="all-linear") if lora else None
    trainer = trl.SFTTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=tokenizer,
        peft_config=config,
    )
    trainer.train()

    expected = tiny_model("causal_lm").train()
    rows = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    loss = sum(
        functional.cross_entropy(expected(torch.tensor([ids[:-1]])).logits[0], torch.tensor(ids[1:]), reduction="sum")
        for ids in rows
    ) / sum(len(ids) - 1 for ids in rows)
    loss.backward()
    assert trainer.state.log_history[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-4)
    if lora:
        trained = trainer.model
        trained.save_pretrained(tmp_path)
        loaded = peft.PeftModel.from_pretrained(tiny_model("causal_lm"), tmp_path).eval()
        ids = torch.tensor(rows[:1])
        torch.testing.assert_close(loaded(ids).logits, trained.eval()(ids).logits)
        assert not torch.equal(loaded(ids).logits, tiny_model("causal_lm")(ids).logits)
    else:
        for (key, parameter), trained in zip(expected.named_parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(
                trained, parameter - parameter.grad, atol=2e-6, rtol=1e-4, msg=lambda m, k=key: k + m
            )


@pytest.mark.parametrize("case", ["transformer", "causal_lm"])
def test_prefix_tuning_generates_as_its_forward_predicts(case):
    name = LORA[case][0]
    sizes = {} if name == "causal_lm" else {"num_layers": 2, "token_dim": 8, "num_attention_heads": 2}
    torch.manual_seed(1)
    model = peft.get_peft_model(
        tiny_model(name), peft.PrefixTuningConfig(task_type=LORA[case][1]["task_type"], num_virtual_tokens=3, **sizes)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(3)
    batch = tiny_batch(name)
    model.train()(**batch).loss.backward()
    assert all(parameter.grad.any() for parameter in model.parameters() if parameter.requires_grad)
    rows = batch["attention_mask"][:, :3].all(dim=1)
    inputs = {key: batch[key][rows, :3] for key in ("input_ids", "attention_mask")}
    model.eval()
    if name == "causal_lm":
        generated = model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=None)
        tokens, mask = inputs["input_ids"], inputs["attention_mask"]
        for _ in range(5):
            chosen = model(input_ids=tokens, attention_mask=mask).logits[:, -1:].argmax(dim=-1)
            tokens, mask = torch.cat([tokens, chosen], dim=1), torch.cat([mask, torch.ones_like(chosen)], dim=1)
        assert generated.tolist() == tokens.tolist()
        assert generated.tolist() != tiny_model(name).generate(**inputs, max_new_tokens=5, do_sample=False).tolist()
    else:
        assert model.generate(**inputs, max_new_tokens=5, do_sample=False, num_beams=3).shape[0] == rows.sum()


TRL_ARGUMENTS = {
    **{"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True},
    **{"per_device_train_batch_size": 2, "max_steps": 1, "optim": "sgd", "learning_rate": 1.0},
    **{"lr_scheduler_type": "constant", "max_grad_norm": 0},
}


def test_trl_trains_a_reward_model(tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed; the extra `test` has it")
    tokenizer = tiny_tokenizer()
    model = tiny_model("classification", num_labels=1, auxiliary_loss_weight=0.0)
    pairs = {"chosen": ["word4 word5", "word6"], "rejected": ["word8 word9", "word10 word11"]}
    arguments = trl.RewardConfig(str(tmp_path), **TRL_ARGUMENTS, max_length=32)
    trl.RewardTrainer(model, arguments, train_dataset=Dataset.from_dict(pairs), processing_class=tokenizer).train()

    expected = tiny_model("classification", num_labels=1, auxiliary_loss_weight=0.0).train()

    def rewards(texts):
        rows = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
        return torch.cat([expected(torch.tensor([ids])).logits[0] for ids in rows])

    functional.softplus(rewards(pairs["rejected"]) - rewards(pairs["chosen"])).mean().backward()
    for (key, parameter), trained in zip(expected.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(
            trained, parameter - parameter.grad, atol=2e-6, rtol=1e-4, msg=lambda m, k=key: k + m
        )


def test_trl_samples_and_trains_with_grpo(tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed; the extra `test` has it")
    model, seen = tiny_model("causal_lm"), []

    def reward(completions, **kwargs):
        seen.extend(completions)
        return [float(len(set(text.split()))) + index for index, text in enumerate(completions)]

    arguments = trl.GRPOConfig(str(tmp_path), **TRL_ARGUMENTS, num_generations=2, max_completion_length=5)
    trainer = trl.GRPOTrainer(
        model,
        reward,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["word4 word5", "word6"]}),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    assert len(seen) == 2
    before = tiny_model("causal_lm")
    changed = [(a - b).abs().max().item() for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert max(changed) > 1e-4


@pytest.mark.parametrize("only_replies", [False, True])
def test_trl_trains_gpt1_on_conversations(only_replies, tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed; the extra `test` has it")
    conversations = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in (("is it big?", "no."), ("who had it?", "anna had the big cake."))
    ]
    texts = [f"user: {question['content']}\nassistant: {answer['content']}" for question, answer in conversations]
    tokenizer = train_tokenizer(texts * 3, merges=60)
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    model = tiny_model("causal_lm", **vocabulary)
    arguments = trl.SFTConfig(
        str(tmp_path),
        **{"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True},
        **{"per_device_train_batch_size": 2, "max_steps": 1, "max_length": 64, "assistant_only_loss": only_replies},
    )
    trainer = trl.SFTTrainer(
        model,
        arguments,
        train_dataset=Dataset.from_dict({"messages": conversations}),
        processing_class=tokenizer,
    )
    trainer.train()

    expected, losses = tiny_model("causal_lm", **vocabulary), []
    for text, (_, answer) in zip(texts, conversations, strict=True):
        ids = torch.tensor(tokenizer(text).input_ids + [tokenizer.eos_token_id])
        start = len(ids) - len(tokenizer(answer["content"]).input_ids) - 1 if only_replies else 1
        logits = expected(ids[None]).logits[0, start - 1 : -1]
        losses += functional.cross_entropy(logits, ids[start:], reduction="none").tolist()
    assert trainer.state.log_history[0]["train_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("by_name", [False, True])
def test_trls_dpo_trains_gpt1_with_a_reference_model(by_name, tmp_path):
    """Given a folder, TRL loads the model and its reference; a model object needs the argument ref_model."""
    trl = pytest.importorskip("trl", reason="trl is not installed; the extra `test` has it")
    tokenizer = train_tokenizer(["is it big? no. yes, anna had the big cake."] * 3, merges=60)
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    folder = tmp_path / "model"
    tiny_model("causal_lm", **vocabulary).save_pretrained(folder)
    arguments = trl.DPOConfig(
        str(tmp_path),
        **{"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True},
        **{"per_device_train_batch_size": 2, "max_steps": 2, "learning_rate": 0.1, "logging_steps": 1},
        **({"model_init_kwargs": {"trust_remote_code": True}} if by_name else {}),
    )
    rows = {"prompt": ["is it big?"] * 4, "chosen": [" yes, anna."] * 4, "rejected": [" no."] * 4}
    trainer = trl.DPOTrainer(
        str(folder) if by_name else tiny_model("causal_lm", **vocabulary),
        None if by_name else tiny_model("causal_lm", **vocabulary),
        arguments,
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    first, second = (line["loss"] for line in trainer.state.log_history[:2])
    # As long as the model is its own reference, each answer is as likely as before: -log sigmoid(0).
    assert first == pytest.approx(math.log(2), abs=1e-4) and second < first - 0.01
