"""The embedded stories: a generated corpus to pre-train on, and generated tasks about its world to fine-tune on."""

# The names of the embedded tasks begin with it.
TASK_PREFIX = "stories_"

TASK_DESCRIPTION = "Labelled sentences and stories about a small world, in a few hundred words of English."
