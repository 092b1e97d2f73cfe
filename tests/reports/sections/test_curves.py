from xml.etree import ElementTree

from dualselect.reports.sections.curves import Curve, compared_plots, curves_plot, metric_plots

SVG = "{http://www.w3.org/2000/svg}"


def drawn(name="one", title="<b>loss</b> $x$"):
    return curves_plot(name, title, "nats", [Curve("task & co", 3, [1, 2, 3], [0.5, -0.5, 0.2])])


def test_colours_are_the_pages_own_and_nothing_is_styled_inline():
    svg = str(drawn().svg)
    assert 'stroke="var(--s3)"' in svg
    assert 'fill="var(--muted)"' in svg
    assert "style" not in svg
    assert "#0000" not in svg
    assert "#000000" not in svg


def test_ids_begin_with_the_figures_name_and_every_reference_is_met():
    root = ElementTree.fromstring(drawn("one").svg)
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("one-") for name in ids)
    references = [element.attrib["href"][1:] for element in root.iter() if "href" in element.attrib]
    references += [element.attrib["clip-path"][5:-1] for element in root.iter() if "clip-path" in element.attrib]
    assert references
    assert set(references) <= set(ids)


def test_a_figure_says_what_it_shows_and_its_text_stays_text():
    root = ElementTree.fromstring(drawn().svg)
    assert root[0].tag == f"{SVG}title"
    assert root[0].text == "<b>loss</b> $x$: task & co from 0.5 to 0.2"
    assert root.attrib["aria-labelledby"] == root[0].attrib["id"]
    assert "step" in [element.text for element in root.iter(f"{SVG}text")]


def test_drawing_leaves_matplotlibs_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    drawn()
    assert dict(matplotlib.rcParams) == before


def test_panels_are_those_that_have_values():
    metrics = [
        {"step": 1, "loss": 2.0, "dualselect/cosine": 0.1},
        {"step": 2, "loss": float("nan"), "eval_probe_loss": 0.4, "eval_loss": 0.3},
        {"step": 3, "train_loss": 1.0},
    ]
    plots = {plot.title: plot for plot in metric_plots(metrics)}
    assert list(plots) == ["Training loss", "Evaluation loss", "Agreement with the references"]
    assert [name for name, _, _ in plots["Evaluation loss"].legend] == ["probe", "evaluation"]
    assert metric_plots([]) == []


def test_a_single_point_is_at_its_step_and_is_a_dot_in_the_legend():
    plot = curves_plot("one", "conflict", "", [Curve("pool", 1, [12], [0.1]), Curve("chosen", 2, [12], [0.3], dash=1)])
    texts = [element.text for element in ElementTree.fromstring(plot.svg).iter(f"{SVG}text")]
    assert [text for text in texts if text.startswith(("11", "12", "13"))] == ["12"]
    assert [dash for _, _, dash in plot.legend] == [-1, -1]


def test_runs_of_a_method_share_a_line_of_the_legend():
    runs = [(method, series, [{"step": 1, "loss": 1.0}]) for method, series in (("sft", 1), ("sft", 1), ("ours", 2))]
    (plot,) = compared_plots(runs)
    assert [name for name, _, _ in plot.legend] == ["sft", "ours"]
