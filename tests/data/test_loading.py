"""Every form and kind of file gives the same samples; what cannot be used is named by file, line and field."""

import re
from fnmatch import fnmatch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from datasets.data_files import get_data_patterns

from dualselect.data import load_samples, load_with_form, records, refuse_undesired
from dualselect.errors import DataError

QUESTION, ANSWER = "How many legs, all told?", "Eight.\nA spider has eight."


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


FORMS = {
    "prompt-completion": {"prompt": QUESTION, "completion": ANSWER},
    "prompt-completion as messages": {"prompt": [user(QUESTION)], "completion": [assistant(ANSWER)]},
    "messages": {"messages": [user(QUESTION), assistant(ANSWER)]},
    "preference": {"prompt": QUESTION, "chosen": ANSWER, "rejected": "No."},
    "preference as messages": {"prompt": [user(QUESTION)], "chosen": [assistant(ANSWER)], "rejected": [assistant("-")]},
    "preference as whole conversations": {"chosen": [user(QUESTION), assistant(ANSWER)], "rejected": [user("-")]},
    "preference as transcripts": {"chosen": f"\n\nHuman: {QUESTION}\n\nAssistant: {ANSWER}", "rejected": ""},
    "instruction": {"instruction": QUESTION, "output": ANSWER},
    "instruction with empty input": {"instruction": QUESTION, "input": "", "output": ANSWER},
    "question-answer": {"question": QUESTION, "answer": ANSWER},
    "instruction with blank input": {"instruction": QUESTION, "input": " ", "output": ANSWER},
    "instruction-response": {"instruction": QUESTION, "context": "", "response": ANSWER},
    "ShareGPT": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
    "ShareGPT as messages": {"conversations": [user(QUESTION), assistant(ANSWER)]},
    "messages with parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}, assistant(ANSWER)]
    },
    "query-response": {"query": QUESTION, "response": ANSWER},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_sample_and_id(write, form):
    loaded = load_with_form(write("data.jsonl", [FORMS[form]]))
    assert loaded.form.name == re.split(r" (?:as|with) ", form)[0]
    (sample,) = loaded.dataset
    assert sample["prompt"] == [user(QUESTION)]
    assert sample["completion"] == [assistant(ANSWER)]
    assert sample["id"] == load_samples(write("other.jsonl", [FORMS["messages"]]))["id"][0]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_samples(write, kind):
    records = [{"prompt": f'Q{n}, "quoted",\nnew line é', "completion": f"A{n}", "category": "c"} for n in range(5)]
    expected = load_samples(write("reference.jsonl", records)).remove_columns(["row", "source"])
    found = load_samples(write(f"data.{kind}", records))
    assert found.remove_columns(["row", "source"]).to_list() == expected.to_list()
    assert found["category"][0] == "c"


def test_a_folder_is_its_files_in_order_or_those_of_the_split(write, tmp_path):
    for name, text in (("b.jsonl", "second"), ("a.json", "first")):
        write(f"plain/{name}", [{"prompt": text, "completion": "x"}])
    assert [turns[0]["content"] for turns in load_samples(str(tmp_path / "plain"))["prompt"]] == ["first", "second"]
    for name in ("train-00.jsonl", "train-01.jsonl", "test.jsonl"):
        write(f"split/{name}", [{"prompt": name, "completion": "x"}])
    assert len(load_samples(str(tmp_path / "split"))) == 2
    assert len(load_samples(str(tmp_path / "split"), split="test")) == 1
    with pytest.raises(DataError, match="split 'dev'; there are files for test, train"):
        load_samples(str(tmp_path / "split"), split="dev")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("gsm_train.jsonl", "train"),
        ("my-training_2.jsonl", "train"),
        ("gsm_test.jsonl", "test"),
        ("testing.v1.jsonl", "test"),
        ("a.eval.jsonl", "test"),
        ("x dev 3.jsonl", "validation"),
        ("val7.jsonl", "validation"),
        ("contest.jsonl", None),
        ("evaluated_trained.jsonl", None),
    ],
)
def test_files_are_of_the_splits_that_load_dataset_finds_in_their_names(write, tmp_path, name, split):
    for file in (name, "other.jsonl"):
        write(f"folder/{file}", [{"prompt": file, "completion": "x"}])
    patterns = get_data_patterns(str(tmp_path / "folder"))
    theirs = {str(found) for found, globs in patterns.items() if any(fnmatch(f"folder/{name}", glob) for glob in globs)}
    assert theirs == {split or "train"}
    read = load_samples(str(tmp_path / "folder"), split=split or "train")
    assert [turns[0]["content"] for turns in read["prompt"]] == ([name] if split else sorted([name, "other.jsonl"]))


def test_files_that_are_not_read_are_named(write, tmp_path, monkeypatch):
    for name in ("gsm_train.jsonl", "gsm_test.jsonl", "extra.jsonl"):
        write(f"folder/{name}", [{"prompt": name, "completion": "x"}])
    for name in ("notes.txt", "README.md", "dataset_infos.json", "more/deep.jsonl"):
        write(f"folder/{name}", "{}")
    warnings = []
    monkeypatch.setattr(records._logger, "warning", warnings.append)
    assert len(load_samples(str(tmp_path / "folder"))) == 1
    (warning,) = warnings
    assert warning.endswith("not read: extra.jsonl, gsm_test.jsonl, more, notes.txt")


def test_a_file_named_after_two_splits_is_refused(write, tmp_path):
    write("folder/train_dev.jsonl", [{"prompt": "a", "completion": "x"}])
    with pytest.raises(DataError, match=r"train_dev\.jsonl: is named after the splits train and validation"):
        load_samples(str(tmp_path / "folder"))


def test_a_parquet_column_given_twice_is_refused(tmp_path):
    columns = [pa.array([text]) for text in ("the question", "a leftover", "the answer")]
    pq.write_table(pa.Table.from_arrays(columns, names=["prompt", "prompt", "completion"]), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"bad\.parquet: two columns have the same name"):
        load_samples(str(tmp_path / "bad.parquet"))


def test_an_instruction_with_input_asks_both(write):
    record = {"instruction": "Translate.", "input": "Hund", "output": "dog"}
    (sample,) = load_samples(write("data.jsonl", [record]))
    assert sample["prompt"][0]["content"] == "Translate.\n\nHund"


SYSTEM = {"role": "system", "content": "Be kind."}
EARLIER = [user("a"), assistant("b")]

SURROUNDED = {
    "context": ({"question": "c", "context": "The cat sleeps.", "answer": "d"}, [user("The cat sleeps.\n\nc")]),
    "context of dolly": ({"instruction": "c", "context": "Cats.", "response": "d"}, [user("Cats.\n\nc")]),
    "system": ({"question": "c", "system": "Be kind.", "answer": "d"}, [SYSTEM, user("c")]),
    "system_prompt": ({"question": "c", "system_prompt": "Be kind.", "answer": "d"}, [SYSTEM, user("c")]),
    "the same system twice": (
        {"system": "Be kind.", "messages": [SYSTEM, user("c"), assistant("d")]},
        [SYSTEM, user("c")],
    ),
    "history": (
        {"instruction": "c", "system": "Be kind.", "history": [["a", "b"]], "output": "d"},
        [SYSTEM, *EARLIER, user("c")],
    ),
    "nothing": ({"prompt": "c", "system": "", "history": [], "context": None, "completion": "d"}, [user("c")]),
}


@pytest.mark.parametrize("case", SURROUNDED)
def test_what_surrounds_a_prompt_is_part_of_it(write, case):
    record, prompt = SURROUNDED[case]
    loaded = load_with_form(write("data.jsonl", [record]))
    assert loaded.dataset[0]["prompt"] == prompt
    assert loaded.dataset[0]["completion"] == [assistant("d")]
    assert loaded.ignored == ()


def test_fields_that_are_not_read_are_reported(write):
    rows = [
        {"id": "a", "prompt": "q", "completion": "a", "category": "c", "label": True, "score": 3, "note": None},
        {"id": "b", "prompt": "q", "completion": "b", "category": "c", "weight": 1.0, "origin": "web", "tools": []},
    ]
    assert load_with_form(write("data.jsonl", rows)).ignored == ("score", "origin")


def test_whole_characters_outside_the_basic_plane_are_read(write):
    row = '{"id": "\\ud83e\\udd86", "category": "\\ud83e\\udd86s", "prompt": "a", "completion": "b"}'
    (sample,) = load_samples(write("data.jsonl", row))
    assert (sample["id"], sample["category"]) == ("\U0001f986", "\U0001f986s")


@pytest.mark.parametrize("nothing", ["", " \n", "\u200b"])
def test_a_system_message_may_say_nothing(write, nothing):
    turns = [{"from": "system", "value": nothing}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    (sample,) = load_samples(write("data.jsonl", [{"conversations": turns}]))
    assert sample["prompt"] == [{"role": "system", "content": ""}, user("a")]


def test_earlier_turns_may_be_marked_as_not_learned(write):
    turns = [user("a"), {**assistant("b"), "weight": 0}, user("c"), {**assistant("d"), "weight": 1}]
    (sample,) = load_samples(write("data.jsonl", [{"messages": turns}]))
    assert sample["completion"] == [assistant("d")]


def test_a_longer_conversation_ends_in_its_last_answer(write):
    turns = [{"role": "system", "content": "Be kind."}, user("a"), assistant("b"), user("c"), assistant("d")]
    (sample,) = load_samples(write("data.jsonl", [{"messages": turns}]))
    assert sample["prompt"] == turns[:-1]
    assert sample["completion"] == turns[-1:]


def test_own_ids_are_kept_and_others_come_from_the_content(write):
    own = load_samples(write("own.jsonl", [{"id": 7, "prompt": "a", "completion": "b"}]))
    assert own["id"][:] == ["7"]
    rows = [{"prompt": "a", "completion": text} for text in ("b", "c", "b")]
    first = load_samples(write("first.jsonl", rows))["id"][:]
    moved = load_samples(write("moved.jsonl", rows[::-1]))["id"][:]
    assert len(set(first)) == 3
    assert set(first) == set(moved)
    assert first[2] == f"{first[0]}-2"


def test_a_limit_draws_by_seed_and_id_whatever_the_order(write):
    rows = [{"prompt": f"q{n}", "completion": "a"} for n in range(50)]
    straight = load_samples(write("a.jsonl", rows), limit=10, seed=1)
    backwards = load_samples(write("b.jsonl", rows[::-1]), limit=10, seed=1)
    assert len(straight) == 10
    assert set(straight["id"]) == set(backwards["id"])
    assert set(straight["id"]) != set(load_samples(write("a.jsonl", rows), limit=10, seed=2)["id"])
    assert straight["row"][:] == sorted(straight["row"])
    assert len(load_samples(write("a.jsonl", rows), limit=99)) == 50


def test_references_alone_may_lack_the_answer(write):
    source = write("data.jsonl", [{"prompt": "a"}, {"prompt": "b", "completion": "c"}])
    assert load_samples(source, role="references")["completion"][:] == [None, [assistant("c")]]
    with pytest.raises(DataError, match=r"data\.jsonl:1: field 'completion' is missing"):
        load_samples(source)


GOOD = '{"prompt": "a", "completion": "b"}\n'

BAD = {
    "not JSON": (GOOD + '{"prompt": \n', r"bad\.jsonl:2: not valid JSON"),
    "no record": (GOOD + "[1]\n", r"bad\.jsonl:2: contains a list instead of a record"),
    "missing field": (GOOD + '{"prompt": "a"}\n', r"bad\.jsonl:2: field 'completion' is missing"),
    "null field": (GOOD + '{"prompt": "a", "completion": null}\n', r"bad\.jsonl:2: field 'completion' is null"),
    "wrong type": (GOOD + '{"prompt": 3, "completion": "b"}\n', r"bad\.jsonl:2: field 'prompt' is a number"),
    "empty text": (GOOD + '{"prompt": " ", "completion": "b"}\n', r"bad\.jsonl:2: field 'prompt' is empty"),
    "unknown form": (
        '{"text": "a", "label": 1}\n',
        r"bad\.jsonl:1: unknown form \(found text, label\).*prompt",
    ),
    "mixed forms": (GOOD + '{"question": "a", "answer": "b"}\n', r"bad\.jsonl:2: .*'question-answer' among"),
    "bad role": ('{"messages": [{"role": "robot", "content": "a"}]}\n', r"messages\[0\]\.role' is 'robot'; use one of"),
    "no content": ('{"messages": [{"role": "user"}]}\n', r"messages\[0\]\.content' is missing"),
    "answer first": ('{"messages": [{"role": "assistant", "content": "a"}]}\n', r"answer without a prompt"),
    "same id twice": (
        '{"id": "x", "prompt": "a", "completion": "b"}\n{"id": "x", "prompt": "c", "completion": "d"}\n',
        r"bad\.jsonl:2: field 'id' is 'x', as in .*bad\.jsonl:1",
    ),
    "not UTF-8": (GOOD.encode() + b'{"prompt": "\xff", "completion": "b"}\n', r"bad\.jsonl:2: not UTF-8"),
    "invisible text": (
        '{"prompt": "\\u200b\\ufeff \\u00ad", "completion": "b"}\n',
        r"bad\.jsonl:1: field 'prompt' is empty",
    ),
    "an undesired answer": (
        GOOD + '{"prompt": "a", "completion": "b", "label": false}\n',
        r"bad\.jsonl:2: field 'label' is false, so the answer is one to avoid",
    ),
    "an undesired conversation": (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "kto_tag": false}\n',
        r"field 'kto_tag' is false",
    ),
    "weight": (GOOD + '{"prompt": "a", "completion": "b", "weight": 0.5}\n', r":2: field 'weight' is 0\.5, but all"),
    "an answer not to learn": (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": false}]}\n',
        r"field 'messages\[1\]\.train' is False, but an answer is learned whole",
    ),
    "images": ('{"prompt": "a", "completion": "b", "images": ["x.png"]}\n', r"field 'images' is not read"),
    "tools": (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": [{}]}\n',
        r"bad\.jsonl:1: field 'tools' is not read",
    ),
    "tool calls": (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": [1]}]}\n',
        r"field 'messages\[1\]\.tool_calls' is not read",
    ),
    "two systems": (
        '{"system": "x", "messages": [{"role": "system", "content": "y"}, {"role": "user", "content": "a"}, '
        '{"role": "assistant", "content": "b"}]}\n',
        r"field 'system' differs from the prompt's own system message",
    ),
    "history of texts": (
        '{"prompt": "a", "completion": "b", "history": ["x"]}\n',
        r"field 'history' is a list; give a list of pairs",
    ),
    "unknown speaker": (
        '{"conversations": [{"from": "robot", "value": "a"}]}\n',
        r"field 'conversations\[0\]\.from' is 'robot'; use one of human, gpt",
    ),
    "a field twice": ('{"prompt": "a", "prompt": "b", "completion": "c"}\n', r"jsonl:1: .*'prompt' is given twice"),
    "half a character in an id": (
        GOOD + '{"id": "b\\udc00", "prompt": "a", "completion": "b"}\n',
        r"bad\.jsonl:2: field 'id' contains half a character",
    ),
    "half a character in a category": (
        GOOD + '{"category": "\\ud800c", "prompt": "a", "completion": "b"}\n',
        r"bad\.jsonl:2: field 'category' contains half a character",
    ),
    "a list over several lines": ("[\n" + GOOD + "]\n", r"bad\.jsonl:1: .*or a list of them in a \.json file"),
    "nothing": ("", r"bad\.jsonl: contains no records"),
    "blank lines": ("\n\n", r"bad\.jsonl: contains no records"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_named_by_file_line_and_field(write, case):
    content, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        load_samples(write("bad.jsonl", content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.json", '[{"prompt": "a", "completion": "b"},\n{"prompt": }]', r"bad\.json:2: not valid JSON"),
        ("bad.json", '[{"prompt": "a", "completion": "b"}\n{"prompt": "a"}]', r"bad\.json:2: .*after record 1"),
        ("bad.json", '{"version": "1",\n "data": []}', r"is one object with the fields 'version', 'data'; give"),
        ("bad.json", '{"prompt": "a",\n"completion": "b"}\n{"prompt": "a"}', r"bad\.json:1: not valid JSON"),
        ("bad.json", '[{"prompt": "a", "prompt": "b"}]', r"bad\.json:1: .*'prompt' is given twice"),
        ("bad.json", '"text"', r"begins with '\"'"),
        ("bad.csv", "prompt,completion\na,b,c\n", r"bad\.csv:2: has 3 cells where the header has 2"),
        ("bad.csv", "prompt,prompt\na,b\n", r"bad\.csv:1: two columns have the same name"),
        ("bad.csv", 'prompt,completion\n"a\nb",c\nd,\n', r"bad\.csv:4: field 'completion' is null"),
        ("bad.parquet", "no parquet", r"bad\.parquet: not a readable Parquet file"),
        ("bad.txt", "text", r"unknown kind of file '\.txt'; use \.jsonl, \.json, \.csv or \.parquet"),
    ],
)
def test_other_kinds_name_the_place_too(write, name, content, message):
    with pytest.raises(DataError, match=message):
        load_samples(write(name, content))


def test_a_missing_file_is_reported_with_its_nearest_neighbour(write, tmp_path):
    write("training.jsonl", GOOD)
    with pytest.raises(DataError, match=r"no such file or folder; did you mean 'training\.jsonl'"):
        load_samples(str(tmp_path / "trainin.jsonl"))


def test_errors_name_the_role(tmp_path):
    with pytest.raises(DataError, match=r"^probe: "):
        load_samples(str(tmp_path / "none.jsonl"), role="probe")


def test_the_hub_is_asked_for_what_is_no_file(monkeypatch):
    asked = []

    def load_dataset(name, configuration, data_dir, split, streaming):
        assert not streaming
        asked.append((name, configuration, data_dir, split))
        return Dataset.from_list([{"question": "q", "answer": "a"}])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    for source in ("openai/gsm8k:main", "owner/name", "owner/name/folder/deep", "squad"):
        assert len(load_samples(source, split="test")) == 1
    assert asked == [
        ("openai/gsm8k", "main", None, "test"),
        ("owner/name", None, None, "test"),
        ("owner/name", None, "folder/deep", "test"),
        ("squad", None, None, "test"),
    ]


def test_only_the_first_records_are_read_where_no_more_are_asked_for(monkeypatch, tmp_path):
    read = []

    def load_dataset(*_, streaming, **__):
        assert streaming
        for number in range(100):
            read.append(number)
            yield {"question": f"q{number}", "answer": "a"}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    found = load_with_form("owner/name", first=3)
    assert found.dataset["row"] == [1, 2, 3]
    assert found.rows == len(read) == 3
    path = tmp_path / "task.jsonl"
    path.write_text('{"question": "q", "answer": "a"}\nnot JSON\n')
    assert len(load_with_form(str(path), first=1).dataset) == 1


def test_a_hub_that_cannot_be_reached_is_reported_in_a_line(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(DataError, match="owner/name: not a local file or folder, and the hub cannot be reached"):
        load_samples("owner/name")


def test_undesired_answers_given_from_python_are_refused():
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in (True, False)]
    with pytest.raises(
        DataError, match=r"^references: column 'label' is false in row 2, so its answer is one to avoid"
    ):
        refuse_undesired(Dataset.from_list(rows), "references")
    refuse_undesired(Dataset.from_list(rows[:1]), "references")
    refuse_undesired(Dataset.from_list([{"prompt": "a", "completion": "b", "label": 0}]), "a class, not a verdict")
    refuse_undesired(Dataset.from_list([{"question": "a", "label": False}]), "an input of a formatting function")
