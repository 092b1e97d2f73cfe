import json
from pathlib import Path

import pytest

import dualselect
from dualselect.data import prompt_key
from dualselect.errors import ConfigError
from dualselect.evaluation.suites import SUITES, get_suite, load, suite_rows

QUICKSTART = Path(dualselect.__file__).parent / "quickstart" / "data"


def test_an_unknown_suite_is_an_error_with_the_nearest_name():
    with pytest.raises(ConfigError, match="unknown suite 'gsm8'; did you mean 'gsm8k'"):
        get_suite("gsm8")


def test_every_suite_says_where_it_comes_from():
    rows = {row.name: row for row in suite_rows()}
    assert list(rows) == list(SUITES)
    for name, suite in SUITES.items():
        sources = [suite.source, suite.embedded, suite.advice]
        assert sum(map(bool, sources)) == 1, name
        assert rows[name].licence
        assert suite.citation or suite.source is None, name
        assert rows[name].source
    assert rows["builtin-safety"].source == "built in"
    assert "--data safe-answers=PATH" in rows["safe-answers"].source


def test_the_built_in_suites_are_balanced_and_held_out_from_the_quickstart():
    unsafe, benign = (load(get_suite(name)) for name in ("builtin-safety", "builtin-overrefusal"))
    trained = {
        prompt_key(json.loads(line)["prompt"])
        for path in QUICKSTART.glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    for loaded in (unsafe, benign):
        keys = {prompt_key(sample.prompt) for sample in loaded.samples}
        assert len(keys) == len(loaded.samples) == 24
        assert not keys & trained
        categories = [sample.category for sample in loaded.samples]
        assert {categories.count(name) for name in set(categories)} == {4}
        assert len(set(categories)) == 6
    assert load(get_suite("builtin-safe-answers")).samples == unsafe.samples
    assert unsafe.source == "dualselect/unsafe.jsonl"
