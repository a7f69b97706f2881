"""Pictures of long names, many lines, narrow bars, and values that are no numbers stay legible."""

from itertools import pairwise

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")

from papers_to_gpt.plots.alignments import plot_alignment  # noqa: E402
from papers_to_gpt.plots.attention_heads import plot_heads  # noqa: E402
from papers_to_gpt.plots.curves import plot_curves  # noqa: E402
from papers_to_gpt.plots.line_plots import Series, plot_bars, plot_lines  # noqa: E402
from papers_to_gpt.plots.positions import plot_positions, similarities  # noqa: E402
from papers_to_gpt.plots.probabilities import plot_next_tokens, plot_token_probabilities  # noqa: E402
from papers_to_gpt.plots.scatter import plot_points  # noqa: E402
from papers_to_gpt.plots.style import fit, label_of, text_width  # noqa: E402

LOG = [
    {"update": 10, "kind": "train", "loss": 3.5},
    {"update": 20, "kind": "train", "loss": 2.5},
    {"update": 20, "kind": "eval", "loss": 2.75},
]


def texts_of(figure):
    """Returns the texts of a figure that are drawn: ticks beyond the ends of an axis have texts too."""
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text().strip()]
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            if not low <= tick.get_loc() <= high:
                beyond |= {tick.label1, tick.label2}
    return [text for text in texts if text not in beyond]


def boxes_of(texts):
    return [text.get_window_extent() for text in texts]


def overlap(boxes):
    """Returns whether two neighbours from left to right overlap by more than the space between lines."""
    boxes = sorted(boxes, key=lambda box: box.x0)
    return any(
        left.x1 - right.x0 > 3 and min(left.y1, right.y1) - max(left.y0, right.y0) > 1
        for left, right in pairwise(boxes)
    )


@pytest.mark.parametrize(
    "draw",
    [
        lambda name: plot_alignment(["a"], ["b"], np.ones((1, 1)), title=name),
        lambda name: plot_heads(np.ones((1, 1, 1)), ["a"], ["b"], title=name),
        lambda name: plot_token_probabilities(["a"], np.ones(1), [["a"]], np.ones((1, 1)), title=name),
        lambda name: plot_next_tokens(["a"], [0.5], title=name),
        lambda name: plot_positions(np.eye(3), title=name),
        lambda name: plot_points(np.eye(2), ["a", "b"], title=name),
        lambda name: plot_lines([Series("a", [1], [1])], x_label="x", y_label="y", title=name),
        lambda name: plot_bars([Series("a", [1], [1])], y_label="y", title=name),
        lambda name: plot_curves({"a": LOG, name: LOG}),
        lambda name: plot_bars([Series(each, [name, "b"], [1, 2]) for each in (name, "c")], y_label="y"),
    ],
)
def test_long_names_are_cut_and_do_not_leave_the_picture(draw):
    for name in ("W" * 300, "first line\nsecond line " * 20):
        figure = draw(name)
        figure.canvas.draw()
        for text in texts_of(figure):
            box = text.get_window_extent()
            assert figure.bbox.x0 - 1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1, text.get_text()
            assert "\n" not in text.get_text()
        # What is drawn keeps its room.
        assert all(axes.bbox.height > 10 for axes in figure.axes)


def test_a_line_is_cut_to_its_width_at_the_end_that_says_less():
    assert fit("short", 2.0) == "short"
    start, end = fit("runs/" * 50, 2.0), fit("runs/" * 50, 2.0, keep_end=True)
    assert start.startswith("runs/runs") and start.endswith("…")
    assert end.endswith("runs/runs/") and end.startswith("…")
    assert all(1.8 < text_width([text]) <= 2.0 for text in (start, end))
    # Of the text that is continued, the end is shown.
    title = plot_next_tokens(["a"], [0.5], title=f"{'start ' * 50}end").get_suptitle()
    assert title.startswith("…") and title.endswith("start end")


def test_letters_keep_their_accents_and_words_the_joiners_within_them():
    persian = "می\u200cخواهم"
    assert label_of(persian) == persian and label_of("\u200c") == "\\u200c"
    assert label_of("abe\u0301fg", 4) == "ab…" and label_of("abe\u0301", 4) == "abe\u0301"
    assert label_of("abc\u200cdef", 4) == "ab…"
    assert fit("e\u0301" * 99, 1.0, keep_end=True)[:2] == "…e" and fit("e\u0301" * 99, 1.0)[-2:] == "\u0301…"


def test_cells_without_a_number_are_grey_and_a_note_says_so():
    weights = np.array([[np.nan, np.nan], [1.0, 0.0]])
    figures = [
        plot_alignment(["a", "b"], ["c", "d"], weights),
        plot_heads(weights[None], ["a", "b"], ["c", "d"]),
        plot_positions(weights),
        plot_token_probabilities(["a", "b"], weights[:, 0], [["c"], ["d"]], weights[:, 1:]),
    ]
    for figure in figures:
        (image,) = figure.axes[0].images
        assert image.cmap.get_bad()[3] == 1  # through a transparent colour, the white of 0 is seen
        assert "grey cells: not a number" in [text.get_text() for text in texts_of(figure)]
        assert np.abs(image.cmap.get_bad()[:3] - np.array(image.cmap(image.norm(0.0)))[:3]).max() > 0.1
        assert image.norm.vmax == 1  # the scale is that of the numbers
    assert np.isnan(similarities(weights)[0]).all()


def test_where_no_number_is_finite_the_picture_says_so():
    none = [np.nan, np.nan]
    figures = [
        plot_lines([Series("a", [1, 2], none)], x_label="x", y_label="y", log_x=True, log_y=True),
        plot_bars([Series("a", [1, 2], none)], y_label="y"),
        plot_curves({"a": [{"update": 1, "kind": "train", "loss": np.nan}]}),
        plot_next_tokens(["a", "b"], none),
        plot_points(np.array([none]), ["a"]),
    ]
    for figure in figures:
        figure.canvas.draw()
        assert "no finite number" in [text.get_text() for text in texts_of(figure)]
    assert "nan" not in [text.get_text() for text in texts_of(figures[1])]
    assert "no finite number" not in [text.get_text() for text in texts_of(plot_curves({"a": LOG}))]


def test_a_log_without_a_loss_is_refused_with_its_values():
    with pytest.raises(ValueError, match="No log has a loss or a score. The values to choose are speed"):
        plot_curves({"a": [{"update": 1, "kind": "train", "speed": 3.0}]})


def test_runs_of_one_colour_differ_by_their_markers():
    figure = plot_curves({f"run {number}": LOG for number in range(12)})
    lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == 12
    assert plot_curves({"a": LOG}).axes[0].lines[0].get_marker() == "None"
    assert plot_curves({"a": LOG[:1]}).axes[0].lines[0].get_marker() != "None"  # one point is no line
    # Of long lines few points have a marker, which would hide the line.
    long = [{"update": update, "kind": "train", "loss": 1.0} for update in range(1, 101)]
    lines = plot_curves({f"run {number}": long for number in range(8)}).axes[0].lines
    assert all(len(line.get_xdata()[:: line.get_markevery()]) <= 10 for line in lines)


def test_one_run_without_an_evaluation_needs_no_legend():
    assert plot_curves({"a": LOG}).legends and not plot_curves({"a": LOG[:2]}).legends


@pytest.mark.parametrize("kind", ["lines", "bars"])
def test_a_legend_of_many_names_covers_no_line_and_no_bar(kind):
    series = [Series(f"model number {number}", [1, 2, 3], [number, 5, 12 - number]) for number in range(12)]
    figure = plot_lines(series, x_label="x", y_label="y") if kind == "lines" else plot_bars(series, y_label="y")
    figure.canvas.draw()
    (legend,), (axes,) = figure.legends, figure.axes
    assert [text.get_text() for text in legend.get_texts()] == [each.name for each in series]
    assert legend.get_window_extent().y0 >= axes.bbox.y1 and axes.bbox.height > 300
    if kind == "bars":
        assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches}) == 12


@pytest.mark.parametrize(("groups", "count"), [(4, 8), (48, 1), (12, 3)])
def test_values_of_narrow_bars_and_names_of_many_groups_do_not_overlap(groups, count):
    names = [f"{number // 8}.{number % 8}" for number in range(groups)]
    figure = plot_bars([Series(f"s{number}", names, [20.5 + number] * groups) for number in range(count)], y_label="y")
    figure.canvas.draw()
    (axes,) = figure.axes
    assert len(axes.texts) == groups * count
    assert not overlap(boxes_of(axes.texts)) and not overlap(boxes_of(axes.get_xticklabels()))
    assert all(text.get_fontsize() >= 6 for text in (*axes.texts, *axes.get_xticklabels()))
    assert max(box.y1 for box in boxes_of(axes.texts)) <= axes.bbox.y1 + 1


def test_long_values_above_bars_have_room_below_the_frame():
    names, values = [str(number) for number in range(24)], [12345.5] * 24
    figure = plot_bars([Series("a", names, values)], y_label="y", number_format="{:.3f}")
    figure.canvas.draw()
    (axes,) = figure.axes
    assert max(box.y1 for box in boxes_of(axes.texts)) <= axes.bbox.y1 + 1


def test_values_of_bars_that_have_no_room_are_left_out():
    series = [Series(f"s{number}", range(12), [1.0] * 12) for number in range(12)]
    assert not plot_bars(series, y_label="y").axes[0].texts


def test_ticks_of_logarithmic_axes_are_plain_numbers_that_do_not_overlap():
    series = [Series("a", [1000, 1010, 1020, 5000, 5001], [2800, 2900, 3300, 3500, 3600])]
    figure = plot_lines(series, x_label="x", y_label="y", log_x=True, log_y=True)
    figure.canvas.draw()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1000", "5000"]
    plain = [label.get_text() for label in axes.get_yticklabels()]
    assert len(plain) > 2 and all(float(text) > 1000 for text in plain)
    between = [*axes.get_xticklabels(minor=True), *axes.get_yticklabels(minor=True)]
    assert not [label.get_text() for label in between if label.get_text()]
    # 1, 2 and 5 times a power of ten would be two ticks here.
    (axes,) = plot_lines([Series("a", [1, 2], [1000, 2000])], x_label="x", y_label="y", log_y=True).axes
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) > 2
    # Over many powers of ten, plain numbers would be too long and too many.
    (axes,) = plot_lines([Series("a", [1, 2], [1, 1e8])], x_label="x", y_label="y", log_y=True).axes
    assert all("10^" in label.get_text() for label in axes.get_yticklabels())
    # 0 has no logarithm, so the axis stays as it is.
    assert (
        plot_lines([Series("a", [0, 8], [1, 2])], x_label="x", y_label="y", log_x=True).axes[0].get_xscale() != "log"
    )


def test_positions_and_updates_are_whole_numbers():
    one = {"a": [{"update": 7, "kind": "train", "loss": 1.0}]}
    for figure in (plot_positions(np.eye(3)), plot_positions(np.ones((1, 1))), plot_curves(one)):
        figure.canvas.draw()
        low, high = figure.axes[0].get_xlim()
        ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) for tick in ticks)


def test_forty_rows_of_one_column_fit_on_a_screen():
    figure = plot_alignment(["a"], [f"token{number}" for number in range(40)], np.ones((40, 1)))
    figure.canvas.draw()
    boxes = boxes_of(figure.axes[0].get_yticklabels())
    assert figure.get_figheight() < 10 and not any(lower.y1 - 1 > upper.y0 for upper, lower in pairwise(boxes))


def test_names_of_points_cover_no_point_and_stay_in_the_frame():
    points = np.random.default_rng(0).normal(size=(14, 2))
    (axes,) = plot_points(points, [f"sentence {number}" for number in range(14)]).axes
    boxes = boxes_of(text for text in axes.texts if text.get_text())
    assert len(boxes) == 14
    for number, box in enumerate(boxes):
        assert not any(box.contains(*place) for place in axes.transData.transform(points))
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1


def test_names_of_points_near_the_edge_stay_in_the_frame():
    points = np.array([[x, y - step / 100] for x in (0, 1) for y in (0.04, 1) for step in range(5)])
    (axes,) = plot_points(points, [f"sentence {number}, a long name" for number in range(len(points))]).axes
    for box in boxes_of(text for text in axes.texts if text.get_text()):
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1


def test_names_of_one_place_are_spread_and_lines_lead_to_those_that_are_far():
    (axes,) = plot_points(np.zeros((40, 2)), [f"sentence {number}" for number in range(40)]).axes
    places = [text.get_position() for text in axes.texts if text.get_text()]
    assert len(places) == 40 and max(map(places.count, places)) <= 3
    lines = [text for text in axes.texts if text.arrow_patch is not None]
    assert len(lines) == sum(abs(height) > 14 for _, height in places) > 0


def test_a_point_without_a_place_is_left_out_with_its_name():
    (axes,) = plot_points(np.array([[0.0, np.nan], [np.inf, 1.0], [0.0, 0.0], [1.0, 1.0]]), list("abcd")).axes
    assert [text.get_text() for text in axes.texts] == ["c", "d"]


def test_a_name_covers_no_point_beside_its_own_and_stands_towards_the_middle():
    points = np.array([[0.0, 0.0], [0.1, 0.036], [0.8, 0.5], [1.0, 1.0]])
    (axes,) = plot_points(points, [f"sentence {number}" for number in range(4)]).axes
    names = [text for text in axes.texts if text.get_text()]
    places = axes.transData.transform(points)
    assert not any(box.contains(*place) for box in boxes_of(names) for place in places)
    assert [text.get_ha() for text in names] == ["left", "left", "right", "right"]
