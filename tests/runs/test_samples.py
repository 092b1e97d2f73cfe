"""What a run was trained on is known of its checkpoints too, and said where it is not known."""

import shutil

from datasets import Dataset

from dualselect.data import prompt_key
from dualselect.runs import sample_categories, trained_doubt, trained_prompts, write_samples


def chats(*prompts):
    return Dataset.from_list([{"prompt": [{"role": "user", "content": text}], "category": "c"} for text in prompts])


def test_task_and_all_pools_are_written_and_evaluation_sets_are_not(tmp_path):
    sets = {"task": chats("a", "b"), "references": chats("c"), "harmful": chats("d"), "evaluation probe": chats("e")}
    write_samples(tmp_path, sets, {name: [f"{name}{n}" for n in range(len(data))] for name, data in sets.items()})
    assert trained_prompts(tmp_path) == {prompt_key(text) for text in "abcd"}
    assert trained_doubt(tmp_path) == ""
    assert sample_categories(tmp_path)["harmful", "harmful0"] == "c"


def test_a_checkpoint_is_asked_by_its_run_and_a_copy_elsewhere_is_told_as_unknown(tmp_path):
    run, copy = tmp_path / "run", tmp_path / "copies" / "checkpoint-2"
    write_samples(run, {"task": chats("a")}, {"task": ["t"]})
    (run / "checkpoint-2").mkdir()
    (run / "adapter").mkdir()
    assert trained_prompts(run / "checkpoint-2") == {prompt_key("a")}
    assert trained_doubt(run / "checkpoint-2") == ""
    shutil.copytree(run / "checkpoint-2", copy)
    for folder in (copy, run / "adapter"):
        assert trained_prompts(folder) == frozenset()
        assert "it is unknown which prompts the model was trained on" in trained_doubt(folder)


def test_samples_that_no_prompt_can_be_compared_with_are_counted(tmp_path):
    sets = {"task": Dataset.from_list([{"text": "a"}, {"text": "b"}]), "references": chats("c")}
    write_samples(tmp_path, sets, {"task": ["0", "1"], "references": ["r"]})
    assert trained_prompts(tmp_path) == {prompt_key("c")}
    assert "2 of 3 samples were trained on as texts or tokens" in trained_doubt(tmp_path)
