"""The servers that recipes/README.md shows, over HTTP with real clients, with tiny models."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

from seq2seq_scratch.tokenization import end_of_sentence, save_tokenizers

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "recipes" / "README.md").read_text().partition("\n## Serving\n")[2].partition("\n## ")[0]
BASH, PYTHON = (re.findall(rf"```{language}\n(.*?)```", SECTION, re.S) for language in ("bash", "python"))
SECONDS = 300  # a busy machine imports the libraries slowly


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def lines_of(block, program):
    return [line.split() for line in block.splitlines() if line.startswith(program)]


def export(block, folder):
    """Runs the documented export."""
    ((_, script, *arguments),) = lines_of(block, "python recipes/export.py")
    subprocess.run([sys.executable, ROOT / script, *arguments], cwd=folder, check=True, capture_output=True)


@contextmanager
def running(command, folder, url):
    """Starts a server, offline, and waits until it answers."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(2 * SECONDS):
            assert server.poll() is None, (folder / "server.log").read_text()
            try:
                urllib.request.urlopen(url, timeout=SECONDS).close()
                break
            except urllib.error.HTTPError:
                break  # it answers
            except OSError:
                time.sleep(0.5)
        yield
    finally:
        server.terminate()
        server.wait()


def test_gpt1_answers_openais_client(tmp_path, capsys, monkeypatch):
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason=f"{package} is not installed; the extra `serving` has it")
    program = Path(sys.executable).with_name("transformers")
    if not program.is_file():
        pytest.skip("the program `transformers` is not beside Python")
    model = tiny_model("causal_lm", intermediate_size=32, eos_token_id=None)
    model.save_pretrained(tmp_path / "runs" / "stories_gpt1_mini")
    tiny_tokenizer().save_pretrained(tmp_path / "runs" / "stories_gpt1_mini")
    export(BASH[0], tmp_path)
    port = free_port()
    ((_, *arguments),) = lines_of(BASH[0], "transformers serve")
    assert arguments[-4:] == ["--host", "127.0.0.1", "--port", "8000"]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = PYTHON[0].replace(":8000/", f":{port}/").replace("Anna had a red kite .", "word4 word9 word7")
    with running([program, *arguments[:-1], port], tmp_path, f"http://127.0.0.1:{port}/health"):
        capsys.readouterr()
        exec(client, {})
    whole, _, streamed = capsys.readouterr().out.partition("\n")
    prompt = torch.tensor([[4, 9, 7]])
    expected = model.generate(prompt, max_new_tokens=40, do_sample=False)[0, 3:]
    assert whole.split() == tiny_tokenizer().decode(expected, skip_special_tokens=True).split() != []
    assert streamed.split() == whole.split()


def test_a_translator_answers_with_the_translations_of_the_lines(tmp_path):
    ctranslate2 = pytest.importorskip(
        "ctranslate2", reason="ctranslate2 is not installed; the extra `ctranslate2` has it"
    )
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = end_of_sentence(tokenizer.eos_token_id)
    folder = tmp_path / "runs" / "numbers_transformer"
    tiny_model("transformer").save_pretrained(folder)
    save_tokenizers(folder, tokenizer, tokenizer)
    export(BASH[1], tmp_path)
    port = free_port()
    (tmp_path / "serve.py").write_text(PYTHON[1].replace("8001", port))
    ((_, script),) = lines_of(BASH[1], "python serve.py")
    ((_, _, name, url),) = lines_of(BASH[1], "curl")
    sentences = ["word4 word5", "word9 word7 word12"]
    (tmp_path / name.removeprefix("@")).write_text("".join(f"{sentence}\n" for sentence in sentences))
    url = url.replace("8001", port)
    with running([sys.executable, script], tmp_path, url):
        data = (tmp_path / name.removeprefix("@")).read_bytes()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, data=data), timeout=SECONDS) as response:
            answer = response.read().decode()
    engine = ctranslate2.Translator(str(tmp_path / "runs" / "numbers_exported"))
    tokens = [tokenizer.convert_ids_to_tokens(tokenizer(sentence).input_ids) for sentence in sentences]
    found = engine.translate_batch(tokens, beam_size=4)
    ids = [tokenizer.convert_tokens_to_ids(each.hypotheses[0]) for each in found]
    assert answer.splitlines() == [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    assert len(set(answer.splitlines())) == 2
