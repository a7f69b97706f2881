"""`pipeline("text-generation")` on GPT-1 joins prompt and new text as decoding the whole sequence does."""

import threading

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LogitsProcessor,
    TextGenerationPipeline,
    TextIteratorStreamer,
    TextStreamer,
    pipeline,
)

import gpt1_scratch as gpt1
from gpt1_scratch.pipeline_text_generation import GPT1TextGenerationPipeline
from gpt1_scratch.tokenization import train_tokenizer

CORPUS = [
    "anna was a big cake, who had (two) friends; she didn't know it's \"here\".\n",
    "The boys' cake - well, they'll say: a cat, a dog!\nno?",
]
# Prompt, the tokens that follow, and what the pipeline is to make of both.
SEAMS = [
    ("Anna was", "a big cake", "Anna was a big cake"),
    ("Anna was", ", who had", "Anna was, who had"),
    ("Anna was", "( two )", "Anna was (two)"),
    ("Anna (", "two )", "Anna (two)"),
    ("Anna", "'s cake", "Anna's cake"),
    ("She did", "n't know", "She didn't know"),
    ("The boys '", "cake", "The boys ' cake"),
    ("Anna was", "\n a cat", "Anna was\na cat"),
    ("Anna wa", "a cat", "Anna wa a cat"),  # its last word ends, though there is no such word
    ("Anna  was ", "a cat", "Anna  was a cat"),
    ("Anna was\n", "a cat", "Anna was\na cat"),
    ("", "a cat", "a cat"),
    ("<start>", "a cat", "<start>a cat"),
    ("Anna was <delimiter>", "a cat", "Anna was <delimiter> a cat"),
    ("Anna \u2603", "a cat", "Anna \u2603 a cat"),
    ("\u2603", "a cat", "\u2603 a cat"),
    ("\u2603", ", a cat", "\u2603, a cat"),
    ("DON\u2019T", "say", "DON\u2019T say"),
]


class Dictate(LogitsProcessor):
    """Forces the search to generate the given tokens, whatever the prompt's length."""

    def __init__(self, ids):
        self.ids, self.step = ids, 0

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.ids[self.step]] = 0
        self.step += 1
        return forced


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(CORPUS * 3, merges=150)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt1")
    torch.manual_seed(0)
    names = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos")}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 1.0}
    gpt1.GPT1ForCausalLM(gpt1.GPT1Config(vocab_size=len(tokenizer), **sizes, **names)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def generator(folder):
    return pipeline("text-generation", model=str(folder), trust_remote_code=False)


def dictated(tokenizer, added):
    ids = tokenizer(added).input_ids
    # The tokenizer takes white space from the ends of a text.
    if added.startswith("\n"):
        ids = [tokenizer.convert_tokens_to_ids("\n</w>"), *ids]
    return {"logits_processor": [Dictate(ids)], "max_new_tokens": len(ids), "do_sample": False}


@pytest.mark.parametrize(("prompt", "added", "wanted"), SEAMS)
def test_new_text_follows_the_prompt_as_it_was_written(generator, tokenizer, prompt, added, wanted):
    ((result,), (new,)) = (
        generator(prompt, **dictated(tokenizer, added), return_full_text=full) for full in (True, False)
    )
    assert result["generated_text"] == wanted
    assert prompt + new["generated_text"] == wanted


@pytest.mark.parametrize("cleaned", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_full_text_is_the_decoding_of_the_whole_sequence(generator, tokenizer, seed, cleaned):
    for sentence in CORPUS:
        ids = tokenizer(sentence).input_ids
        for length in range(1, len(ids), 3):
            prompt = tokenizer.decode(ids[:length])
            if tokenizer(prompt).input_ids != ids[:length] or prompt.endswith("\n"):
                continue  # it was cut within a word
            torch.manual_seed(seed)
            arguments = {"do_sample": True, "max_new_tokens": 12, "top_k": 0}
            (tensors,) = generator(prompt, return_tensors=True, **arguments)
            torch.manual_seed(seed)
            (result,) = generator(prompt, clean_up_tokenization_spaces=cleaned, **arguments)
            whole = tokenizer.decode(
                tensors["generated_token_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=cleaned
            )
            assert tensors["generated_token_ids"][:length] == ids[:length]
            assert result["generated_text"] == whole


def test_special_tokens_stay_when_asked(generator, tokenizer):
    arguments = dictated(tokenizer, "a cat <extract>")
    (result,) = generator("Anna was", skip_special_tokens=False, **arguments)
    assert result["generated_text"] == "Anna was a cat <extract>"


def test_batches_and_several_continuations(generator):
    prompts = ["Anna was", "the boys' cake - well, they", "a"]
    arguments = {"do_sample": False, "max_new_tokens": 6}
    singles = [generator(prompt, **arguments) for prompt in prompts]
    assert generator(prompts, batch_size=3, **arguments) == singles
    several = generator("Anna was", do_sample=True, num_return_sequences=3, max_new_tokens=6)
    assert len(several) == 3 and all(each["generated_text"].startswith("Anna was") for each in several)


def test_chats_get_a_reply_and_a_prefilled_reply_is_continued(generator, tokenizer):
    chat = [{"role": "user", "content": "Who had a cake?"}]
    (result,) = generator(chat, **dictated(tokenizer, "anna had."))
    assert result["generated_text"] == [*chat, {"role": "assistant", "content": "anna had."}]
    (new,) = generator(chat, **dictated(tokenizer, "anna had."), return_full_text=False)
    assert new["generated_text"] == "anna had."
    prefilled = [*chat, {"role": "assistant", "content": "Anna"}]
    (result,) = generator(prefilled, **dictated(tokenizer, "had."))
    assert result["generated_text"] == [*chat, {"role": "assistant", "content": "Anna had."}]
    (result,) = generator(prefilled, **dictated(tokenizer, ", who had"))
    assert result["generated_text"][-1]["content"] == "Anna, who had"
    assert len(generator([chat, prefilled], max_new_tokens=3, batch_size=2)) == 2


def test_streamers_print_what_decoding_the_whole_gives(generator, tokenizer, capsys):
    prompt, added = "anna was", "a big cake, who had (two) friends"
    wanted = "anna was a big cake, who had (two) friends"
    (result,) = generator(prompt, **dictated(tokenizer, added), streamer=TextStreamer(tokenizer))
    assert capsys.readouterr().out == wanted + "\n" and result["generated_text"] == wanted
    streamer = TextIteratorStreamer(tokenizer, skip_special_tokens=True)
    thread = threading.Thread(
        target=generator, args=(prompt,), kwargs={**dictated(tokenizer, added), "streamer": streamer}
    )
    thread.start()
    assert "".join(streamer) == wanted
    thread.join()


DICTATION = "a big cake, who wasted (two) friends; she didn't know"


@pytest.mark.parametrize(
    "stop",
    ["wasted", "cake, who", "rien", "two) f", "didn't", "Cake", ["no such text", "wasted "], "anna", "nothing here"],
)
def test_generation_stops_at_a_text_however_it_is_cut_into_tokens(generator, tokenizer, stop):
    assert len(tokenizer.tokenize("wasted")) > 1
    prompt, ids = tokenizer("anna was", return_tensors="pt"), tokenizer(DICTATION).input_ids
    start = prompt.input_ids[0].tolist()
    texts = [tokenizer.decode(start + ids[:count])[len("anna was") :] for count in range(1, len(ids) + 1)]
    # The vocabulary has no capitals, and "anna" stands in the prompt alone.
    stops = [stop.lower()] if isinstance(stop, str) else stop
    wanted = next((text for text in texts if any(each in text for each in stops)), texts[-1])
    assert (wanted == texts[-1]) == (stop in ("anna", "nothing here"))
    arguments = dictated(tokenizer, DICTATION)
    (output,) = generator.model.generate(**prompt, **arguments, stop_strings=stop, tokenizer=tokenizer)
    assert tokenizer.decode(output) == f"anna was{wanted}"
    arguments = dictated(tokenizer, DICTATION)
    (result,) = generator("anna was", **arguments, stop_sequence=stop)
    assert result["generated_text"] == f"anna was{wanted}"


def test_every_row_stops_by_itself(generator, tokenizer):
    rows = tokenizer(["anna was", "anna"], return_tensors="pt", padding=True, padding_side="left")
    dictations = [tokenizer(text).input_ids for text in ("a cat, a dog, a cake", "a big cake, a cat")]
    start = rows.input_ids.shape[1]

    def dictate(input_ids, scores):
        forced = torch.full_like(scores, float("-inf"))
        for row, ids in enumerate(dictations):
            forced[row, ids[min(input_ids.shape[1] - start, len(ids) - 1)]] = 0
        return forced

    output = generator.model.generate(
        **rows,
        max_new_tokens=max(map(len, dictations)),
        do_sample=False,
        logits_processor=[dictate],
        eos_token_id=tokenizer.eos_token_id,
        stop_strings=["cat", "cake"],
        tokenizer=tokenizer,
    )
    assert tokenizer.batch_decode(output[:, start:], skip_special_tokens=True) == ["a cat", "a big cake"]


def test_a_saved_pipeline_is_the_same_again(generator, tmp_path):
    generator.save_pretrained(tmp_path)
    again = pipeline("text-generation", model=str(tmp_path), trust_remote_code=False)
    assert type(again) is GPT1TextGenerationPipeline
    arguments = {"do_sample": False, "max_new_tokens": 6}
    assert again("Anna was", **arguments) == generator("Anna was", **arguments)


def test_a_folder_saved_without_the_pipeline_gets_it_where_the_package_is(folder, generator, tmp_path):
    for path in folder.iterdir():
        if path.name != "pipeline_text_generation.py":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "config.json"
    text = config.read_text()
    before = text.index('  "custom_pipelines"'), text.index('  "delimiter_token_id"')
    config.write_text(text[: before[0]] + text[before[1] :])
    old = pipeline("text-generation", model=str(tmp_path), trust_remote_code=False)
    arguments = {"do_sample": False, "max_new_tokens": 6}
    assert old("Anna was", **arguments) == generator("Anna was", **arguments)


def test_other_models_keep_the_librarys_pipeline(tokenizer, tmp_path):
    names = {f"{kind}_token_id": tokenizer.pad_token_id for kind in ("pad", "bos", "eos")}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_layer=1, n_embd=8, n_head=2, **names))
    other = pipeline("text-generation", model=model, tokenizer=tokenizer)
    assert type(other) is TextGenerationPipeline
    other.save_pretrained(tmp_path)
    assert "custom_pipelines" not in (tmp_path / "config.json").read_text()
    assert not list(tmp_path.glob("*.py"))
