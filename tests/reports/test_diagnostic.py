"""The page and the figure of a diagnostic, from files as `dualselect diagnose` leaves them."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from dualselect.cli import report
from dualselect.errors import DataError
from dualselect.reports import write_figure, write_model_card, write_report
from dualselect.reports.diagnostic_figure import draw_panels, panels_of, size_of
from dualselect.reports.sections.diagnostic_panels import Scale, heatmap_grid
from dualselect.reports.svg import drawing, paper
from dualselect.runs.diagnostic import STAGES_FILE, TASK_ONLY, Rollout, write_json, write_rollouts, write_table
from dualselect.runs.diagnostic_folder import read_diagnostic

pytestmark = pytest.mark.slow

STRATEGIES = {
    "task-conditioned": (0.42, 0.18),
    "static-conflict": (1.0, 1.0),
    "periodic-random": (0.0041, 0.0039),
    "a-strategy-with-a-long-name": (0.3, 0.3),
}
GROUPS = ["coding", "math", "reasoning and planning"]
CATEGORIES = ["drugs", "fraud", "privacy", "self-harm", "sexual content", "violence"]
NAN = float("nan")


def overlap_rows():
    rows = []
    for strategy, (within, across) in STRATEGIES.items():
        p = NAN if within == 1 else 0.0123
        for scope, value, expected in (("within", within, 0.004), ("across", across, 0.004)):
            rows.append((strategy, scope, "", 400, value, expected, 0.001, 0.004, 0.0003))
        rows.append((strategy, "difference", "", 400, within - across, 0.0, p, 0.0, 0.01))
        rows.append((strategy, "within", "coding", 78, 0.777, 0.004, 0.001, 0.004, 0.0003))
    names = ("strategy", "scope", "group", "pairs", "jaccard", "expected", "p_value", "null_mean", "null_std")
    return [dict(zip(names, row, strict=True)) for row in rows]


def heatmap_rows():
    counts = {group: [10, 20, 30, 5, 1, 34 + 10 * place] for place, group in enumerate(GROUPS)}
    return [
        {"strategy": strategy, "group": group, "category": category, "count": count, "share": count / sum(row)}
        for strategy in STRATEGIES
        for group, row in counts.items()
        for category, count in zip(CATEGORIES, row, strict=True)
    ]


def reduction_row(strategy, correction, mean, low, high, difference=None):
    """Return a row whose difference is given as (value, low, high), or not at all for the leading strategy."""
    value, below, above = difference or (None, None, None)
    return {
        "strategy": strategy,
        "correction": correction,
        "n": 16,
        **{"mean": mean, "low": low, "high": high, "median": mean, "p90": mean, "wins": 0.75},
        **{"difference": value, "difference_low": below, "difference_high": above},
        "p_value": None if difference is None else 0.2,
    }


REDUCTIONS = [
    reduction_row("task-conditioned", "preserve-kl", 0.0031, 0.0024, 0.0038),
    reduction_row("static-conflict", "preserve-kl", 0.0026, 0.0011, 0.0040, (-0.0005, -0.0015, 0.0004)),
    reduction_row("periodic-random", "preserve-kl", 0.0009, -0.0001, 0.0019, (-0.0022, -0.0032, -0.0012)),
    reduction_row("a-strategy-with-a-long-name", "preserve-kl", 0.0091, 0.0081, 0.0099, (0.006, 0.005, 0.007)),
]


@pytest.fixture
def folder(tmp_path):
    """A finished diagnostic."""
    write_json(tmp_path, STAGES_FILE, {"resources": {"key": "x", "done": True, "seconds": 2.5}, "figure": {"key": "x"}})
    sets = {
        name: {"source": name, "split": "train", "samples": 90, "used": 48, labels: {"a": 40, "b": 8}}
        for name, labels in (("task", "groups"), ("references", "categories"), ("probe", "categories"))
    }
    shared = [{"sets": ["task", "references"], "before": 7, "after": 0}]
    batches = {"size": 8, "by_group": {"coding": 2, "math": 4}}
    write_json(tmp_path, "resources.json", {"sets": sets, "batches": batches, "shared_prompts": shared})
    write_json(tmp_path, "projection.json", {"sketch_size": 512, "johnson_lindenstrauss": {"mean": 0.0312}})
    test = {"chi2": 99.5, "dof": 10, "p_value": 1e-12, "permutation_p_value": 0.004, "cramers_v": 0.234}
    write_json(tmp_path, "heatmap.json", dict.fromkeys(STRATEGIES, test))
    (tmp_path / "config.yaml").write_text("model_name_or_path: some/model\nseed: 7\ntask: <script>alert(1)</script>\n")
    write_json(tmp_path, "provenance.json", {"packages": {"torch": "2.9.0"}, "python": "3.11"})
    write_table(tmp_path, "overlap", overlap_rows())
    write_table(tmp_path, "heatmap", heatmap_rows())
    write_table(tmp_path, "reductions", REDUCTIONS)
    kls = [(0.002, 0.01), (0.002, 0.02)]
    alone = [Rollout(TASK_ONLY, "", f"b{n}", "g", *kl, None, 2.0, 1.9, 3, None, None) for n, kl in enumerate(kls)]
    write_rollouts(tmp_path, alone)
    return tmp_path


class Page(HTMLParser):
    """A page as a browser reads it: its elements, the rows of its tables, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data

    def row(self, name, columns):
        """Return the cells of the row that begins with a name, in the table of so many columns."""
        return next(row[1:] for row in self.rows if row[0] == name and len(row) == columns)


@pytest.fixture
def page(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


# The page.


def test_the_page_says_what_the_tables_say(page):
    assert page.row("task-conditioned", 6) == ["0.420", "0.180", "+0.240", "0.012", "0.004"]
    assert page.row("static-conflict", 6) == ["1.000", "1.000", "0.000", "–", "0.004"]
    assert page.row("math", 7) == ["9%", "18%", "27%", "5%", "1%", "40%"]
    found = page.row("periodic-random", 9)
    assert found[1:4] == ["+0.90 [\u22120.10, +1.90]", "+0.90", "+0.90"]
    assert found[4:] == ["75%", "16", "\u22122.20 [\u22123.20, \u22121.20]", "0.200"]
    assert page.row("task-conditioned", 9)[-2:] == ["–", "–"]


def test_the_outcome_is_said_in_words_that_the_intervals_bear_out(page):
    said = " ".join(page.text.split())
    assert "a Jaccard index of 0.420 within a task group and 0.180 across groups (p of the difference 0.012)" in said
    assert "Cramér's V 0.23, p 0.004 by permutation" in said
    assert "reduce the KL on the probe by +3.10 [+2.40, +3.80], in 10⁻³ nats per token (preserve-kl)" in said
    assert (
        "Compared with it, no difference shown: static-conflict; less: periodic-random; more: "
        "a-strategy-with-a-long-name." in said
    )
    assert "3 steps on a batch alone move the KL from 0.002 to 0.015 nats per token, mean over 2 batches." in said


def test_the_page_shows_what_it_was_made_from(page):
    for text in ("6 batches of 8", "48 references", "seed 7", "7, of which 0 are left", "0.0312", "done in 2.5 s"):
        assert text in page.text
    assert "not done" in page.text  # the figure


def test_the_page_is_whole_and_hostile_text_adds_no_element(page, folder):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for tag, attributes in page.elements if tag == "a"}
    assert links <= set(ids)
    assert {"diagnostic", "settings"} <= links
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert [tag for tag, _ in page.elements if tag in ("img", "link")] == []
    assert "<script>alert" not in (folder / "report.html").read_text(encoding="utf-8")
    drawn = re.findall(r'(?:fill|stroke)="(#[0-9a-f]+)"', (folder / "report.html").read_text(encoding="utf-8"))
    assert drawn == [], "a colour that does not follow light and dark"


def test_an_unfinished_diagnostic_has_a_page_that_says_what_is_missing(tmp_path, capsys):
    write_json(tmp_path, STAGES_FILE, {"resources": {"key": "x", "done": False}})
    assert report.run([str(tmp_path)]) == 0
    text = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert "Nothing has been measured yet" in text
    assert "overlap.parquet: is missing" in text
    assert write_figure(tmp_path) == []


def test_a_table_that_cannot_be_read_becomes_a_note(folder):
    (folder / "overlap.parquet").write_bytes(b"PAR1 and no more")
    text = write_report(folder).read_text(encoding="utf-8")
    assert "overlap.parquet: could not be read" in text
    assert "Overlap of choices" not in text
    assert "Reduction of the KL" in text


def test_a_diagnostic_has_no_model_card(folder):
    with pytest.raises(DataError, match="is a diagnostic, which makes no model"):
        write_model_card(folder)


# The figure.


def test_the_figure_has_three_formats_with_text_and_no_pixels_and_is_the_same_again(folder):
    paths = write_figure(folder)
    assert [path.name for path in paths] == ["figure.pdf", "figure.svg", "figure.png"]
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_figure(folder)] == before
    svg = before[1].decode()
    assert "<image" not in svg
    for text in (*STRATEGIES, *GROUPS, *CATEGORIES, "(a) Overlap", "(b) Safety", "(c) KL"):
        assert f">{text}" in svg, text
    assert b"/Subtype /Image" not in before[0]
    assert re.search(rb"/Font", before[0])


@pytest.mark.parametrize("corrections", [1, 5])
def test_nothing_written_in_the_figure_overlaps(folder, corrections, monkeypatch):
    names = ["preserve-kl", "additive-loss", "align-ref", "project-conflict", "remove-conflict"][:corrections]
    write_table(folder, "reductions", [row | {"correction": name} for name in names for row in REDUCTIONS])
    content = read_diagnostic(folder)
    with drawing(*size_of(content), paper()) as figure:
        draw_panels(figure, panels_of(content), paper())
        canvas, drawn, draw = FigureCanvasAgg(figure), {}, Text.draw
        canvas.draw()  # which lays everything out
        monkeypatch.setattr(Text, "draw", lambda self, *args: (drawn.setdefault(self), draw(self, *args)))
        canvas.draw()
        level = [text for text in drawn if text.get_text() and text.get_visible() and not text.get_rotation()]
        boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in level]
        assert len(boxes) > 40
        for place, (one, box) in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0, one
            assert box.x1 <= figure.bbox.x1, one
            assert figure.bbox.y0 <= box.y0, one
            assert box.y1 <= figure.bbox.y1, one
            for other, there in boxes[place + 1 :]:
                assert not box.overlaps(there), (one, other)


def test_a_panel_without_results_is_left_out(folder):
    (folder / "reductions.parquet").unlink()
    assert [panel.title for panel in panels_of(read_diagnostic(folder))] == [
        "Overlap of chosen references",
        "Safety categories by task group, %",
    ]


# Units and the grid.


@pytest.mark.parametrize(
    ("values", "unit", "text"),
    [
        ([0.31, -0.02], "nats per token", "+0.310"),
        ([0.0123, None], "10⁻³ nats per token", "+12.3"),
        ([0.001, float("nan")], "10⁻³ nats per token", "+1.00"),
        ([-0.00025, 0.0001], "10⁻⁶ nats per token", "-250"),
        ([0.0], "nats per token", "0.000"),
        ([], "nats per token", "–"),
    ],
)
def test_reductions_are_shown_in_a_unit_in_which_they_can_be_read(values, unit, text):
    scale = Scale.of(values)
    assert (scale.unit, scale.text(values[0] if values else None)) == (unit, text)


def test_a_category_that_a_group_never_got_has_a_share_of_zero():
    rows = [
        {"strategy": "s", "group": "a", "category": "x", "share": 1.0},
        {"strategy": "s", "group": "b", "category": "y", "share": 1.0},
        {"strategy": "t", "group": "c", "category": "z", "share": 1.0},
    ]
    assert heatmap_grid(rows, "s") == (["a", "b"], ["x", "y"], [[1.0, 0.0], [0.0, 1.0]])
