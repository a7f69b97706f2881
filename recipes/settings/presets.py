"""Presets: YAML files of settings, and where each setting was written."""

import dataclasses
import difflib
from pathlib import Path

import yaml

# The words that unset a setting. A preset may also have a YAML null.
WORDS_FOR_NO_VALUE = ("none", "null")

COMMAND_LINE = "command line"

# The key of a preset whose lines below it say what a run should reach.
EXPECTED = "expected"

PRESETS = Path(__file__).resolve().parents[1] / "presets"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A key with its values, and where it was written: on the command line or at a line of a preset.

    `groups` are the `key: value` lines below the key, one group for each item of a list; only `expected` has any.
    """

    key: str
    values: tuple[str, ...]
    origin: str
    groups: tuple[tuple["Setting", ...], ...] = ()


def find_preset(name: str) -> str:
    """Returns the path of a preset, which is a file or has the name of a packaged preset.

    Args:
        name: a path, or `numbers/bahdanau` for `recipes/presets/numbers/bahdanau.yaml`, with or without `.yaml` and
            the folders above it.

    Raises:
        ValueError: if there is no such file and no such preset.
    """
    if Path(name).is_file():
        return name
    packaged = {"/".join(path.with_suffix("").parts[-2:]): path for path in sorted(PRESETS.glob("*/*.yaml"))}
    short = name.removeprefix("recipes/").removeprefix("presets/").removesuffix(".yaml")
    if short in packaged:
        return str(packaged[short])
    nearest = difflib.get_close_matches(short, packaged, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(
        f"The preset {name!r} is not a file and not the name of a packaged preset.{hint} The packaged presets are "
        f"{', '.join(packaged)}."
    )


def read_preset(name: str) -> list[Setting]:
    """Reads the settings of a preset, in their order.

    Args:
        name: as `find_preset` takes it.

    Raises:
        ValueError: if there is no such preset, it is not valid YAML, or a value is neither one value nor a list of
            values; the message names the file and the line.
    """
    path = find_preset(name)
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The preset {path} is not valid YAML: {error}") from error
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"The preset {path} must be a list of `setting: value` lines.")
    return _read_mapping(root, path)


def _read_mapping(mapping: yaml.MappingNode, path: str, depth: int = 0) -> list[Setting]:
    settings, lines = [], {}
    # Scalars stay text, and the parser gives them their types. YAML itself would read `3e-4` as text.
    for key_node, value_node in mapping.value:
        origin = f"{path}:{key_node.start_mark.line + 1}"
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"{origin}: brackets and braces cannot be the name of a setting. Write `setting: value`.")
        if key in lines:
            raise ValueError(f"{origin}: the setting {key!r} is written twice, first at {lines[key]}. Keep one.")
        lines[key] = origin
        items = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
        if isinstance(value_node, yaml.ScalarNode):
            is_null = value_node.tag == "tag:yaml.org,2002:null"
            settings.append(Setting(key, (WORDS_FOR_NO_VALUE[0] if is_null else value_node.value,), origin))
        elif all(isinstance(item, yaml.ScalarNode) for item in items):
            settings.append(Setting(key, tuple(item.value for item in items), origin))
        elif key == EXPECTED and depth == 0:
            if not all(isinstance(item, yaml.MappingNode) for item in items):
                raise ValueError(f"{origin}: {key} must be a list of `key: value` lines, or a list of such lists.")
            settings.append(
                Setting(key, (), origin, tuple(tuple(_read_mapping(item, path, depth + 1)) for item in items))
            )
        else:
            raise ValueError(f"{origin}: the value of {key!r} must be one value or a list of values.")
    return settings
