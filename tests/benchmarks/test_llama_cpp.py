"""llama.cpp as a contender of the benchmark."""

import pytest
import torch

from papers_to_gpt.benchmarks import llama_cpp
from papers_to_gpt.benchmarks.gpts import gpt
from papers_to_gpt.settings.benchmarking import Workload


@torch.inference_mode()
@pytest.mark.parametrize("bf16", [False, True])
def test_llama_cpp_generates_the_tokens_of_gpt2(tmp_path, bf16):
    for package in ("gguf", "xllamacpp"):
        pytest.importorskip(package, reason=f"{package} is not installed; the extra `llama_cpp` has it")
    sizes = {"gpt_vocab_size": 50, "gpt_hidden_size": 16, "gpt_layers": 2, "gpt_heads": 2, "context": 24}
    work = Workload(**sizes, prompt_tokens=5, new_tokens=9)
    torch.manual_seed(0)
    model = gpt(work, "gpt2").eval()
    for name, parameter in model.named_parameters():
        if not name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
            torch.nn.init.normal_(parameter, std=0.5)
        if bf16:  # both compute in fp32 with numbers that bf16 has
            parameter.copy_(parameter.bfloat16())
    llama_cpp.write_gguf(model, tmp_path / "model.gguf", bf16)
    prompts = torch.randint(work.gpt_vocab_size, (3, work.prompt_tokens))
    server = llama_cpp.start_server(tmp_path / "model.gguf", len(prompts), work.context)
    found = [
        llama_cpp.token_ids(text) for text in llama_cpp.continue_prompts(server, prompts.tolist(), work.new_tokens)
    ]
    expected = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=work.new_tokens,
        do_sample=False,
        suppress_tokens=[work.gpt_vocab_size - 1],
    )[:, work.prompt_tokens :].tolist()
    assert found == expected and len({tuple(tokens) for tokens in found}) == 3
