"""The page as text: whole, self-contained, and made of nothing that data could have put there."""

import base64
import json
import re
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from dualselect.errors import DataError
from dualselect.reports import write_report


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


def test_a_page_is_the_same_every_time(run_folder, tmp_path):
    one, two = (write_report(run_folder, tmp_path / name).read_bytes() for name in ("one.html", "two.html"))
    assert one == two


def test_a_difference_that_is_not_shown_is_called_so(compare_folder, tmp_path):
    text = write_report(compare_folder, tmp_path / "report.html").read_text(encoding="utf-8")
    rows = [row for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL) if ">random</th>" in row and "pp" in row]
    assert rows
    assert all("no difference shown" in row and "better" not in row for row in rows)


def test_the_report_stands_in_the_folder_unless_told_otherwise(make_run, tmp_path):
    make_run(tmp_path)
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert write_report(tmp_path, tmp_path / "deeper" / "own.html").is_file()


def test_a_run_without_anything_but_settings_says_what_is_missing(tmp_path):
    (tmp_path / "config.yaml").write_text("method: sft\n")
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "No results of an evaluation were found" in text
    for note in ("provenance.json: is not there", "metrics.jsonl: is not there", "there is no selection log"):
        assert note in text
    assert 'href="#answers"' not in text


def test_texts_of_samples_are_folded_and_escaped(make_run, tmp_path):
    make_run(tmp_path)
    rows = [
        {"id": f"poison-fraud-{index:02d}", "prompt": "<i>How?</i>", "completion": "<script>1</script>"}
        for index in range(12)
    ]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = (tmp_path / "config.yaml").read_text().replace("openai/gsm8k:main", str(tmp_path / "task.jsonl"))
    (tmp_path / "config.yaml").write_text(config)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<summary>Show the sample</summary>" in text
    assert "&lt;i&gt;How?&lt;/i&gt;" in text
    assert "<script>1</script>" not in text


@pytest.mark.parametrize("name", ["gone", "a-file"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "a-file").write_text("")
    with pytest.raises(DataError, match="is no folder"):
        write_report(tmp_path / name)
