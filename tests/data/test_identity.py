"""A sample is known by its id through all runs, and by its index from preparation to the batch."""

import json
from hashlib import sha256

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from dualselect.data import INDEX_COLUMN, IndexCollator, content_digest, dropped_ids, identify, load_samples
from dualselect.errors import DataError


def rows(*answers, **others):
    return Dataset.from_list([{"prompt": "q", "completion": text, **others} for text in answers])


def test_own_ids_are_kept_and_missing_ones_come_from_the_content():
    named = Dataset.from_list([{"id": None if n else "a", "prompt": f"q{n}", "completion": "x"} for n in range(3)])
    indexed, ids = identify(named)
    assert indexed[INDEX_COLUMN][:] == [0, 1, 2]
    assert ids[0] == "a"
    assert ids[1:] == identify(named.remove_columns("id"))[1][1:]
    assert len(set(ids)) == 3


def test_rows_that_repeat_are_numbered():
    first, second, third = identify(rows("a", "b", "a"))[1]
    assert third == f"{first}-2"
    assert second not in (first, third)


def test_ids_given_twice_are_refused_with_both_rows():
    twice = rows("a", "b", "c").add_column("id", ["x", "y", "x"])
    with pytest.raises(DataError, match=r"^references: rows 1 and 3 have the same id 'x'; give"):
        identify(twice, "references")


@pytest.mark.parametrize("name", ["source", "category", "row", "sample_index"])
def test_every_column_of_the_user_stays(name):
    indexed, _ = identify(Dataset.from_list([{name: n, "target": "x"} for n in (7, 8)]))
    assert indexed[name][:] == [7, 8]


def test_a_prepared_set_is_identified_again():
    once, _ = identify(rows("a", "b", "c"))
    again, _ = identify(once.select([2, 0]))
    assert again[INDEX_COLUMN][:] == [0, 1]


def test_dropped_ids_are_those_whose_index_is_gone():
    indexed, ids = identify(rows("a", "b", "c"))
    assert dropped_ids(ids, indexed.select([0, 2])) == [ids[1]]


def test_the_digest_is_that_of_all_rows_and_ids_in_order():
    dataset = Dataset.from_list([{"id": "a", "text": "é"}, {"id": "b", "text": "y"}])
    lines = "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in dataset)
    digest = content_digest(dataset)
    assert digest == sha256(lines.encode()).hexdigest()
    changed = [
        dataset.select([1, 0]),
        dataset.map(lambda row: {"text": row["text"] + "!"}),
        dataset.map(lambda row: {"id": row["id"] + "!"}),
    ]
    assert len({digest, *map(content_digest, changed)}) == 4
    bare = dataset.remove_columns("id")
    assert content_digest(bare, ["a", "b"]) != content_digest(bare, ["a", "c"])


def test_edited_answers_under_the_same_ids_change_the_digest_of_what_was_loaded(write):
    record = {"id": "x", "prompt": "q", "completion": "a"}
    before = content_digest(load_samples(write("data.jsonl", [record])))
    assert content_digest(load_samples(write("data.jsonl", [record]))) == before
    assert content_digest(load_samples(write("data.jsonl", [record | {"completion": "b"}]))) != before


def padded(examples):
    width = max(len(row["input_ids"]) for row in examples) + 2  # as padding to a multiple does
    fill = {"input_ids": 0, "labels": -100}
    return {
        name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in examples])
        for name, value in fill.items()
    }


def joined(examples):
    return {name: torch.tensor([[token for row in examples for token in row[name]]]) for name in examples[0]}


EXAMPLES = [
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "token_weights": [0.0, 0.5, 2.0], INDEX_COLUMN: 4},
    {"input_ids": [8], "labels": [8], "token_weights": [3.0], INDEX_COLUMN: 1},
]


def test_index_and_token_weights_come_with_the_batch_and_padding_weighs_nothing():
    batch = IndexCollator(padded)(EXAMPLES)
    assert batch[INDEX_COLUMN].tolist() == [4, 1]
    assert batch["token_weights"].tolist() == [[0.0, 0.5, 2.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0, 0.0]]
    assert batch["token_weights"].dtype == torch.float32
    assert batch["labels"].shape == (2, 5)


def test_token_weights_are_joined_as_the_samples_are():
    assert IndexCollator(joined)(EXAMPLES)["token_weights"].tolist() == [[0.0, 0.5, 2.0, 3.0]]


def test_what_is_found_on_the_cpu_is_added_to_batches_of_indexed_samples():
    def positions(batch, size):
        return {"supervised": (batch["labels"].flatten() != -100).nonzero().flatten(), "size": size}

    collator = IndexCollator(padded, positions)
    batch = collator(EXAMPLES)
    assert batch["supervised"].tolist() == [1, 2, 5]
    assert batch["size"] == 2
    assert "supervised" not in collator([{name: row[name] for name in ("input_ids", "labels")} for row in EXAMPLES])


def test_a_batch_without_them_is_left_as_it_is():
    bare = [{name: row[name] for name in ("input_ids", "labels")} for row in EXAMPLES]
    assert set(IndexCollator(padded)(bare)) == {"input_ids", "labels"}


def test_a_formatting_function_reads_every_column_and_batches_have_none_of_them(tiny_model, tiny_tokenizer, tmp_path):
    rows = [{"id": f"s{n}", "source": f"many {n}", "category": "c", "row": n, "target": "apples"} for n in range(4)]
    indexed, _ = identify(Dataset.from_list(rows))
    args = SFTConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", per_device_train_batch_size=2)
    trainer = SFTTrainer(
        model=tiny_model,
        args=args,
        train_dataset=indexed,
        processing_class=tiny_tokenizer,
        formatting_func=lambda row: f"{row['id']} {row['source']} {row['category']} {row['row']} {row['target']}",
    )
    learned = tiny_tokenizer.decode(trainer.train_dataset[2]["input_ids"])
    assert learned == "s2 many 2 c 2 apples<end>"
    trainer.data_collator = IndexCollator(trainer.data_collator)
    trainer._set_signature_columns_if_needed()
    trainer._signature_columns.append(INDEX_COLUMN)
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"input_ids", "labels", "attention_mask", INDEX_COLUMN}
