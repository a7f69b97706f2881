"""The task `text-classification` of transformers' `pipeline()` for GPT-1, with every label that applies to a text."""

from typing import Any

from transformers import TextClassificationPipeline

TASK = "text-classification"

# A label applies if its probability is above this.
THRESHOLD = 0.5


class GPT1TextClassificationPipeline(TextClassificationPipeline):
    """The library's pipeline, which returns every label that applies if any number of labels may.

    For such a model the library returns the most probable label, or with `top_k=None` all labels. This pipeline
    returns those with a probability above 0.5, the most probable first; possibly none.

        classifier = pipeline("text-classification", model="runs/topics")
        classifier(["The coach resigned.", "Good morning."])  # [[{"label": "sport", "score": 0.9}], []]

    With `top_k` or `function_to_apply`, and for models of one label for each text, the arguments and results are those
    of `transformers.TextClassificationPipeline`.

    One class serves a task for all models. For models other than GPT-1, it creates the library's own pipeline.
    """

    def __new__(cls, model: Any, **kwargs: Any) -> TextClassificationPipeline:
        if model.config.model_type != "gpt1":
            return TextClassificationPipeline(model=model, **kwargs)
        return super().__new__(cls)

    # Extends TextClassificationPipeline.postprocess. `_legacy` is False if the caller gave `top_k`.
    def postprocess(
        self, model_outputs: Any, function_to_apply: Any = None, top_k: int | None = 1, _legacy: bool = True
    ) -> dict[str, Any] | list[dict[str, Any]]:
        is_multi_label = self.model.config.problem_type == "multi_label_classification"
        if not is_multi_label or not _legacy or function_to_apply is not None:
            return super().postprocess(model_outputs, function_to_apply, top_k, _legacy)
        labels = super().postprocess(model_outputs, top_k=None, _legacy=False)
        return [label for label in labels if label["score"] > THRESHOLD]
