"""The guided readings name existing files and functions, their commands parse, and their sections are complete."""

import ast
import importlib
import re

import pytest
from test_house import ROOT, documented_commands, parse_command

READINGS = [ROOT / package / "README.md" for package in ("seq2seq_scratch", "gpt1_scratch")]
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")
SNIPPET = re.compile(r"^python - <<'EOF'\n(.*?)\nEOF$", re.M | re.S)

in_both_readings = pytest.mark.parametrize("reading", READINGS, ids=lambda path: path.parent.name)


def prose_of(reading):
    """Returns the text without code and equations, in which brackets and underscores have another meaning."""
    return re.sub(r"^```.*?^```$", "", reading.read_text(encoding="utf-8"), flags=re.M | re.S)


def links_of(reading):
    """Returns the text and path of every link into the repository."""
    return [
        (text, (reading.parent / target).resolve())
        for text, target in LINK.findall(prose_of(reading))
        if not target.startswith("http")
    ]


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
def test_every_section_has_an_equation_a_link_a_place_for_a_picture_and_a_measurement(reading):
    sections = sections_of(reading)
    assert len(sections) >= 10
    for title, text in sections:
        assert "```math" in text, title
        assert re.search(r"\[`\w[\w.]*`\]\(", text), title
        assert "<!-- picture: " in text, title
        assert "```bash" in text and "Measured" in text, title


@in_both_readings
def test_a_reading_can_be_read_in_one_sitting(reading):
    assert 250 <= len(reading.read_text(encoding="utf-8").splitlines()) <= 500
