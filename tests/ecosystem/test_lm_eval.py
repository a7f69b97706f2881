"""lm-evaluation-harness scores GPT-1's folders as the model itself does."""

import pytest
import torch

import gpt1_scratch as gpt1
from gpt1_scratch.tokenization import train_tokenizer

pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install lm_eval==0.4.13")


def test_log_likelihoods_are_the_models_own(tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer = train_tokenizer(
        ["anna was a big cake, who had (two) friends. she didn't know it's here."] * 3, merges=80
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    names = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    model = gpt1.GPT1ForCausalLM(
        gpt1.GPT1Config(vocab_size=len(tokenizer), initializer_range=0.5, **sizes, **names)
    ).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    harness = HFLM(pretrained=str(tmp_path), device="cpu", dtype="float32", batch_size=2, trust_remote_code=True)
    pairs = [("Anna was", " a big cake"), ("Anna was", ", who had two friends")]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    for (prompt, continuation), (score, greedy) in zip(pairs, harness.loglikelihood(requests), strict=True):
        start, ids = (
            len(tokenizer(prompt).input_ids),
            tokenizer(prompt + continuation, return_tensors="pt").input_ids[0],
        )
        with torch.no_grad():
            predicted = model(ids[None]).logits[0, start - 1 : -1].log_softmax(-1)
        assert score == pytest.approx(predicted.gather(1, ids[start:, None]).sum().item(), abs=1e-5)
        assert greedy == (predicted.argmax(-1) == ids[start:]).all().item()
