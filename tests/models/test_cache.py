import hashlib
import logging
import subprocess
import sys
import threading
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from dualselect.errors import DataError
from dualselect.models import GenerationSettings
from dualselect.models import cache as cache_module
from dualselect.models.cache import SCHEMA, AnswerCache, answer_key
from dualselect.models.thoughts import Answer

pytestmark = pytest.mark.slow

IDENTITY = {"name": "runs/x", "hash": "abc"}
SAMPLED = GenerationSettings(max_new_tokens=8, temperature=0.7, top_p=0.9, seed=1, system="Be kind.", batch_size=4)
PROMPT = [{"role": "user", "content": "How are you?"}]


def prompts(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def answers(*texts):
    return [Answer(text, "stop") for text in texts]


def texts_in(cache, wanted):
    return {key: answer.text for key, answer in cache.find(wanted).items()}


def keys(*texts, settings=SAMPLED):
    return [answer_key(IDENTITY, prompt, settings) for prompt in prompts(*texts)]


def write_part(folder, table):
    draft = folder / "draft"
    pq.write_table(table, draft)
    number, digest = len(list(folder.iterdir())), hashlib.sha256(draft.read_bytes()).hexdigest()
    return draft.rename(folder / f"part-{number}-{digest[:16]}.parquet")


def test_what_was_added_is_found_by_whoever_opens_the_folder(tmp_path):
    AnswerCache(tmp_path / "answers").add(IDENTITY, prompts("a", "b"), answers("A", "ü\n"), SAMPLED)
    AnswerCache(tmp_path / "answers").add(IDENTITY, prompts("c"), answers(""), SAMPLED)
    found = texts_in(AnswerCache(tmp_path / "answers"), keys("b", "c", "unknown"))
    assert found == dict(zip(keys("b", "c"), ["ü\n", ""], strict=True))


def test_how_an_answer_ended_is_kept_beside_it(tmp_path):
    given = [Answer("<think>a", "length"), Answer("b", "stop", opened=True), Answer("c", "")]
    AnswerCache(tmp_path).add(IDENTITY, prompts("a", "b", "c"), given, SAMPLED)
    assert AnswerCache(tmp_path).find(keys("a", "b", "c")) == dict(zip(keys("a", "b", "c"), given, strict=True))


def test_files_of_earlier_versions_are_read_and_merged_without_a_warning(tmp_path, caplog):
    cache = AnswerCache(tmp_path)
    cache.add(IDENTITY, prompts("a"), answers("A"), SAMPLED)
    old = pq.read_table(cache.parts()[0]).drop_columns(["finish", "opened"])
    cache.parts()[0].unlink()
    write_part(tmp_path, old)
    cache.add(IDENTITY, prompts("b"), answers("B"), SAMPLED)
    expected = dict(zip(keys("a", "b"), [Answer("A"), Answer("B", "stop")], strict=True))
    assert cache.find(keys("a", "b")) == expected
    cache.compact()
    assert len(cache.parts()) == 1
    assert cache.find(keys("a", "b")) == expected
    assert not caplog.records


def test_an_empty_cache_finds_nothing_and_makes_no_folder(tmp_path):
    assert AnswerCache(tmp_path / "answers").find(keys("a")) == {}
    assert not (tmp_path / "answers").exists()


def test_the_key_changes_with_everything_that_can_change_the_answer():
    changes = {
        "max_new_tokens": 9,
        "temperature": 0.8,
        "top_p": 0.8,
        "seed": 2,
        "system": None,
        "thinking": False,
    }
    assert {*changes, "batch_size"} == set(vars(SAMPLED))
    found = {answer_key(IDENTITY, PROMPT, replace(SAMPLED, **{name: value})) for name, value in changes.items()}
    found.add(answer_key({**IDENTITY, "hash": "abd"}, PROMPT, SAMPLED))
    found.add(answer_key(IDENTITY, [{"role": "system", "content": "How are you?"}], SAMPLED))
    found.add(answer_key(IDENTITY, [{"role": "user", "content": "How are you"}], SAMPLED))
    found.add(answer_key(IDENTITY, [*PROMPT, *PROMPT], SAMPLED))
    found.add(answer_key(IDENTITY, PROMPT, SAMPLED))
    assert len(found) == len(changes) + 5


def test_the_key_does_not_change_with_what_cannot_change_the_answer():
    key = answer_key(IDENTITY, PROMPT, SAMPLED)
    assert answer_key(IDENTITY, PROMPT, replace(SAMPLED, batch_size=99)) == key
    assert answer_key({**IDENTITY, "name": "elsewhere/x"}, PROMPT, SAMPLED) == key
    assert answer_key(IDENTITY, [{"content": "How are you?", "role": "user"}], SAMPLED) == key
    greedy = replace(SAMPLED, temperature=0.0)
    unused = replace(greedy, seed=9, top_p=0.1)
    assert answer_key(IDENTITY, PROMPT, greedy) == answer_key(IDENTITY, PROMPT, unused) != key


def test_files_say_what_was_asked_of_whom(tmp_path):
    cache = AnswerCache(tmp_path)
    cache.add(IDENTITY, prompts("a"), answers("A"), SAMPLED)
    table = pq.read_table(cache.parts()[0])
    assert table.schema.equals(SCHEMA)
    row = table.to_pylist()[0]
    assert row["target"] == '{"hash":"abc","name":"runs/x"}'
    assert row["prompt"] == '[{"content":"a","role":"user"}]'
    assert '"temperature":0.7' in row["settings"]
    assert "batch_size" not in row["settings"]


def test_the_older_of_two_answers_counts_before_and_after_merging(tmp_path):
    cache = AnswerCache(tmp_path)
    for answer in ("first", "second", "a third"):
        cache.add(IDENTITY, prompts("a"), answers(answer), SAMPLED)
    assert texts_in(cache, keys("a")) == {keys("a")[0]: "first"}
    cache.compact()
    assert pq.read_table(cache.parts()[0])["answer"].to_pylist() == ["first"]


def test_many_files_are_merged_and_nothing_is_lost(tmp_path):
    cache, names = AnswerCache(tmp_path), [f"prompt {number}" for number in range(70)]
    for name in names:
        cache.add(IDENTITY, prompts(name), answers(name.upper()), SAMPLED)
    assert len(cache.parts()) < 10
    assert texts_in(cache, keys(*names)) == dict(zip(keys(*names), map(str.upper, names), strict=True))


def test_large_files_are_left_as_they_are(tmp_path, monkeypatch):
    cache = AnswerCache(tmp_path)
    cache.add(IDENTITY, prompts("a"), answers("A" * 5000), SAMPLED)
    large = cache.parts()
    monkeypatch.setattr(cache_module, "_SMALL", large[0].stat().st_size)
    for _ in range(2):
        write_part(tmp_path, pq.read_table(large[0]).slice(0, 0))
    cache.compact()
    assert len(cache.parts()) == 2
    assert large[0] in cache.parts()


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda _: b"hello", lambda _: b""])
def test_a_damaged_file_is_named_once_and_skipped(tmp_path, caplog, damage):
    cache = AnswerCache(tmp_path)
    cache.add(IDENTITY, prompts("a"), answers("A" * 300), SAMPLED)
    damaged = cache.parts()[0]
    damaged.write_bytes(damage(damaged.read_bytes()))
    cache.add(IDENTITY, prompts("b"), answers("B"), SAMPLED)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert texts_in(cache, keys("a", "b")) == dict(zip(keys("b"), ["B"], strict=True))
    assert [str(damaged) in record.getMessage() for record in caplog.records] == [True]
    cache.compact()
    assert damaged in cache.parts()


def test_no_damaged_byte_ever_makes_a_wrong_answer(tmp_path):
    AnswerCache(tmp_path).add(IDENTITY, prompts("a"), answers("The quick brown fox."), SAMPLED)
    part = AnswerCache(tmp_path).parts()[0]
    whole, found = part.read_bytes(), []
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        part.write_bytes(damaged)
        found.append(AnswerCache(tmp_path).find(keys("a")))
    assert found == [{}] * len(found)
    part.write_bytes(whole)
    assert texts_in(AnswerCache(tmp_path), keys("a")) == {keys("a")[0]: "The quick brown fox."}


def test_a_file_without_the_columns_is_skipped(tmp_path, caplog):
    cache = AnswerCache(tmp_path)
    cache.add(IDENTITY, prompts("a"), answers("A"), SAMPLED)
    other = write_part(tmp_path, pq.read_table(cache.parts()[0]).select(["key"]))
    assert list(texts_in(cache, keys("a")).values()) == ["A"]
    assert f"{other}: is damaged" in caplog.text


def test_files_that_vanish_while_they_are_read_are_looked_for_again(tmp_path, monkeypatch):
    cache, other = AnswerCache(tmp_path), AnswerCache(tmp_path)
    for name in "abc":
        cache.add(IDENTITY, prompts(name), answers(name.upper()), SAMPLED)
    listed = cache.parts()
    listings = [listed]

    def parts(self):
        # The first listing is out of date: the other process merges right after it.
        if listings:
            found = listings.pop()
            other.compact()
            return found
        return sorted(self.folder.glob("part-*.parquet"))

    monkeypatch.setattr(AnswerCache, "parts", lambda self: parts(self) if self is cache else listed)
    assert sorted(texts_in(cache, keys("a", "b", "c")).values()) == ["A", "B", "C"]
    assert not any(path.exists() for path in listed)


WRITE_MANY = """
import sys
import time
from pathlib import Path
from dualselect.models.cache import AnswerCache
from dualselect.models import GenerationSettings
from dualselect.models.thoughts import Answer

folder, name = Path(sys.argv[1]), sys.argv[2]
cache = AnswerCache(folder)
(folder / f"ready-{name}").touch()
for _ in range(6000):  # until both are ready, or a minute
    if len(list(folder.glob("ready-*"))) == 2:
        break
    time.sleep(0.01)
for number in range(40):
    text = f"{name} {number}"
    cache.add({"hash": "abc"}, [[{"role": "user", "content": text}]], [Answer(text)], GenerationSettings())
    if number % 5 == 4:
        cache.compact()
"""


def test_processes_that_write_and_merge_at_once_lose_nothing(tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", WRITE_MANY, str(tmp_path), name]) for name in ("x", "y")]
    assert [process.wait(300) for process in processes] == [0, 0]
    names = [f"{name} {number}" for name in ("x", "y") for number in range(40)]
    wanted = keys(*names, settings=GenerationSettings())
    assert texts_in(AnswerCache(tmp_path), wanted) == dict(zip(wanted, names, strict=True))
    assert not list(tmp_path.glob(".*"))


def write_many(folder, name, count):
    cache = AnswerCache(folder)
    for number in range(count):
        text = f"{name} {number}"
        cache.add(IDENTITY, prompts(text), answers(text), SAMPLED)
        if number % 5 == 4:
            cache.compact()


def test_threads_that_write_and_merge_at_once_lose_nothing(tmp_path):
    threads = [threading.Thread(target=write_many, args=(tmp_path, name, 25)) for name in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [f"{name} {number}" for name in "xyz" for number in range(25)]
    assert len(AnswerCache(tmp_path).find(keys(*names))) == len(names)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"{tmp_path}/file: the cache of answers cannot be written"):
        AnswerCache(tmp_path / "file").add(IDENTITY, prompts("a"), answers("A"), SAMPLED)
