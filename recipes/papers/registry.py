"""All experiments, in the order of the papers, and how the command line names them."""

import difflib
from collections.abc import Sequence

from papers_to_gpt.papers import bahdanau2014, devlin2018, radford2018, sutskever2014, vaswani2017, why_transformers
from papers_to_gpt.papers.experiment import Experiment

PAPERS = {
    "sutskever2014": ("Sutskever et al. 2014: Sequence to Sequence Learning with Neural Networks", sutskever2014),
    "bahdanau2014": ("Bahdanau et al. 2014: Neural Machine Translation by Jointly Learning to Align", bahdanau2014),
    "vaswani2017": ("Vaswani et al. 2017: Attention Is All You Need", vaswani2017),
    "why_transformers": ("Why Transformers replaced recurrent networks", why_transformers),
    "radford2018": ("Radford et al. 2018: Improving Language Understanding by Generative Pre-Training", radford2018),
    "devlin2018": ("Devlin et al. 2018, for comparison: BERT", devlin2018),
}
CORE, ALL = "core", "all"

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment for _, module in PAPERS.values() for experiment in module.EXPERIMENTS
}


def select(names: Sequence[str]) -> list[Experiment]:
    """Returns the experiments that names stand for, each once, in the order of the papers.

    Args:
        names: names of experiments or papers, `core` or `all`.

    Raises:
        ValueError: a name is unknown; the message has the nearest ones.
    """
    selected = set()
    for name in names:
        chosen = [each.name for each in EXPERIMENTS.values() if _is_meant(each, name)]
        if not chosen:
            known = [CORE, ALL, *PAPERS, *EXPERIMENTS]
            nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
            raise ValueError(f"There is no experiment {name!r}.{hint} `reproduce.py list` shows all of them.")
        selected.update(chosen)
    return [each for each in EXPERIMENTS.values() if each.name in selected]


def _is_meant(experiment: Experiment, name: str) -> bool:
    return name in (ALL, experiment.paper, experiment.name) or (name == CORE and experiment.core)


def list_experiments() -> str:
    """Returns the papers, and a line for each experiment: name, minutes, table or figure, claim, scales."""
    width = max(map(len, EXPERIMENTS))
    lines = []
    for paper, (title, module) in PAPERS.items():
        lines += [f"{paper}: {title}"]
        for each in module.EXPERIMENTS:
            mark = "*" if each.core else " "
            scales = ", ".join(each.scales)
            lines.append(f" {mark} {each.name:{width}}  {each.minutes:4.0f} min  {each.item}: {each.claim} [{scales}]")
    minutes = sum(each.minutes for each in EXPERIMENTS.values() if each.core)
    return "\n".join(
        [
            *lines,
            "",
            f"* belongs to `run core`, about {minutes:.0f} minutes. Minutes are those of one free CPU core, one seed "
            "and the scale small, after the experiments above it (those with * for one with *), whose trained models "
            "it shares. The scales of each experiment are in brackets.",
        ]
    )
