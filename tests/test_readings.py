"""The guided readings name existing files and functions, their commands parse, and their sections are complete."""

import ast
import importlib
import re

import pytest
import torch
from PIL import Image
from test_house import ROOT, documented_commands, parse_command

from gpt1_scratch.tokenization import train_tokenizer
from papers_to_gpt.illustrate import parse
from papers_to_gpt.illustrations.attention import induction_weights
from papers_to_gpt.illustrations.drawing import run
from papers_to_gpt.illustrations.networks import distances, transferred_parts
from papers_to_gpt.illustrations.registry import ILLUSTRATIONS
from papers_to_gpt.illustrations.tokens import TEXT, WORD, steps_of_word

READINGS = [ROOT / package / "README.md" for package in ("seq2seq_scratch", "gpt1_scratch")]
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")
PICTURE = re.compile(r"^!\[[^\]]{10,}\]\((pictures/\w+\.png)\)$", re.M)
SNIPPET = re.compile(r"^python - <<'EOF'\n(.*?)\nEOF$", re.M | re.S)
LARGEST_PICTURES = 1_500_000  # bytes, of all pictures together

in_both_readings = pytest.mark.parametrize("reading", READINGS, ids=lambda path: path.parent.name)


def prose_of(reading):
    """Returns the text without code and equations, in which brackets and underscores have another meaning."""
    return re.sub(r"^```.*?^```$", "", reading.read_text(encoding="utf-8"), flags=re.M | re.S)


def targets_of(reading):
    """Returns the text, path and section of every link into the repository; the section is empty for a whole file."""
    for text, target in LINK.findall(prose_of(reading)):
        if not target.startswith("http"):
            path, _, section = target.partition("#")
            yield text, (reading.parent / path).resolve(), section


def links_of(reading):
    """Returns the text and path of every link into the repository."""
    return [(text, path) for text, path, _ in targets_of(reading)]


def anchors_of(document):
    """Returns the anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def names_of(path):
    """Returns the classes, functions, methods (`Class.method`) and constants that a file defines."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            names |= {node.name, *(f"{node.name}.{method.name}" for method in methods)}
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def sections_of(reading):
    """Returns the title and text of every numbered section."""
    text = reading.read_text(encoding="utf-8").split("\n## Adding things")[0]
    parts = re.split(r"^## (\d+\. .+)$", text, flags=re.M)
    return list(zip(parts[1::2], parts[2::2], strict=True))


@in_both_readings
def test_every_file_that_a_reading_links_exists(reading):
    links = links_of(reading)
    assert links
    for text, path in links:
        assert path.exists(), f"{text}: {path.relative_to(ROOT)}"


@in_both_readings
def test_every_section_that_a_reading_links_exists(reading):
    sections = [(path, section) for _, path, section in targets_of(reading) if section]
    assert sections
    for path, section in sections:
        assert section in anchors_of(path), f"#{section} in {path.relative_to(ROOT)}"


@in_both_readings
def test_every_name_that_a_reading_links_is_defined_where_the_link_leads(reading):
    named = []
    for text, path in links_of(reading):
        found = NAME.fullmatch(text)
        if found is None or found[1] == path.name:
            continue
        files = path.rglob("*.py") if path.is_dir() else [path]
        assert found[1] in set().union(*map(names_of, files)), f"{found[1]} in {path.relative_to(ROOT)}"
        named.append(found[1])
    assert len(named) > 10


@in_both_readings
def test_every_test_that_a_reading_names_exists(reading):
    defined = {name for path in (ROOT / "tests").rglob("*.py") for name in names_of(path)}
    named = {name for name in NAME.findall(prose_of(reading)) if name.startswith("test_") and "." not in name}
    named -= {"test_long"}  # a split
    assert named and named <= defined, named - defined


@in_both_readings
def test_every_command_of_a_reading_parses(reading):
    commands = documented_commands(reading.relative_to(ROOT))
    assert commands
    for command in commands:
        parse_command(*command)


@in_both_readings
def test_every_import_of_a_snippet_exists(reading):
    snippets = SNIPPET.findall(reading.read_text(encoding="utf-8"))
    assert snippets
    for snippet in snippets:
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@in_both_readings
def test_every_section_has_an_equation_a_link_a_picture_and_a_measurement(reading):
    sections = sections_of(reading)
    assert len(sections) >= 10
    for title, text in sections:
        assert "```math" in text, title
        assert re.search(r"\[`\w[\w.]*`\]\(", text), title
        assert PICTURE.search(text), title
        assert "```bash" in text and "Measured" in text, title


@in_both_readings
def test_a_token_such_as_end_of_word_is_code_and_does_not_vanish_as_an_html_tag(reading):
    prose = re.sub(r"`[^`]*`|\$[^$]*\$", "", prose_of(reading))
    assert not re.findall(r"</?[a-z][^>\n]*>", prose, flags=re.I)


@in_both_readings
def test_a_reading_can_be_read_in_one_sitting(reading):
    assert 250 <= len(reading.read_text(encoding="utf-8").splitlines()) <= 500


def test_the_readings_show_the_pictures_that_the_command_draws_and_no_others():
    shown = {path for reading in READINGS for path in pictures_of(reading)}
    stored = {path for reading in READINGS for path in (reading.parent / "pictures").iterdir()}
    assert shown == stored == {ROOT / each.path(name) for name, each in ILLUSTRATIONS.items()}
    assert sum(path.stat().st_size for path in stored) < LARGEST_PICTURES
    for path in stored:
        with Image.open(path) as picture:
            assert picture.format == "PNG" and picture.width <= 1500, path


def pictures_of(reading):
    """Returns the files of the pictures that a reading shows."""
    return [reading.parent / name for name in PICTURE.findall(reading.read_text(encoding="utf-8"))]


def test_a_picture_is_drawn_again_beside_its_reading(tmp_path, capsys):
    run(*parse(["--pictures", "masks", "block", "--output_dir", str(tmp_path)]))
    paths = [tmp_path / "seq2seq_scratch/pictures/masks.png", tmp_path / "gpt1_scratch/pictures/block.png"]
    assert capsys.readouterr().out.split() == list(map(str, paths))
    for path in paths:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 16)) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pictures", "mask"], "pictures names mask; there are bpe_tokens, "),
        (
            ["--pictures", "alignment", "--models_dir", "nowhere"],
            "needs the model nowhere/numbers_bahdanau.*train_translation.py numbers/bahdanau --output_dir",
        ),
        (["--pictures", "next_tokens", "--models_dir", "nowhere"], "pretrain_gpt1.py stories/gpt1_mini --output_dir"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_with_what_to_do(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(*parse([*arguments, "--output_dir", str(tmp_path)]))


def test_reversing_the_source_keeps_the_mean_distance_and_shortens_the_first():
    """The formula of section 4: d_i = 2i - 1, and n for every word in order."""
    assert distances(False, 5) == [5] * 5
    assert distances(True, 5) == [2 * i - 1 for i in range(1, 6)]


def test_the_steps_of_a_word_end_with_what_the_tokenizer_gives():
    steps = dict(steps_of_word(train_tokenizer(TEXT, merges=40), WORD))
    assert "".join(steps[0]).removesuffix("</w>") == WORD and len(steps[0]) == len(WORD)
    for count, tokens in steps.items():
        if count:
            assert train_tokenizer(TEXT, merges=count).tokenize(WORD) == tokens


def test_the_heads_of_an_induction_look_at_the_token_before_and_behind_the_same_token():
    tokens = ["<s>", *"abcd" * 2]
    previous, induction = induction_weights(tokens)
    for weights in (previous, induction):
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(9))
        assert not weights.triu(1).any()
    assert previous[1:].argmax(dim=1).tolist() == list(range(8))
    # At its second reading a token looks at the one that followed its first; at the first, nothing is to be found.
    assert induction[5:].argmax(dim=1).tolist() == [2, 3, 4, 5] and (induction[5:].amax(dim=1) > 0.9).all()
    torch.testing.assert_close(induction[3, :4], torch.full((4,), 1 / 4), atol=0.01, rtol=0)


def test_the_picture_of_transferred_blocks_shows_what_the_settings_say():
    assert transferred_parts(2) == {
        "from scratch": [False, False, False],
        "0 blocks": [True, False, False],
        "1 block": [True, True, False],
        "all blocks": [True, True, True],
    }
