"""The numbers that a preset expects of its run."""

import dataclasses
import difflib
import shlex
from collections.abc import Sequence
from typing import Literal

from papers_to_gpt.settings.arguments import CheckedSettings, option, parse_settings, read_settings
from papers_to_gpt.settings.presets import EXPECTED, WORDS_FOR_NO_VALUE, Setting

# A tolerance may have at most this many standard deviations of the seeds.
WIDEST_TOLERANCE = 3
# From this number of seeds on, the standard deviation must be given.
SEEDS_WITH_A_SPREAD = 3


@dataclasses.dataclass
class ExpectedNumber(CheckedSettings):
    """A score that a preset reaches, by which a user sees whether a run is right."""

    metric: str = option("", "Name of the score in all_results.json, such as test_exact_match.")
    value: float = option(None, "The score, the median over the seeds, on the scale of all_results.json.")
    tolerance: float = option(None, "Largest difference from the value that is as expected.", above=0)
    seeds: int = option(1, "Number of seeds that the value comes from.", at_least=1)
    standard_deviation: float | None = option(
        None, "Standard deviation of the seeds' scores; a number from three seeds or more has one.", above=0
    )
    hardware: str = option("", "Machine that the number was measured on.")
    minutes: float | None = option(
        None, "Minutes of what is compared, one run or a series, on this machine; left out, not measured.", above=0
    )
    statistic: Literal["run", "median"] = option(
        "run", "What is compared: `run`, any single run; `median`, only a series, as one seed may fail to learn."
    )
    task: str | None = option(None, "Task that the number is for, where a preset has several.")
    data: str | None = option(
        None,
        "Fingerprint of the data that the number is for, or its rows alone; left out, that of the settings.",
    )
    starts_from: str | None = option(None, "Preset of the trained model that the number is for.")
    own_translations: bool = option(
        False, "Whether a second training file has that model's translations of the sources of the first."
    )
    arguments: str | None = option(
        None, "Settings that the number was measured with besides the preset's; one without a value may have any."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.own_translations and self.starts_from is None:
            raise ValueError("own_translations is true, but starts_from does not say which model makes them. Set it.")
        missing = [name for name in ("metric", "value", "tolerance", "hardware") if not self._has(name)]
        if missing:
            raise ValueError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.")
        if self.seeds >= SEEDS_WITH_A_SPREAD and self.standard_deviation is None:
            raise ValueError(f"standard_deviation is missing: the number comes from {self.seeds} seeds.")
        widest = None if self.standard_deviation is None else WIDEST_TOLERANCE * self.standard_deviation
        if widest is not None and self.tolerance > widest * (1 + 1e-9):
            raise ValueError(
                f"tolerance is {self.tolerance:g}; it must be at most {widest:.4g}, {WIDEST_TOLERANCE} standard "
                "deviations of the seeds."
            )
        self.given_with()

    def _has(self, name: str) -> bool:
        return getattr(self, name) not in (None, "")

    def given_with(self) -> dict[str, tuple[str, ...]]:
        """Returns the settings of `arguments` with their values as text; one that may have any value has none.

        Raises:
            ValueError: if `arguments` is not a list of `--setting value`.
        """
        words = shlex.split(self.arguments or "")
        if words and not words[0].startswith("--"):
            raise ValueError(f"arguments is {self.arguments!r}; it must be a list of --setting value.")
        return {setting.key: setting.values for setting in read_settings(words)}


@dataclasses.dataclass
class Expected:
    """What a preset expects of a run, and how the settings of the run differ from those that its numbers are for.

    Attributes:
        preset: the preset's name, such as `numbers/bahdanau`, or the file name of one that is not packaged.
        numbers: its numbers; empty if it has none.
        conflicts: for each number the settings that it is not for, such as `max_steps is 100, not 400`.
    """

    preset: str
    numbers: list[ExpectedNumber] = dataclasses.field(default_factory=list)
    conflicts: list[list[str]] = dataclasses.field(default_factory=list)


def read_numbers(setting: Setting, metrics: Sequence[str] = ()) -> list[ExpectedNumber]:
    """Returns the expected numbers of a preset's setting `expected`.

    Raises:
        ValueError: if one is incomplete or has an unknown key; the message has a line for each problem.
    """
    numbers, problems = [], []
    if setting.values and setting.values[0] not in WORDS_FOR_NO_VALUE:
        problems.append(
            f"{setting.origin}: {EXPECTED} must be a list of `key: value` lines with metric, value and so on."
        )
    for group in setting.groups:
        origin = group[0].origin if group else setting.origin
        try:
            (number,) = parse_settings(group, ExpectedNumber)
        except ValueError as error:
            file = origin.rpartition(":")[0]
            lines = str(error).split("\n")
            problems += [line if line.startswith(f"{file}:") else f"{origin}: {EXPECTED}: {line}" for line in lines]
            continue
        if metrics and number.metric not in metrics:
            nearest = difflib.get_close_matches(number.metric, metrics, n=1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            known = ", ".join(metrics)
            problems.append(f"{origin}: {EXPECTED}: metric is {number.metric!r}.{hint} The scores are {known}.")
        numbers.append(number)
    if problems:
        raise ValueError("\n".join(problems))
    return numbers
