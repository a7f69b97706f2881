"""Zero-shot scores of language models: tasks, and the paper's heuristics that solve them by probabilities alone."""

import random
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from sklearn.metrics import matthews_corrcoef

from gpt1_scratch import GPT1ForCausalLM
from gpt1_scratch.finetuning.loading import load_task
from gpt1_scratch.pretraining.corpora import load_texts
from gpt1_scratch.pretraining.zero_shot import choose_endings, compare_words, mean_log_probabilities
from gpt1_scratch.stories.tasks import load_story_task
from papers_to_gpt.papers.language_models import check_task_files
from papers_to_gpt.papers.workbench import Workbench

ROWS = 200  # of each task
# The words appended to a text of the sentiment task, with the last name in the text, and the two words compared after
# them. The paper appends "very" to a review; in a story, the model also needs to know whose mood is meant. Ending and
# words are the best of 16 pairs on rows of the training split.
STORY_ENDING, STORY_WORDS = " {} was very", ("sad", "happy")
NAME = re.compile(r"\b[A-Z]\w+")
WORDS_OF_CONTEXT, WORDS_OF_ENDING = 60, 15  # of a passage of the novels

# A heuristic takes a model and its tokenizer and returns a score, times 100.
Heuristic = Callable[[GPT1ForCausalLM, Any], float]


def heuristics_of_stories() -> tuple[dict[str, Heuristic], str]:
    """Returns the heuristics on the embedded tasks, and a note."""
    sizes = {"train_size": 1, "validation_size": ROWS, "test_size": 1}
    acceptability, sentiment, cloze = (
        load_story_task(name, **sizes)["validation"] for name in ("acceptability", "sentiment", "cloze")
    )
    heuristics = {
        "acceptability": acceptability_heuristic(acceptability["sentence"][:], acceptability["label"][:]),
        "sentiment": sentiment_heuristic(
            [text + STORY_ENDING.format(NAME.findall(text)[-1]) for text in sentiment["sentence"]],
            sentiment["label"][:],
            STORY_WORDS,
        ),
        "cloze": cloze_heuristic(
            cloze["context"][:], list(zip(cloze["ending1"], cloze["ending2"], strict=True)), cloze["label"][:]
        ),
    }
    return heuristics, (
        "The sentiment heuristic appends "
        f"`{STORY_ENDING.format('NAME').strip()}` to a text, with the last name in it, and compares {STORY_WORDS[1]} "
        f"and {STORY_WORDS[0]}."
    )


def heuristics_of_novels(bench: Workbench) -> tuple[dict[str, Heuristic], str]:
    """Returns the heuristics on CoLA, on SST-2 and on passages of the validation text, and a note."""
    names, rows, words = ("cola", "sst2"), {}, ("negative", "positive")
    check_task_files(bench.settings.data_dir, names)
    for name in names:
        part = load_task(name, data_dir=bench.settings.data_dir)[1]["validation"].spread(ROWS)
        rows[name] = [text for (text,) in part.texts], part.labels
    texts, labels = rows["sst2"]
    heuristics = {
        "acceptability": acceptability_heuristic(*rows["cola"]),
        "sentiment": sentiment_heuristic([f"{text.rstrip()} very" for text in texts], labels, words),
        "cloze": cloze_heuristic(*passages(load_texts(bench.settings.validation_file)["text"], ROWS)),
    }
    return heuristics, (
        f"Acceptability is CoLA. Sentiment is SST-2: the heuristic appends `very` and compares {words[1]} and "
        f"{words[0]}, as the paper does. Cloze is made of the novels for validation: the next {WORDS_OF_ENDING} words "
        f"of a passage of {WORDS_OF_CONTEXT}, or those of another passage."
    )


def passages(texts: Sequence[str], count: int, seed: int = 5) -> tuple[list[str], list[tuple[str, str]], list[int]]:
    """Cuts passages from texts, each with its own continuation and that of another passage.

    Args:
        texts: the texts; line breaks count as spaces.
        count: passages, spread evenly over all texts; fewer if the texts are shorter.
        seed: of the other passage and the order of the two continuations.

    Returns:
        The passages, the two continuations of each, and the index of the right one.

    Raises:
        ValueError: the texts are too short for two passages.
    """
    words = [word for text in texts for word in text.split()]
    length = WORDS_OF_CONTEXT + WORDS_OF_ENDING
    count = min(count, len(words) // length)
    if count < 2:
        raise ValueError(
            f"The validation text has {len(words)} words; zero_shot needs at least {2 * length}. Name a longer file."
        )
    starts = [index * (len(words) // count) for index in range(count)]
    contexts = [" ".join(words[start : start + WORDS_OF_CONTEXT]) for start in starts]
    endings = [" ".join(words[start + WORDS_OF_CONTEXT : start + length]) for start in starts]
    generator = random.Random(seed)
    pairs, labels = [], []
    for index, ending in enumerate(endings):
        other = endings[(index + generator.randrange(1, count)) % count]
        label = generator.randrange(2)
        pairs.append((other, ending) if label else (ending, other))
        labels.append(label)
    return contexts, pairs, labels


def acceptability_heuristic(sentences: Sequence[str], labels: Sequence[int]) -> Heuristic:
    """Judges sentences by the mean log-probability of their tokens, above or below the median."""

    def score(model: GPT1ForCausalLM, tokenizer: Any) -> float:
        found = mean_log_probabilities(model, tokenizer, sentences)
        threshold = statistics.median(found)
        return 100 * float(matthews_corrcoef(labels, [each > threshold for each in found]))

    return score


def sentiment_heuristic(texts: Sequence[str], labels: Sequence[int], words: tuple[str, str]) -> Heuristic:
    """Judges texts by the probabilities of two words behind them."""

    def score(model: GPT1ForCausalLM, tokenizer: Any) -> float:
        margins = compare_words(model, tokenizer, texts, words)
        return 100 * statistics.mean(
            (margin > 0) == bool(label) for margin, label in zip(margins, labels, strict=True)
        )

    return score


def cloze_heuristic(contexts: Sequence[str], endings: Sequence[Sequence[str]], labels: Sequence[int]) -> Heuristic:
    """Chooses between endings by the mean log-probability of their tokens."""

    def score(model: GPT1ForCausalLM, tokenizer: Any) -> float:
        chosen = choose_endings(model, tokenizer, contexts, endings)
        return 100 * statistics.mean(a == b for a, b in zip(chosen, labels, strict=True))

    return score
