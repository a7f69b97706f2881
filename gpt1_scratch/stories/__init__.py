"""The embedded stories: a generated corpus to pre-train on, and generated tasks about the same world to fine-tune on.

The names below are the values that settings take; the texts describe the data in model cards.
"""

CORPUS = "stories"
TASK_PREFIX = "stories_"  # the names of the embedded tasks begin with it

CORPUS_DESCRIPTION = "Short stories about a small world, in a few hundred words of English."
TASK_DESCRIPTION = "Sentences and stories about a small world, in a few hundred words of English, with labels."
CORPUS_LIMIT = "The model knows the small world of the stories and their few hundred words, and nothing else."
OPENING = "Once there were two friends"
