"""Pictures hold exactly the numbers and names that they are given, and their files are reproducible."""

import json
from itertools import pairwise

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")

from papers_to_gpt.plots import fonts  # noqa: E402
from papers_to_gpt.plots.alignments import plot_alignment  # noqa: E402
from papers_to_gpt.plots.attention_heads import plot_heads  # noqa: E402
from papers_to_gpt.plots.curves import plot_curves  # noqa: E402
from papers_to_gpt.plots.line_plots import Series, plot_bars, plot_lines  # noqa: E402
from papers_to_gpt.plots.probabilities import plot_token_probabilities  # noqa: E402
from papers_to_gpt.plots.scatter import plot_points  # noqa: E402
from papers_to_gpt.plots.style import new_figure, pixels, save_figure, text_style  # noqa: E402

LOG = [
    {"update": 10, "kind": "train", "loss": 3.5, "learning_rate": 0.1, "gradient_norm": 2.0},
    {"update": 20, "kind": "train", "loss": 2.5, "learning_rate": 0.05, "gradient_norm": 1.0},
    {"update": 20, "kind": "eval", "loss": 2.75, "perplexity": 15.6, "sacrebleu": 12.5, "kept": "text"},
]


def attention(targets, sources, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(sources), size=targets)


def tick_labels(axes):
    return [[label.get_text() for label in labels] for labels in (axes.get_xticklabels(), axes.get_yticklabels())]


def overlapping_labels(figure, axes):
    """Returns pairs of tick labels of one axis that overlap when the figure is drawn at its own size."""
    figure.canvas.draw()
    overlaps = []
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [(label.get_text(), label.get_window_extent()) for label in labels]
        overlaps += [
            (first[0], second[0])
            for number, first in enumerate(boxes)
            for second in boxes[number + 1 :]
            if min(first[1].x1, second[1].x1) - max(first[1].x0, second[1].x0) > 0.5
            and min(first[1].y1, second[1].y1) - max(first[1].y0, second[1].y0) > 0.5
        ]
    return overlaps


def test_an_alignment_shows_the_matrix_itself_and_its_tokens_on_the_axes():
    weights = attention(3, 5)
    source, target = ["five", "$x$", "_a_", "the\n", "</s>"], ["fünf", "x", "der"]
    axes = plot_alignment(source, target, weights).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), weights)
    assert tick_labels(axes) == [["five", "$x$", "_a_", "the\\n", "</s>"], target]
    assert axes.images[0].get_clim() == (0, 1)


def test_forty_tokens_are_legible_in_1200_pixels_and_what_is_cut_is_said():
    source = [f"##aüfgj{number}"[: 3 + number % 9] for number in range(57)]
    target = [f"lengthiest_token_of_all{number}" if number % 9 == 0 else "," for number in range(41)]
    figure = plot_alignment(source, target, attention(41, 57), title="title")
    axes = figure.axes[0]
    assert figure.get_figwidth() * figure.dpi <= 1200
    assert [len(labels) for labels in tick_labels(axes)] == [40, 40]
    assert [text.get_text() for text in figure.texts] == [
        "title",
        "first 40 of 57 source tokens; first 40 of 41 target tokens",
    ]
    assert overlapping_labels(figure, axes) == []
    assert all(label.get_fontsize() * figure.dpi / 72 >= 12 for label in axes.get_xticklabels())
    box = figure.get_tightbbox()  # in inches
    assert box.x0 >= 0 and box.y0 >= -0.01 and box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


def test_heads_of_forty_tokens_stand_two_by_two_with_labels_that_can_be_read():
    tokens = [f"##ved{number}" if number % 3 else "afternoon and evening" for number in range(57)]
    weights = np.stack([attention(57, 57, seed) for seed in range(3)])
    figure = plot_heads(weights, tokens, tokens, heads=[1, 4, 7])
    *panels, bar = figure.axes
    assert [panel.get_title(loc="left") for panel in panels] == ["head 1", "head 4", "head 7"]
    for panel, matrix in zip(panels, weights, strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), matrix[:40, :40])
        assert panel.images[0].get_clim() == (0, weights[:, :40, :40].max())  # one scale for all heads
    boxes = [panel.get_position() for panel in panels]
    assert boxes[0].y0 == boxes[1].y0 > boxes[2].y0 and boxes[0].x1 < boxes[1].x0
    (size,) = {label.get_fontsize() * figure.dpi / 72 for label in panels[0].get_xticklabels()}
    assert 12 <= size <= panels[0].get_window_extent().width / 40  # each label has a column as wide as it is high
    assert figure.get_figwidth() * figure.dpi <= 1200
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= -0.01 and box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()


def test_candidates_of_a_wide_table_are_cut_before_they_reach_their_probabilities():
    words = [["extraordinary##s", "on", "a", "b"]] * 3
    best = np.tile([0.5, 0.25, 0.125, 0.0625], (3, 1))
    figure = plot_token_probabilities(["Donaudampfschifffahrt", "on", "x"], best[:, 0], words, best)
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), np.concatenate([best[:, :1], best], axis=1))
    figure.canvas.draw()
    by_row = {}
    for text in axes.texts:
        by_row.setdefault(text.get_position()[1], []).append(text.get_window_extent())
    for boxes in by_row.values():
        boxes.sort(key=lambda box: box.x0)
        assert len(boxes) == 9
        assert all(first.x1 <= second.x0 for first, second in zip(boxes, boxes[1:], strict=False))
    bold = [text.get_text() for text in axes.texts if text.get_weight() == "bold"]
    assert bold == ["on"]  # the only candidate that is the text's own token


def test_weights_of_another_shape_than_the_tokens_are_refused():
    with pytest.raises(ValueError, match=r"shape \(5, 3\), but there are 3 target and 5 source tokens"):
        plot_alignment(list("abcde"), list("abc"), attention(5, 3))


def test_a_figure_is_written_in_both_formats_and_gives_the_same_bytes_again(tmp_path):
    contents = []
    for name in ("first", "second"):
        paths = save_figure(plot_alignment(list("ab"), list("cd"), attention(2, 2)), tmp_path / name / "plot.png")
        assert [path.name for path in paths] == ["plot.png", "plot.svg"]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"\x89PNG") and b"</svg>" in contents[0][1]
    assert b"<dc:date>" not in contents[0][1]


def test_curves_hold_the_points_of_the_logs_for_training_and_validation():
    other = [{**line, "loss": line["loss"] + 1} for line in LOG]
    figure = plot_curves({"_first $run$": LOG, "second": other})
    panels = {panel.get_title(loc="left"): panel for panel in figure.axes}
    assert list(panels) == ["loss", "sacrebleu", "learning rate", "gradient norm"]
    lines = [line.get_xydata().tolist() for line in panels["loss"].lines]
    assert lines == [[[10, 3.5], [20, 2.5]], [[20, 2.75]], [[10, 4.5], [20, 3.5]], [[20, 3.75]]]
    assert panels["loss"].lines[0].get_color() != panels["loss"].lines[2].get_color()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["_first $run$", "second", "training", "validation"]


def test_a_run_without_a_log_and_an_unknown_value_are_refused():
    with pytest.raises(ValueError, match="log of other has no lines"):
        plot_curves({"run": LOG, "other": []})
    with pytest.raises(ValueError, match="no value|has the value 'bleu'. The values are loss, learning_rate"):
        plot_curves({"run": LOG}, ["bleu"])


def test_lines_and_bars_have_error_bars_from_the_lowest_to_the_highest_value():
    series = [Series("a", [1, 2], [5.0, 6.0], [4.0, 5.5], [7.0, 6.25], reference=3.0), Series("b", [1, 2], [1.0, 2.0])]
    axes = plot_lines(series, x_label="x", y_label="y").axes[0]
    (_, _, (bars,)) = axes.containers[0]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[4.0, 7.0], [5.5, 6.25]]
    axes = plot_bars(series, y_label="y").axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [5.0, 6.0, 1.0, 2.0]
    assert [text.get_text() for text in axes.texts] == ["5.0", "6.0", "1.0", "2.0"]
    with pytest.raises(ValueError, match="a: x, y, low and high must have one length"):
        Series("a", [1, 2], [5.0])


def test_places_of_a_logarithmic_axis_are_rounded_where_they_are_counts():
    axes = plot_lines(
        [Series("a", [512, 9600, 302110, 2.1e12], [1, 2, 3, 4])], x_label="x", y_label="y", log_x=True
    ).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["512", "9600", "302k", "2.1T"]


def test_names_of_bars_do_not_stand_in_each_other():
    for longest, rotation in (("rescored with 5 LSTMs", 30), ("with 5", 0)):
        names = ["the best", "with 1 of the LSTMs", longest, "oracle"]
        figure = plot_bars([Series("BLEU", names, [1, 2, 3, 4])], y_label="y")
        figure.canvas.draw()
        labels = figure.axes[0].get_xticklabels()
        assert {label.get_rotation() for label in labels} == {rotation}
        if not rotation:
            boxes = [label.get_window_extent() for label in labels]
            assert not any(left.overlaps(right) for left, right in pairwise(boxes))


def test_the_font_that_is_missing_is_named_with_the_package_that_has_it(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "_choose", lambda missing: ([], missing))  # a machine with matplotlib's font alone
    monkeypatch.setattr(fonts, "_warned_of", set())
    fonts._families_for.cache_clear()
    assert fonts.families_for(["日本", "abc", "שלום", "سلام"]) == ["DejaVu Sans"]
    (message,) = caplog.messages
    assert "日本" in message and "שלום" not in message
    assert "Noto Sans CJK SC" in message and "apt install fonts-noto-cjk" in message
    # A font that has been named is not named again with further characters.
    fonts.families_for(["中"])
    assert len(caplog.messages) == 1
    fonts.families_for(["中한"])
    assert "한" in caplog.messages[1] and "中" not in caplog.messages[1]
    fonts._families_for.cache_clear()


@pytest.mark.parametrize(
    ("character", "font"),
    [
        ("中", "Noto Sans CJK SC"),
        ("ㄅ", "Noto Sans CJK SC"),
        ("ｶ", "Noto Sans CJK JP"),
        ("한", "Noto Sans CJK KR"),
        ("क", "Noto Sans Devanagari"),
        ("ि", "Noto Sans Devanagari"),
        ("ไ", "Noto Sans Thai"),
        ("𐌀", "Noto Sans Old Italic"),
        ("😀", "Symbola"),
        ("🇩", "Symbola"),
        ("\ufe0f", "Symbola"),
        ("\U000e1234", "Symbola"),
    ],
)
def test_every_kind_of_character_has_a_font_that_exists(character, font):
    assert fonts.font_for(character)[0] == font


def ink(text):
    """Returns the columns of a drawn text that have ink, as the number of dark pixels of each."""
    figure = new_figure(3, 1, layout=None)
    figure.text(0.1, 0.3, text, **text_style([text], 40))
    dark = (pixels(figure) < 128).all(axis=2).sum(axis=0)
    return dark[dark.nonzero()[0].min() : dark.nonzero()[0].max() + 1]


def test_hebrew_is_drawn_from_right_to_left_and_arabic_letters_are_joined():
    # Alef is wide and yod a small stroke: where alef is read first, it is on the right.
    both, yod = ink("אי"), ink("י")
    assert both[: len(yod)].tolist() == yod.tolist()
    # Letters that are joined leave no empty column between them; a zero width non-joiner keeps them apart.
    assert (ink("سسس") > 0).all() and (ink("س\u200cس\u200cس") == 0).any()


def test_an_installed_font_is_found_for_characters_that_the_default_one_lacks():
    # U+1D49E is in the mathematical fonts that come with matplotlib, and not in DejaVu Sans.
    families = fonts.families_for(["\N{MATHEMATICAL SCRIPT CAPITAL C}"])
    assert families[0] == "DejaVu Sans" and len(families) == 2


def test_logs_are_read_as_runs_write_them(tmp_path):
    from papers_to_gpt.engine.reporting import read_log

    path = tmp_path / "train_log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LOG))
    assert plot_curves({"run": read_log(path)}).axes[0].lines[0].get_xydata().tolist() == [[10, 3.5], [20, 2.5]]


def test_names_of_points_side_by_side_cover_no_other_name():
    names = ["twelve seven nineteen", "twelve nineteen seven", "seven twelve nineteen", "seven nineteen twelve"]
    figure = plot_points(np.array([[-2.0, 0.0], [-1.9, 0.0], [2.0, 0.01], [2.1, 0.0]]), names)
    extents = [text.get_window_extent() for text in figure.axes[0].texts]
    assert [text.get_text() for text in figure.axes[0].texts] == names
    assert not any(a.overlaps(b) for place, a in enumerate(extents) for b in extents[:place])
