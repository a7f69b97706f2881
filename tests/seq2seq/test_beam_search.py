"""Beam search against brute force and against a search written out, scored as Wu et al. 2016 define it."""

import itertools

import pytest
import torch

from seq2seq_scratch.beam_continuations import SCORES_PER_CHUNK, best_continuations, top_k_by_blocks
from seq2seq_scratch.beam_search import length_normalization
from seq2seq_scratch.configuration_transformer import TransformerConfig
from seq2seq_scratch.modeling_transformer import TransformerForConditionalGeneration

START, END = 2, 3


def tiny_model(vocabulary=5, seed=0):
    torch.manual_seed(seed)
    config = TransformerConfig(
        vocab_size=vocabulary,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=32,
    )
    model = TransformerForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # decisive distributions that differ from one prefix to the next
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model


SOURCES = torch.tensor([[4, 0, 4, END], [0, 0, END, 1]])


def next_log_probabilities(model, source, prefix):
    """Returns log P(y | prefix, source) for every token y, from a separate forward pass."""
    with torch.no_grad():
        logits = model(input_ids=source[None], decoder_input_ids=torch.tensor([[START, *prefix]])).logits
    return torch.log_softmax(logits[0, -1].double(), dim=-1).tolist()


def wu_score(log_probability, length, alpha):
    return log_probability / ((5 + length) ** alpha / (5 + 1) ** alpha)


def every_sequence(model, source, alpha, limit):
    """Returns all sequences that end within `limit` tokens or reach the limit, the best first."""
    found, others = [], [token for token in range(model.config.vocab_size) if token != END]
    log_probabilities = {}
    for length in range(limit):
        for prefix in itertools.product(others, repeat=length):
            following = next_log_probabilities(model, source, prefix)
            so_far = log_probabilities.get(prefix, 0.0)
            for token, log_probability in enumerate(following):
                sequence, total = (*prefix, token), so_far + log_probability
                log_probabilities[sequence] = total
                if token == END or length + 1 == limit:
                    found.append((wu_score(total, length + 1, alpha), list(sequence)))
    return sorted(found, reverse=True)


def written_out_search(model, source, alpha, limit, beams):
    """Runs a canonical beam search over lists; also returns the number of decoder steps."""
    running, finished = [(0.0, [])], []
    for length in range(1, limit + 1):
        candidates = []
        for log_probability, prefix in running:
            for token, step in enumerate(next_log_probabilities(model, source, prefix)):
                candidates.append((log_probability + step, [*prefix, token]))
        candidates.sort(reverse=True)
        ended = [length == limit or sequence[-1] == END for _, sequence in candidates]
        for (log_probability, sequence), has_ended in list(zip(candidates, ended, strict=True))[:beams]:
            if has_ended:
                finished.append((wu_score(log_probability, length, alpha), sequence))
        finished = sorted(finished, reverse=True)[:beams]
        running = [candidate for candidate, has_ended in zip(candidates, ended, strict=True) if not has_ended][:beams]
        if not running:
            break
        best_length = limit if alpha > 0 else length
        if len(finished) == beams and wu_score(running[0][0], best_length, alpha) <= finished[-1][0]:
            break
    return finished, length


def search(model, sources, alpha, limit, beams, **settings):
    """Returns the n-best lists of `generate()` as (score, tokens up to the end or the limit)."""
    output = model.generate(
        sources,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=limit,
        length_penalty=alpha,
        return_dict_in_generate=True,
        **{"early_stopping": "never"} | settings,
    )
    found = []
    for score, (_, *tokens) in zip(output.sequences_scores.tolist(), output.sequences.tolist(), strict=True):
        found.append((score, tokens[: tokens.index(END) + 1] if END in tokens else tokens[:limit]))
    return [found[start : start + beams] for start in range(0, len(found), beams)]


def assert_same(found, expected):
    assert [sequence for _, sequence in found] == [sequence for _, sequence in expected]
    scores, expected_scores = (torch.tensor([score for score, _ in results]) for results in (found, expected))
    torch.testing.assert_close(scores, expected_scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_an_exhaustive_beam_finds_every_sequence_in_order(alpha):
    model, limit = tiny_model(), 3
    # 16 open prefixes of two tokens times 5 tokens: no candidate is ever pruned; 85 sequences exist, 80 are kept.
    beams = 80
    for found, source in zip(search(model, SOURCES, alpha, limit, beams), SOURCES, strict=True):
        everything = every_sequence(model, source, alpha, limit)
        assert len(everything) == 85
        assert_same(found, everything[:beams])


# Where scores of every step are asked for, the library's own loop runs.
@pytest.mark.parametrize("output_scores", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("beams", [2, 4])
def test_a_narrow_beam_is_the_canonical_search(alpha, beams, output_scores):
    early = 0
    for seed in range(2):
        model, limit = tiny_model(vocabulary=7, seed=seed), 7
        for source in SOURCES:
            steps = []
            hook = model.model.decoder.register_forward_hook(lambda *_, seen=steps: seen.append(1))
            (found,) = search(model, source[None], alpha, limit, beams, output_scores=output_scores)
            hook.remove()
            expected, expected_steps = written_out_search(model, source, alpha, limit, beams)
            assert_same(found, expected)
            assert len(steps) == expected_steps
            early += expected_steps < limit
    assert early > 0 or alpha == 2.0  # that alpha keeps hope to the last step


def test_a_sentence_is_searched_the_same_alone_and_in_a_batch():
    model = tiny_model(vocabulary=7)
    together = search(model, SOURCES, 0.6, 7, 3)
    for found, source in zip(together, SOURCES, strict=True):
        assert_same(found, search(model, source[None], 0.6, 7, 3)[0])


def test_stopping_by_the_present_length_may_miss_what_the_canonical_search_finds():
    missed = 0
    for seed in range(6):
        model = tiny_model(vocabulary=7, seed=seed)
        canonical = search(model, SOURCES, 2.0, 12, 2)
        heuristic = search(model, SOURCES, 2.0, 12, 2, early_stopping=False)
        for best, found in zip(canonical, heuristic, strict=True):
            assert all(score <= highest + 1e-6 for (score, _), (highest, _) in zip(found, best, strict=True))
            missed += found != best
    assert missed > 0


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("beams", [1, 3])
def test_sentences_that_are_done_leave_the_batch_and_nothing_else_changes(beams, early_stopping):
    model = tiny_model(vocabulary=9, seed=4)
    torch.manual_seed(3)
    sources = torch.cat([torch.randint(4, 9, (12, 6)), torch.full((12, 1), END)], dim=1)
    settings = {"num_beams": beams, "max_new_tokens": 12, "bad_words_ids": [[5, 6]]}
    if beams > 1:
        settings |= {"num_return_sequences": 2, "early_stopping": early_stopping, "length_penalty": 0.6}
    rows = []
    hook = model.model.decoder.register_forward_hook(lambda decoder, inputs, output: rows.append(len(inputs[0])))
    ours = model.generate(sources, **settings)
    hook.remove()
    assert rows[0] == 12 * beams and sorted(rows, reverse=True) == rows and rows[-1] < rows[0]
    library = model.generate(sources, **settings, output_scores=True, return_dict_in_generate=True).sequences
    assert ours.tolist() == library.tolist()
    assert ours.tolist() == model.generate(sources, **settings, use_cache=False).tolist()


@pytest.mark.parametrize("processed", [False, True])
def test_beam_indices_are_those_of_the_librarys_search(processed):
    model = tiny_model(vocabulary=9, seed=4)
    torch.manual_seed(3)
    sources = torch.cat([torch.randint(4, 9, (12, 6)), torch.full((12, 1), END)], dim=1)
    settings = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 12, "return_dict_in_generate": True}
    settings |= {"bad_words_ids": [[5, 6]]} if processed else {}
    ours = model.generate(sources, **settings)
    library = model.generate(sources, **settings, output_scores=True)
    assert ours.scores is None and library.scores is not None  # the library's own loop ran
    assert ours.beam_indices.dtype == library.beam_indices.dtype
    assert ours.beam_indices.tolist() == library.beam_indices.tolist()


@pytest.mark.parametrize("width", [640, 641, 703, 384, 383, 40])
def test_the_best_of_blocks_are_the_best(width):
    torch.manual_seed(0)
    scores = torch.randn(5, width)
    scores[1, 10:] = -torch.inf
    scores[2, -2:] = torch.tensor([7.0, 9.0])
    scores[3, :2] = torch.tensor([7.0, 9.0])
    best, places = top_k_by_blocks(scores, 6)
    expected = scores.topk(6)
    assert torch.equal(best, expected.values) and torch.equal(places, expected.indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_continuations_of_a_few_sentences_at_a_time_are_those_of_all(dtype):
    torch.manual_seed(0)
    logits = torch.randn(7, 3, SCORES_PER_CHUNK // 8).to(dtype)  # two sentences are a chunk
    scores = torch.tensor([-0.5, -torch.inf, -3.0]).repeat(7, 1)
    best, places = best_continuations(logits, scores, 6)
    expected = (torch.log_softmax(logits.float(), dim=-1) + scores[:, :, None]).flatten(1)
    torch.testing.assert_close(best, expected.topk(6).values)
    torch.testing.assert_close(expected.gather(1, places), best)


def test_log_probabilities_are_continued_as_they_are():
    torch.manual_seed(0)
    log_probabilities = torch.randn(7, 3, SCORES_PER_CHUNK // 8)  # a softmax would change them
    given = log_probabilities.clone()
    scores = torch.tensor([-0.5, -torch.inf, -3.0]).repeat(7, 1)
    best, places = best_continuations(log_probabilities, scores, 6, are_log_probabilities=True)
    expected = (given + scores[:, :, None]).flatten(1).topk(6)
    assert torch.equal(best, expected.values) and torch.equal(places, expected.indices)
    assert torch.equal(log_probabilities, given)


def test_the_penalty_is_one_for_the_end_alone_and_grows_with_length():
    assert length_normalization(1, 0.6) == 1
    assert length_normalization(7, 1.0) == 2
    assert length_normalization(25, 0.0) == 1


def test_no_beams_are_refused_by_name():
    with pytest.raises(ValueError, match="num_beams is 0; it must be at least 1"):
        tiny_model().generate(SOURCES, num_beams=0, max_new_tokens=3)
