"""The names of version 0.1 that have changed or moved."""

import sys

from .hook import RenamedModules, understand_names

PACKAGE = __package__.rpartition(".")[0]

MODULES = {
    "convert_openai_gpt": "pretraining.convert_openai_gpt",
    "corpora": "pretraining.corpora",
    "fast_generation": "cpu_generation",
    "fast_paths": "cpu_kernels",
    "metrics": "finetuning.metrics",
    "story_mistakes": "stories.mistakes",
    "story_plots": "stories.plots",
    "story_scenes": "stories.scenes",
    "story_stage": "stories.stage",
    "story_tasks": "stories.tasks",
    "story_world": "stories.world",
    "task_data": "finetuning.loading",
    "task_examples": "finetuning.examples",
    "task_files": "finetuning.tables",
    "task_models": "finetuning.models",
    "task_reports": "finetuning.reports",
    "tasks": "finetuning.tasks",
}

HEADS = "GPT1TaskModel GPT1ForSequenceClassification GPT1ForMultipleChoice Reading reading_order".split()
LOSSES = "next_tokens next_token_loss divide_by_items".split()
PACKING = "PackedTexts PartlyCutBlocks cut_blocks pack_blocks stream_blocks tokenize_texts tokenizer_key".split()
STORIES = "Story load_stories write_story".split()

NAMES = {
    "data": dict.fromkeys(PACKING, "pretraining.packing"),
    "modeling_gpt1": dict.fromkeys(HEADS, "modeling_gpt1_heads") | dict.fromkeys(LOSSES, "token_loss"),
    "stories": dict.fromkeys(STORIES, "stories.corpus"),
}


def understand_old_names() -> None:
    """Makes the old names work. The package calls this when it is imported."""
    sys.meta_path.append(RenamedModules(PACKAGE, MODULES))
    understand_names(PACKAGE, NAMES)
