"""The tasks to fine-tune on: those of GLUE, the other tasks of the paper, and small embedded ones.

A task says which columns hold the texts, how they become the model's input (figure 1 of the paper), what its labels
are called and how it is scored. A new task needs an entry in `TASKS`; if its data are generated, also the function
that the entry names.

This file imports neither torch nor transformers, because the settings read it to answer `--help` quickly.
"""

import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GLUE = "nyu-mll/glue"

# The name of a task that a user's own files define.
OWN = "own"

# The problem type of tasks in which any number of labels may apply to an example.
MULTI_LABEL = "multi_label_classification"

# Separates the labels of an example in CSV and TSV files and in predictions.
LABEL_SEPARATOR = "|"

# A label applies if its probability is above this.
THRESHOLD = 0.5

# Maximum number of classes that a message names; a task may have hundreds.
CLASSES_NAMED = 10


def name_classes(names: Sequence[str]) -> str:
    """Returns the names of the first classes and the number of further ones."""
    more = f" and {len(names) - CLASSES_NAMED:,} more" if len(names) > CLASSES_NAMED else ""
    return ", ".join(names[:CLASSES_NAMED]) + more


@dataclass(frozen=True)
class EmbeddedRows:
    """The rows of an embedded task: the function that generates them and what its model cards say.

    Attributes:
        generator: the function, as "module:function". It takes `argument` and returns the splits `train`, `validation`
            and, if there is one, `test`, each a `datasets.Dataset` with the columns of the task.
        argument: the name of the task among those that the function generates.
        group: the name that stands for all tasks of this group in the setting `task`.
        description: one sentence that says what the rows are.
    """

    generator: str
    argument: str
    group: str
    description: str

    def generate(self) -> Mapping[str, Any]:
        """Returns the splits by name."""
        return pkgutil.resolve_name(self.generator)(self.argument)


@dataclass(frozen=True)
class Task:
    """A task: what is predicted from which columns, and how it is scored.

    Attributes:
        name: the name on the command line.
        kind: `classification` of a text or of an ordered pair; `similarity` of a pair, which is read in both orders;
            `multiple_choice` among texts that may follow a context.
        columns: the column of the text, or the two columns of a pair. In multiple choice, the columns that form the
            context, joined by spaces.
        labels: the names of the classes, or of the choices, in the order of their numbers; None for regression.
        metrics: names in `gpt1_scratch.finetuning.metrics`; the first selects the best checkpoint.
        choices: in multiple choice, the columns of the choices, or one column with a list of them.
        label_column: the column of the label, or of the list of labels if several may apply.
        label_columns: several columns of 0 and 1, each for the label of its name; then `label_column` is not read.
        is_multi_label: True if any number of the labels may apply to an example.
        hub: the id of the data set on the Hub, and its configuration.
        embedded: the rows that this package generates; None for data from elsewhere.
        validation, test: the names of the splits. All are scored, and the first validation split selects checkpoints.
        unlabelled_rows: True if training and validation have rows without a label because annotators did not agree.
            These rows are left out.
        submissions: the names of the files that GLUE's leaderboard expects, one for each test split.
        submits_names: True if these files have the names of the classes instead of their numbers.
        paper: the score in the paper, times 100, on the test set (tables 2 to 4).
        paper_from_scratch: the score in the paper without pre-training (table 5).
    """

    name: str
    kind: Literal["classification", "similarity", "multiple_choice"]
    columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    _: KW_ONLY
    choices: tuple[str, ...] = ()
    label_column: str = "label"
    label_columns: tuple[str, ...] = ()
    is_multi_label: bool = False
    hub: tuple[str, str | None] | None = None
    embedded: EmbeddedRows | None = None
    validation: tuple[str, ...] = ("validation",)
    test: tuple[str, ...] = ("test",)
    unlabelled_rows: bool = False
    submissions: tuple[str, ...] = ()
    submits_names: bool = False
    paper: float | None = None
    paper_from_scratch: float | None = None

    @property
    def is_regression(self) -> bool:
        return self.labels is None

    def suffix(self, split: str) -> str:
        """Returns the suffix of a split's scores: none for the first split, `_mismatched` for the second of MNLI."""
        return "" if split in (self.validation[0], self.test[0]) else "_" + split.partition("_")[2]

    def predictions_file(self, split: str) -> str:
        """Returns the name of the file for the predictions of a test split."""
        return self.submissions[self.test.index(split)] if self.submissions else f"{split}_predictions.tsv"

    def describe(self) -> str:
        """Returns one line that says what is predicted from which columns."""
        texts = " and ".join(self.columns)
        if self.kind == "multiple_choice":
            texts = f"{texts} followed by one of {', '.join(self.choices)}"
        elif self.kind == "similarity":
            texts += ", in both orders"
        what = "a number" if self.labels is None else f"one of {name_classes(self.labels)}"
        if self.label_columns:
            return f"{self.name}: any of {name_classes(self.labels)} from {texts}"
        if self.is_multi_label:
            what = f"any of {name_classes(self.labels)}"
        return f"{self.name}: {self.label_column} ({what}) from {texts}"

    @property
    def problem_type(self) -> str:
        """Returns the name that transformers gives to this kind of labels."""
        if self.is_regression:
            return "regression"
        return MULTI_LABEL if self.is_multi_label else "single_label_classification"


_ACCEPTABILITY = ("unacceptable", "acceptable")
_SENTIMENT = ("negative", "positive")
_ENTAILMENT = ("entailment", "not_entailment")
_ENTAILMENT_OR_NEUTRAL = ("entailment", "neutral", "contradiction")
_SENTENCES = ("sentence1", "sentence2")


def _stories(name: str) -> EmbeddedRows:
    """Returns the rows of a task about the embedded stories."""
    return EmbeddedRows(
        generator="gpt1_scratch.stories.tasks:load_story_task",
        argument=name,
        group="stories",
        description="Labelled sentences and stories about a small world, in a few hundred words of English.",
    )


TASKS = {
    task.name: task
    for task in (
        Task(
            "cola",
            "classification",
            ("sentence",),
            _ACCEPTABILITY,
            ("matthews_correlation",),
            hub=(GLUE, "cola"),
            submissions=("CoLA.tsv",),
            paper=45.4,
            paper_from_scratch=18.9,
        ),
        Task(
            "sst2",
            "classification",
            ("sentence",),
            _SENTIMENT,
            ("accuracy",),
            hub=(GLUE, "sst2"),
            submissions=("SST-2.tsv",),
            paper=91.3,
            paper_from_scratch=84.0,
        ),
        Task(
            "mrpc",
            "similarity",
            _SENTENCES,
            ("not_equivalent", "equivalent"),
            ("f1", "accuracy"),
            hub=(GLUE, "mrpc"),
            submissions=("MRPC.tsv",),
            paper=82.3,
            paper_from_scratch=79.4,
        ),
        Task(
            "qqp",
            "similarity",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            ("f1", "accuracy"),
            hub=(GLUE, "qqp"),
            submissions=("QQP.tsv",),
            paper=70.3,
            paper_from_scratch=65.5,
        ),
        Task(
            "stsb",
            "similarity",
            _SENTENCES,
            None,
            ("pearson", "spearmanr"),
            hub=(GLUE, "stsb"),
            submissions=("STS-B.tsv",),
            paper=82.0,
            paper_from_scratch=30.9,
        ),
        Task(
            "mnli",
            "classification",
            ("premise", "hypothesis"),
            _ENTAILMENT_OR_NEUTRAL,
            ("accuracy",),
            hub=(GLUE, "mnli"),
            validation=("validation_matched", "validation_mismatched"),
            test=("test_matched", "test_mismatched"),
            submissions=("MNLI-m.tsv", "MNLI-mm.tsv"),
            submits_names=True,
            paper=82.1,
            paper_from_scratch=75.7,
        ),
        Task(
            "qnli",
            "classification",
            ("question", "sentence"),
            _ENTAILMENT,
            ("accuracy",),
            hub=(GLUE, "qnli"),
            submissions=("QNLI.tsv",),
            submits_names=True,
            paper=88.1,
            paper_from_scratch=71.2,
        ),
        Task(
            "rte",
            "classification",
            _SENTENCES,
            _ENTAILMENT,
            ("accuracy",),
            hub=(GLUE, "rte"),
            submissions=("RTE.tsv",),
            submits_names=True,
            paper=56.0,
            paper_from_scratch=53.8,
        ),
        Task(
            "wnli",
            "classification",
            _SENTENCES,
            ("not_entailment", "entailment"),
            ("accuracy",),
            hub=(GLUE, "wnli"),
            submissions=("WNLI.tsv",),
        ),
        Task(
            "snli",
            "classification",
            ("premise", "hypothesis"),
            _ENTAILMENT_OR_NEUTRAL,
            ("accuracy",),
            hub=("stanfordnlp/snli", None),
            unlabelled_rows=True,
            paper=89.9,
        ),
        Task(
            "scitail",
            "classification",
            ("premise", "hypothesis"),
            ("entails", "neutral"),
            ("accuracy",),
            hub=("allenai/scitail", "tsv_format"),
            paper=88.3,
        ),
        Task(
            "race",
            "multiple_choice",
            ("article", "question"),
            ("A", "B", "C", "D"),
            ("accuracy",),
            choices=("options",),
            label_column="answer",
            hub=("ehovy/race", "all"),
            paper=59.0,
        ),
        # Its authors send the files on request; they cannot be downloaded.
        Task(
            "story_cloze",
            "multiple_choice",
            tuple(f"InputSentence{number}" for number in (1, 2, 3, 4)),
            ("1", "2"),
            ("accuracy",),
            choices=("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"),
            label_column="AnswerRightEnding",
            paper=86.5,
        ),
        Task(
            "stories_acceptability",
            "classification",
            ("sentence",),
            _ACCEPTABILITY,
            ("matthews_correlation", "accuracy"),
            embedded=_stories("acceptability"),
        ),
        Task(
            "stories_sentiment",
            "classification",
            ("sentence",),
            _SENTIMENT,
            ("accuracy",),
            embedded=_stories("sentiment"),
        ),
        Task(
            "stories_entailment",
            "classification",
            ("premise", "hypothesis"),
            _ENTAILMENT,
            ("accuracy",),
            embedded=_stories("entailment"),
        ),
        Task(
            "stories_paraphrase",
            "similarity",
            _SENTENCES,
            ("not_paraphrase", "paraphrase"),
            ("accuracy", "f1"),
            embedded=_stories("paraphrase"),
        ),
        Task(
            "stories_similarity",
            "similarity",
            _SENTENCES,
            None,
            ("pearson", "spearmanr"),
            embedded=_stories("similarity"),
        ),
        Task(
            "stories_cloze",
            "multiple_choice",
            ("context",),
            ("ending1", "ending2"),
            ("accuracy",),
            choices=("ending1", "ending2"),
            embedded=_stories("cloze"),
        ),
    )
}


def find_task(name: str) -> Task:
    """Returns the task with a name.

    Raises:
        ValueError: if there is none; the message lists the names that exist.
    """
    if name not in TASKS:
        raise ValueError(f"The task {name!r} is not known; known are {', '.join(TASKS)}.")
    return TASKS[name]


def config_of_task(task: Task) -> dict[str, Any]:
    """Returns the fields of a model's configuration that describe the task that it is fine-tuned on."""
    names = task.labels or (task.label_column,)
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": task.problem_type,
        "both_orders": task.kind == "similarity",
        # `task_of_config` turns this back into a task, to read files for predictions.
        "finetuning_task": {
            "name": task.name,
            "kind": task.kind,
            "columns": list(task.columns),
            "choices": list(task.choices),
            "label_column": task.label_column,
        },
    }


def task_of_config(config: "PreTrainedConfig") -> Task | None:
    """Returns the task that a model was fine-tuned on, with what reading its input needs; None if it has no task."""
    saved = getattr(config, "finetuning_task", None)
    if not isinstance(saved, dict):
        return None
    labels = tuple(config.id2label[number] for number in range(len(config.id2label)))
    return Task(
        saved["name"],
        saved["kind"],
        tuple(saved["columns"]),
        None if config.problem_type == "regression" else labels,
        (),
        choices=tuple(saved["choices"]),
        label_column=saved["label_column"],
        is_multi_label=config.problem_type == MULTI_LABEL,
    )
