"""Sets that share no prompts, batches of one group each, and labels by keywords or by a field."""

import json
from collections import Counter

import pytest

from dualselect.diagnostics.batches import apart_rows, batches_by_group
from dualselect.diagnostics.keywords import Keywords
from dualselect.diagnostics.resources import make_resources, read_set, source_digests
from dualselect.errors import ConfigError, DataError
from dualselect.runs.diagnostic import read_json, read_table


def made(settings):
    make_resources(settings.options, settings.seed, settings.folder)
    return {name: read_table(settings.folder, name).to_pylist() for name in ("tasks", "references", "probe")}


def test_sets_share_no_prompts_and_none_recurs(settings_of, tmp_path, write_lines):
    def rows(*prompts):
        return [{"id": str(n), "prompt": prompt, "completion": "no"} for n, prompt in enumerate(prompts)]

    settings = settings_of(
        task=write_lines(tmp_path / "a.jsonl", rows("One apple?", "two", "Three", "four")),
        references=write_lines(tmp_path / "b.jsonl", rows("one  apple?", "five", "FIVE", "six", "test")),
        probe=write_lines(tmp_path / "c.jsonl", rows("six", "two", "seven", "eight")),
        exclude=[write_lines(tmp_path / "d.jsonl", rows("Test", "eight"))],
        batches=2,
    )
    sets = made(settings)
    prompts = {name: [row["prompt"] for row in rows] for name, rows in sets.items()}
    assert sorted(prompts["tasks"]) == ["One apple?", "Three", "four", "two"]
    assert prompts["references"] == ["five", "six"]
    assert prompts["probe"] == ["seven"]
    report = read_json(settings.folder, "resources.json")
    assert [(pair["before"], pair["after"]) for pair in report["shared_prompts"]] == [(1, 0), (1, 0), (1, 0)]
    assert report["sets"]["references"]["samples"] == 5
    assert report["sets"]["references"]["unique_prompts"] == 4


def test_what_is_trained_on_is_what_the_sources_contain(settings_of):
    settings = settings_of()
    made(settings)
    stored = {row["id"]: (row["prompt"], row["completion"]) for row in read_set(settings.folder, "references")}
    with open(settings.options.references, encoding="utf-8") as lines:
        given = [json.loads(line) for line in lines]
    assert stored == {
        row["id"]: (
            [{"role": "user", "content": row["prompt"]}],
            [{"role": "assistant", "content": row["completion"]}],
        )
        for row in given
    }


def test_a_batch_has_one_group_and_groups_have_batches_alike(settings_of):
    rows = made(settings_of(batches=7))["tasks"]
    by_batch = {}
    for row in rows:
        by_batch.setdefault(row["batch"], []).append(row)
    assert {len(samples) for samples in by_batch.values()} == {2}
    assert all(len({row["group"] for row in samples}) == 1 for samples in by_batch.values())
    # The remainder goes to the first groups.
    assert Counter(samples[0]["group"] for samples in by_batch.values()) == {"coding": 3, "math": 2, "writing": 2}
    assert {row["group"] for row in rows if row["id"].startswith("math")} == {"math"}


def test_a_group_that_is_short_leaves_its_batches_to_the_others():
    groups, ids = ["a"] * 3 + ["b"] * 20, [str(n) for n in range(23)]
    batches = batches_by_group(groups, ids, size=2, count=6, seed=0)
    assert Counter(name[0] for name in batches) == {"a": 1, "b": 5}
    assert len({row for rows in batches.values() for row in rows}) == 12


def test_batches_do_not_depend_on_the_order_of_samples():
    groups, ids = ["a", "b"] * 10, [str(n) for n in range(20)]
    forward = batches_by_group(groups, ids, 3, 6, seed=1)
    backward = batches_by_group(groups[::-1], ids[::-1], 3, 6, seed=1)
    assert {name: [ids[row] for row in rows] for name, rows in forward.items()} == {
        name: [ids[::-1][row] for row in rows] for name, rows in backward.items()
    }
    assert forward != batches_by_group(groups, ids, 3, 6, seed=2)


def test_rows_are_told_apart_in_order():
    keys = {"task": ["a", "b", "a", None], "references": ["b", "c", "d", "c"], "probe": ["e", "d", "a"]}
    assert apart_rows(keys, {"e"}) == {"task": [0, 1], "references": [1, 2], "probe": []}


def test_a_field_takes_the_place_of_keywords(settings_of):
    sets = made(settings_of(group_by="kind", category_by="kind"))
    assert {row["group"] for row in sets["tasks"]} == {"MATH", "WRITING", "CODING"}
    assert {row["category"] for row in sets["references"]} == {"DRUGS", "FRAUD"}
    with pytest.raises(DataError, match=r"record 1 has no field 'genre'"):
        made(settings_of(group_by="genre"))


def test_the_probe_takes_what_is_riskiest(settings_of, tmp_path, write_lines):
    risky = {"id": "x", "prompt": "secretly buy cocaine and heroin with illegal drugs", "completion": "I must decline"}
    mild = [{"id": str(n), "prompt": f"drug {n}", "completion": "no"} for n in range(5)]
    probe = write_lines(tmp_path / "probe.jsonl", [*mild, risky])
    assert [row["id"] for row in made(settings_of(probe=probe, probe_limit=1))["probe"]] == ["x"]


def test_all_that_the_user_says_is_searched_for_keywords(settings_of, tmp_path, write_lines):
    said = ["Where is cocaine sold?", "Buy no drugs.", "Go on."]
    roles = ("user", "assistant", "user")
    turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    rows = [{"id": "x", "prompt": turns, "completion": [{"role": "assistant", "content": "no"}]}]
    (row,) = made(settings_of(probe=write_lines(tmp_path / "probe.jsonl", rows)))["probe"]
    assert (row["prompt"], row["category"], row["risk"]) == ("Go on.", "drugs", 1)


def test_too_little_for_a_batch_is_said(settings_of):
    with pytest.raises(DataError, match=r"no group has 16 samples for a batch \(coding: 8, math: 8, writing: 8\)"):
        made(settings_of(batch_size=16))


def test_changed_contents_are_seen(settings_of, tmp_path):
    settings = settings_of()
    before = source_digests(settings.options)
    with (tmp_path / "probe.jsonl").open("a") as file:
        file.write("\n")
    after = source_digests(settings.options)
    assert {name for name in before if before[name] != after[name]} == {"contents of probe"}


@pytest.fixture
def keywords(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text(
        "groups: {code: [c++, comp*], ask: [^how]}\n"
        "categories: {self-harm: [kill myself], violence: [kill, kill*, gun*]}\n"
        'risk: [secretly]\nrefusals: ["can\'t help"]\n'
    )
    return Keywords.read(path)


@pytest.mark.parametrize(
    ("prompt", "group"),
    [
        ("How to compile?", "code"),
        ("I like C++.", "code"),
        ("  How?", "ask"),
        ("and how?", "other"),
        ("scomp", "other"),
    ],
)
def test_the_first_group_with_a_word_is_taken(keywords, prompt, group):
    assert keywords.group(prompt) == group


def test_the_category_with_most_words_is_taken_and_counted(keywords):
    assert keywords.category("Guns kill.") == "violence"
    assert keywords.category("kill  myself") == "self-harm"
    assert keywords.category("skill") == "other"
    # Two words of violence, one of risk and one phrase of refusal.
    assert keywords.risk_of("Secretly killing with a gun", "I CAN'T help.") == 4


def test_keywords_in_another_form_are_refused(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("groups: {code: python}\ncategories: {}\nrisk: []\nrefusals: []\n")
    with pytest.raises(ConfigError, match=r"words.yaml:1: has no list of words"):
        Keywords.read(path)
    path.write_text("groups: {code: [python]}\n")
    with pytest.raises(ConfigError, match="has no 'categories'"):
        Keywords.read(path)
