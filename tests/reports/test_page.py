"""The page as text: whole, self-contained, and made of nothing that data could have put there."""

import base64
import html
import json
import os
import re
import subprocess
import sys
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from dualselect.errors import DataError
from dualselect.reports import write_model_card, write_report
from dualselect.runs.results import Metric, Record, SuiteResult

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text of some."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open = f"{tag}{len([name for name, _ in self.elements if name == tag])}"
            self.texts[self._open] = ""

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open:
            self.texts[self._open] += data

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(params=["run_folder", "compare_folder"])
def text(request, tmp_path):
    folder = request.getfixturevalue(request.param)
    return write_report(folder, tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_comes_from_elsewhere(text):
    page = Page(text)
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "img", "iframe", "object", "embed", "base", "form"})
    assert page.attributes("src") == []
    assert all(value.startswith("#") for value in page.attributes("href"))
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", page.texts["style1"])


def test_the_policy_allows_only_this_style_and_this_script(text):
    page = Page(text)
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for rule, content in (("style-src", page.texts["style1"]), ("script-src", page.texts["script2"])):
        assert rules[rule] == f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"
    assert page.attributes("style") == []


def test_hostile_text_adds_no_element(text):
    page = Page(text)
    assert [attributes.get("type") for tag, attributes in page.elements if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "<b>out of memory" not in text


def test_the_data_are_all_there(text):
    data = json.loads(Page(text).texts["script1"])
    texts = {answer["text"] for row in data["rows"] for answer in row["answers"] if answer}
    assert {"<script>alert(1)</script>", "</script><img src=x onerror=alert(2)>"} <= texts


def test_ids_are_unique_and_every_link_leads_somewhere(text):
    page = Page(text)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in page.attributes("href")} <= set(ids)
    assert {name for value in page.attributes("aria-labelledby") for name in value.split()} <= set(ids)


@pytest.mark.parametrize("name", ["run_folder", "compare_folder"])
def test_a_page_is_the_same_in_another_process(name, request, tmp_path):
    folder = request.getfixturevalue(name)
    code = "import sys; from pathlib import Path; from dualselect.reports import write_report as write"
    code += "; write(*map(Path, sys.argv[1:]))"
    for seed in ("1", "2"):  # sets have another order under another seed
        asked = [sys.executable, "-c", code, str(folder), str(tmp_path / seed)]
        subprocess.run(asked, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_what_a_page_says_of_a_difference_is_what_its_interval_and_its_p_value_say(compare_folder, tmp_path):
    text = write_report(compare_folder, tmp_path / "report.html").read_text(encoding="utf-8")
    rows = re.findall(
        r'<span class="num">([^<]*) \[([^<]*), ([^<]*)\]</span><span class="verdict (\w+)">([^<]*)</span></span></td>'
        r'<td class="num" data-label="p">([^<]*)</td>',
        text,
    )
    words = set()
    for value, low, high, tone, word, p in rows:
        ends = [float(end.replace("\u2212", "-")) for end in (low, high)]
        is_shown = min(ends) > 0 or max(ends) < 0
        if "< 0.001" not in html.unescape(p):
            is_shown &= float(p) <= 0.05
        assert (word != "no difference shown") == is_shown, (value, low, high, p)
        assert (tone == "neutral") == (word == "no difference shown")
        words.add(word)
    assert words >= {"no difference shown", "better"}


def test_a_comparison_stored_by_an_earlier_version_can_still_be_read(tmp_path):
    stored = Path(__file__).parents[2] / "benchmarks" / "results" / "quality"
    rows = pq.read_table(stored / "estimates.parquet").to_pylist()
    (row,) = [row for row in rows if (row["method"], row["metric"]) == ("dualselect", "safe_nll")]
    text = write_report(stored, tmp_path / "report.html").read_text(encoding="utf-8")
    difference = f"{row['diff']:+.3f} [{row['diff_low']:+.3f}, {row['diff_high']:+.3f}]"
    assert f"{row['value']:.3f}" in text
    assert difference.replace("-", "\u2212") in text


def shown_strings(text):
    """Return all that a page says or holds: its text and attributes, and every string of its data."""

    def strings(value):
        if isinstance(value, dict):
            value = [*value, *value.values()]
        if isinstance(value, list):
            return [text for one in value for text in strings(one)]
        return [value] if isinstance(value, str) else []

    return html.unescape(text), "\n".join(strings(json.loads(Page(text).texts["script1"])))


def texts_in(folder):
    records = [record for path in folder.rglob("evaluation/*.json") for record in SuiteResult.read(path).records]
    fields = ("prompt", "answer", "expected", "baseline_answer")
    texts = {text for record in records for name in fields if (text := getattr(record, name))}
    quoted = {verdict.evidence for record in records for verdict in record.verdicts.values() if verdict.evidence}
    return {record.id for record in records}, texts, quoted


@pytest.mark.parametrize("name", ["run_folder", "compare_folder"])
def test_a_page_without_texts_has_ids_and_verdicts_but_no_prompt_answer_or_evidence(name, request, tmp_path):
    folder = request.getfixturevalue(name)
    ids, texts, quoted = texts_in(folder)
    with_texts = shown_strings(write_report(folder, tmp_path / "with.html").read_text(encoding="utf-8"))[1]
    assert all(text in with_texts for text in quoted)
    assert sum(text in with_texts for text in texts) > 0.9 * len(texts)  # of a comparison one seed is shown

    page, data = shown_strings(write_report(folder, tmp_path / "report.html", texts=False).read_text(encoding="utf-8"))
    assert [text for text in texts if text in page or text in data] == []
    assert [text for text in quoted if text in data] == []
    assert all(name in data for name in ids)
    assert {"guard", "unsafe", "refusal", "no verdict"} <= set(data.split("\n"))
    assert page.count("Texts were left out of this page") == 1


def test_what_training_took_stands_with_the_training_and_not_among_the_measures(compare_folder, tmp_path):
    text = write_report(compare_folder, tmp_path / "report.html").read_text(encoding="utf-8")
    sections = dict(re.findall(r'<section id="(\w+)"(.*?)</section>', text, re.DOTALL))
    assert [name for name, content in sections.items() if "<h3>What training took</h3>" in content] == ["curves"]
    assert [name for name, content in sections.items() if "training time in seconds" in content] == ["curves"]
    assert ">412<" in sections["curves"]


def test_a_comparison_begins_with_its_outcome(compare_folder, tmp_path):
    text = write_report(compare_folder, tmp_path / "report.html").read_text(encoding="utf-8")
    (lede,) = re.findall(r'<p class="lede">(.*?)</p>', text)
    assert lede == (
        "random, safegrad and dualselect compared with sft on the same prompts, under 3 seeds. "
        "Refusal rate (rules) on unsafe-requests: no difference shown for random; better for safegrad and dualselect. "
        "Exact match on arithmetic: no difference shown for random, safegrad and dualselect. "
        "11 of 12 runs done, 1 failed."
    )


def test_a_comparison_names_the_options_of_every_method(compare_folder, tmp_path):
    text = write_report(compare_folder, tmp_path / "report.html").read_text(encoding="utf-8")
    (panel,) = re.findall(r"<h3>Methods</h3>(.*?)</dl>", text, re.DOTALL)
    assert re.findall("<dt>(.*?)</dt>", panel) == ["sft", "random", "safegrad", "dualselect"]
    assert re.search("<dt>dualselect</dt><dd>[^<]*rho 0.3, [^<]*task_token_fraction 0.75", panel)
    assert "<dt>sft</dt><dd>no options</dd>" in panel


def test_the_report_stands_in_the_folder_unless_told_otherwise(make_run, tmp_path):
    make_run(tmp_path)
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert write_report(tmp_path, tmp_path / "deeper" / "own.html").is_file()


def test_a_run_without_anything_but_settings_says_what_is_missing(tmp_path):
    (tmp_path / "config.yaml").write_text("method: sft\n")
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "No results of an evaluation were found" in text
    for note in ("provenance.json: is missing", "metrics.jsonl: is missing", "there is no selection log"):
        assert note in text
    assert 'href="#answers"' not in text


@pytest.mark.parametrize("name", ["gone", "a-file"])
def test_what_is_not_a_folder_is_refused(tmp_path, name):
    (tmp_path / "a-file").write_text("")
    with pytest.raises(DataError, match="is not a folder"):
        write_report(tmp_path / name)


def test_answers_of_two_baselines_have_a_column_each(tmp_path):
    def write(suite, role, name):
        target = {"name": name, "hash": f"hash of {name}"}
        record = Record("p-1", "prompt", answer=f"{name} on {suite}", values={"m": 1.0})
        SuiteResult(suite, "safety", role, target, {"m": Metric("m", "higher")}, [record]).write(tmp_path)

    for suite, baseline in (("one", "first"), ("two", "second")):
        write(suite, "baseline", baseline)
        write(suite, "model", "mine")
    data = json.loads(Page(write_report(tmp_path).read_text(encoding="utf-8")).texts["script1"])
    assert [model["name"] for model in data["models"]] == ["first", "second", "mine"]
    texts = {row["suite"]: [answer and answer["text"] for answer in row["answers"]] for row in data["rows"]}
    assert texts == {"one": ["first on one", None, "mine on one"], "two": [None, "second on two", "mine on two"]}


def test_results_of_other_weights_are_neither_on_the_page_nor_on_the_card_but_named(make_run, tmp_path):
    make_run(tmp_path, "sft")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    save_file({"lora": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    record = Record("p-1", "prompt", answer="said before", values={"m": 0.625})
    target = {"name": "run", "hash": "h", "adapter": "of the weights before"}
    SuiteResult("one", "probe", "model", target, {"m": Metric("m", "higher", "nats")}, [record]).write(tmp_path)
    page, card = (write(tmp_path).read_text(encoding="utf-8") for write in (write_report, write_model_card))
    for text in (page, card):
        assert "0.625" not in text
        assert "said before" not in text
        assert "one.json: left out" in text.replace("\\", "")


def test_verdicts_are_coloured_by_what_their_labels_mean(run_folder, tmp_path):
    text = write_report(run_folder, tmp_path / "report.html").read_text(encoding="utf-8")
    tones = json.loads(Page(text).texts["script1"])["tones"]
    assert tones["refusal"] == tones["safe"] == tones["correct"]
    assert tones["unsafe"] == tones["harmful"] == tones["wrong"] != tones["safe"]
    assert all(f".chip.{tone} " in text for tone in set(tones.values()))
