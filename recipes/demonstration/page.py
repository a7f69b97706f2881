"""The page: a tab for each kind of model that there is, put together from Gradio's components.

Gradio is imported in the functions, because the other modules, and the scripts, work without it.
"""

import functools
import html
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from papers_to_gpt.demonstration import sources
from papers_to_gpt.demonstration.classifying import classify, names_of_texts
from papers_to_gpt.demonstration.continuing import CANDIDATES, continue_text, draw_probabilities
from papers_to_gpt.demonstration.loading import ModelStore
from papers_to_gpt.demonstration.problems import describe_problem
from papers_to_gpt.demonstration.tables import comparison_table
from papers_to_gpt.demonstration.translating import compare, translate
from papers_to_gpt.engine.model_folder import CLASSIFIER, LANGUAGE_MODEL, TRANSLATOR
from papers_to_gpt.settings.demonstration import DemonstrationSettings
from papers_to_gpt.settings.wording import counted
from seq2seq_scratch.visible_text import has_visible_text

if TYPE_CHECKING:
    import fastapi
    import gradio

TITLE = "Papers to GPT: try the trained models"
# The events of a page wait for each other beyond these numbers.
EVENTS_AT_A_TIME, EVENTS_WAITING = 8, 64
# Handlers are no public interface, and typing starts a translation as soon as the one before has ended.
PRIVATE = {"api_visibility": "private"}
LIVE = {**PRIVATE, "trigger_mode": "always_last", "show_progress": "hidden"}
COMPARED_AT_FIRST = 4  # models

# The page may not ask another host for anything, whatever a component of Gradio would load.
HEAD = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: "
    "blob:; connect-src 'self'; form-action 'self'\">"
)
CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.comparison table, .comparison tr { width: 100%; border: none !important; border-collapse: collapse; }
.comparison th, .comparison td { border: none !important; text-align: left; padding: 0.4rem 0.7rem;
  vertical-align: top; border-bottom: 1px solid var(--border-color-primary) !important; }
.comparison td.number, .comparison th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.note { opacity: 0.75; min-height: 1.5em; }
.answer { font-size: 1.4rem; font-weight: 600; }
"""


def build_app(store: ModelStore, settings: DemonstrationSettings) -> "fastapi.FastAPI":
    """Returns the page as a web application, which a server such as uvicorn serves.

    Args:
        store: the models.
        settings: the limits of what a user may ask for.
    """
    import fastapi
    import gradio as gr

    # Fonts of the user's system need no download.
    theme = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    return gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        build_page(store, settings),
        path="/",
        server_name=settings.host,
        server_port=settings.port,
        theme=theme,
        css=CSS,
        head=HEAD,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size="1kb",  # there is nothing to upload
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )


def build_page(store: ModelStore, settings: DemonstrationSettings) -> "gradio.Blocks":
    """Returns the page. It has only the tabs for which there are models.

    Args:
        store: the models.
        settings: the limits of what a user may ask for.
    """
    import gradio as gr

    tabs: list[tuple[str, str, Callable]] = []
    translators = store.names(TRANSLATOR)
    if translators:
        tabs.append(("Translate", "translate", _translation_tab))
    if len(translators) > 1:
        tabs.append(("Compare translators", "compare", _comparison_tab))
    if store.names(LANGUAGE_MODEL):
        tabs.append(("Continue text", "continue", _continuation_tab))
    if store.names(CLASSIFIER):
        tabs.append(("Classify", "classify", _classification_tab))
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"# {TITLE}")
        for label, name, fill in tabs:
            with gr.Tab(label, elem_id=f"{name}-tab"):
                fill(page, store, settings)
        gr.Markdown(
            "Everything is computed on the machine that serves this page. No other host is asked for anything."
        )
    return page.queue(max_size=EVENTS_WAITING, default_concurrency_limit=EVENTS_AT_A_TIME)


def answering(handler: Callable) -> Callable:
    """Returns a handler that shows an error as a message and leaves the page as it is.

    What the user can mend is a warning. Gradio's own errors would cover the outputs until the next answer.

    Args:
        handler: returns the outputs, or yields them one after the other.
    """
    import gradio as gr

    def show(error: Exception) -> None:
        gr.Warning(html.escape(describe_problem(error)))  # Gradio reads it as HTML

    @functools.wraps(handler)
    def answer(*inputs: Any) -> Any:
        try:
            return handler(*inputs)
        except Exception as error:
            show(error)
            return gr.skip()

    @functools.wraps(handler)
    def answer_in_steps(*inputs: Any) -> Iterator[Any]:
        try:
            yield from handler(*inputs)
        except Exception as error:
            show(error)
            yield gr.skip()

    return answer_in_steps if inspect.isgeneratorfunction(handler) else answer


def note(*texts: str) -> str:
    """Returns sentences as HTML in grey."""
    return f'<div class="note">{html.escape(" ".join(filter(None, texts)))}</div>'


def _choice(store: ModelStore, names: Sequence[str]) -> tuple["gradio.Dropdown", "gradio.Markdown"]:
    """Returns the list of models to choose from, and the paragraph about the chosen one, which follows the choice."""
    import gradio as gr

    model = gr.Dropdown(list(names), value=names[0], label="Model", interactive=True, elem_classes="model")
    about = gr.Markdown(sources.describe(store.found[names[0]]), elem_classes="about", render=False)
    model.change(lambda name: sources.describe(store.found[name]), model, about, **LIVE)
    return model, about


def _translation_tab(page: "gradio.Blocks", store: ModelStore, settings: DemonstrationSettings) -> None:
    import gradio as gr

    names = store.names(TRANSLATOR)
    with gr.Row():
        with gr.Column(scale=2):
            model, about = _choice(store, names)
            sentence = gr.Textbox(
                sources.example_of(store.found[names[0]]),
                label="Sentence",
                info=f"It is translated while you type. At most {settings.max_input_tokens} tokens.",
                lines=2,
                elem_id="sentence",
            )
            button = gr.Button("Translate", variant="primary", elem_id="translate")
            translation = gr.Textbox(
                label="Translation", lines=2, interactive=False, buttons=["copy"], elem_id="translation"
            )
            said = gr.HTML(note(), elem_id="translation-note")
        with gr.Column(scale=3):
            picture = gr.Plot(label="Attention", show_label=False, format="png", elem_id="alignment")
    about.render()

    def answer(name: str, sentence: str) -> tuple[str, str, Any]:
        found = translate(store, name, sentence, settings.max_input_tokens)
        return found.text, note(f"Translated in {found.seconds:.2f} seconds.", found.note), found.figure

    def while_typing(name: str, sentence: str) -> tuple[str, str, Any]:
        if not has_visible_text(sentence or ""):
            return "", note(), None
        try:
            return answer(name, sentence)
        except Exception as error:  # beside the text, because a message for every key would be in the way
            return "", note(describe_problem(error)), None

    inputs, outputs = [model, sentence], [translation, said, picture]
    gr.on([button.click, sentence.submit], answering(answer), inputs, outputs, show_progress="minimal", **PRIVATE)
    gr.on([sentence.change, model.change, page.load], answering(while_typing), inputs, outputs, **LIVE)


def _comparison_tab(page: "gradio.Blocks", store: ModelStore, settings: DemonstrationSettings) -> None:
    import gradio as gr

    names = store.names(TRANSLATOR)
    chosen = names[:COMPARED_AT_FIRST]

    def describe(names: list[str]) -> str:
        return "\n\n".join(sources.describe(store.found[name]) for name in names)

    models = gr.Dropdown(names, value=chosen, multiselect=True, label="Models", interactive=True)
    with gr.Row():
        sentence = gr.Textbox(
            sources.example_of(store.found[names[0]]), label="Sentence", lines=2, elem_id="compared-sentence"
        )
        reference = gr.Textbox(
            label="Reference",
            info="A translation to compare with, if you have one.",
            lines=1,
            elem_id="reference",
        )
    button = gr.Button("Compare", variant="primary", elem_id="compare")
    table = gr.HTML(elem_id="comparison")
    about = gr.Markdown(describe(chosen), elem_classes="about")
    languages = {name: sources.languages_of(store.found[name]) for name in names}

    def answer(names: list[str], sentence: str, reference: str) -> Iterator[str]:
        rows = []
        for row in compare(store, names, sentence, reference, settings.max_input_tokens):
            rows.append(row)
            yield comparison_table(rows, languages)

    events = [button.click, sentence.submit, reference.submit]
    gr.on(events, answering(answer), [models, sentence, reference], table, show_progress="minimal", **PRIVATE)
    models.change(describe, models, about, **LIVE)


def _continuation_tab(page: "gradio.Blocks", store: ModelStore, settings: DemonstrationSettings) -> None:
    import gradio as gr

    names = store.names(LANGUAGE_MODEL)
    with gr.Row():
        with gr.Column(scale=3):
            model, about = _choice(store, names)
            prompt = gr.Textbox(
                sources.example_of(store.found[names[0]]),
                label="Beginning",
                info=f"At most {settings.max_input_tokens} tokens.",
                lines=2,
                elem_id="prompt",
            )
            with gr.Row():
                length = gr.Slider(
                    1, settings.max_new_tokens, min(60, settings.max_new_tokens), step=1, label="Tokens to add"
                )
                temperature = gr.Slider(
                    0, 2, 1, step=0.1, label="Temperature (0: the most probable)", elem_id="temperature"
                )
            with gr.Row():
                button = gr.Button("Continue", variant="primary", elem_id="continue")
                stop = gr.Button("Stop", elem_id="stop")
            text = gr.Textbox(label="Text", lines=6, interactive=False, buttons=["copy"], elem_id="text")
            said = gr.HTML(note(), elem_id="text-note")
        with gr.Column(scale=2):
            probabilities = gr.Label(
                label="Next token",
                num_top_classes=CANDIDATES,
                show_heading=False,
                elem_id="next-tokens",
            )
    picture = gr.Plot(
        label="Probability of each token", show_label=False, format="png", visible=False, elem_id="probabilities"
    )
    about.render()

    def answer(name: str, prompt: str, length: float, temperature: float) -> Iterator[tuple[Any, ...]]:
        hidden = gr.update(value=None, visible=False)
        steps = continue_text(
            store,
            name,
            prompt,
            max_new_tokens=min(int(length), settings.max_new_tokens),
            temperature=min(max(float(temperature), 0.0), 2.0),
            max_input_tokens=settings.max_input_tokens,
        )
        for step in steps:
            yield step.text, step.next_tokens, note(f"{counted(step.new_tokens, 'token')}.", step.ended), hidden
        drawn = draw_probabilities(store, name, step.text)
        yield gr.skip(), gr.skip(), gr.skip(), gr.update(value=drawn, visible=drawn is not None)

    outputs = [text, probabilities, said, picture]
    inputs = [model, prompt, length, temperature]
    running = gr.on(
        [button.click, prompt.submit], answering(answer), inputs, outputs, show_progress="hidden", **PRIVATE
    )
    stop.click(None, cancels=[running], api_visibility="private")


def _classification_tab(page: "gradio.Blocks", store: ModelStore, settings: DemonstrationSettings) -> None:
    import gradio as gr

    names = store.names(CLASSIFIER)
    texts = {name: names_of_texts(store.found[name].config) for name in names}
    with gr.Row():
        with gr.Column():
            model, about = _choice(store, names)
            first = texts[names[0]]
            boxes = [
                gr.Textbox(
                    label=first[number] if number < len(first) else "",
                    visible=number < len(first),
                    lines=2,
                    elem_id=f"text-{number}",
                )
                for number in range(max(map(len, texts.values())))
            ]
            button = gr.Button("Classify", variant="primary", elem_id="classify")
        with gr.Column():
            prediction = gr.HTML(elem_id="prediction")
            probabilities = gr.Label(
                label="Probabilities", num_top_classes=20, show_heading=False, elem_id="class-probabilities"
            )
    about.render()

    def show_boxes(name: str) -> list[Any]:
        labels = texts[name]
        shown = [gr.update(label=label, visible=True) for label in labels]
        return [*shown, *[gr.update(visible=False)] * (len(boxes) - len(labels)), "", None]

    def answer(name: str, *given: str) -> tuple[str, Any]:
        found = classify(store, name, given, settings.max_input_tokens)
        bars = gr.update(value=found.probabilities or None, visible=bool(found.probabilities))  # a number has none
        return f'<div class="answer">{html.escape(found.answer)}</div>', bars

    model.change(show_boxes, model, [*boxes, prediction, probabilities], **LIVE)
    events = [button.click, *(box.submit for box in boxes)]
    gr.on(events, answering(answer), [model, *boxes], [prediction, probabilities], show_progress="minimal", **PRIVATE)
