"""The columns of the tasks made of stories, and the words of a text."""

import re

COLUMNS = {
    "acceptability": ["sentence"],
    "sentiment": ["sentence"],
    "entailment": ["premise", "hypothesis"],
    "paraphrase": ["sentence1", "sentence2"],
    "similarity": ["sentence1", "sentence2"],
    "cloze": ["context", "ending1", "ending2"],
}


def words(text):
    return re.findall(r"\w+|[^\w\s]", text.lower())
