"""`dualselect check` tells what training would do, and trains nothing."""

import json
import re
import shutil

import pytest

pytestmark = pytest.mark.slow


def test_a_sound_run_is_shown_and_nothing_is_written(dualselect, config, data):
    before = sorted(data.iterdir())
    shown = dualselect("check", "--config", config)
    assert shown.code == 0, shown.err
    assert "ready to train" in shown.out
    assert "prompt-completion: prompt + completion" in shown.out
    assert "16 records" in shown.out
    assert sorted(data.iterdir()) == before


def test_the_example_marks_what_is_learned(dualselect, config):
    shown = dualselect("check", "--config", config)
    assert "user: count 0?<end>\nassistant: ⟦count<end>\n⟧" in shown.out


def test_counts_are_those_of_training(dualselect, config, tiny_tokenizer, data):
    """Supervised are the answer, its end and the newline that the template adds."""
    rows = [json.loads(line) for line in (data / "task.jsonl").read_text().splitlines()]
    counts = [len(tiny_tokenizer(row["completion"] + "<end>\n")["input_ids"]) for row in rows]
    shown = dualselect("check", "--config", config)
    line = next(line for line in shown.out.splitlines() if line.startswith("supervised"))
    assert f"{min(counts)} to {max(counts)} per sample" in line
    assert f"{sum(counts)} in all" in line


def test_duplicates_overlaps_and_skipped_samples_are_named(dualselect, config, data):
    with (data / "task.jsonl").open("a") as file:
        for name, prompt in (("twin", "count 1?"), ("shared", "no 2?"), ("long", "many " * 99)):
            file.write(json.dumps({"id": name, "prompt": prompt, "completion": "yes"}) + "\n")
    shown = dualselect("check", "--config", config, "--max_length", "48")
    assert shown.code == 2
    assert "duplicates  1 prompts occur more than once: count1 = twin" in shown.out
    assert "skipped     1 samples without a supervised token within max_length=48: long" in shown.out
    assert "task 'shared' (row 18) and references 'no2' (row 3)" in shown.out
    assert "would stop" in shown.out
    assert dualselect("check", "--config", config, "--prompt_overlap", "drop").code == 0


def test_a_set_of_which_nothing_is_left_would_stop(dualselect, config):
    shown = dualselect("check", "--config", config, "--max_length", "4")
    assert shown.code == 2
    assert "task: no sample has a supervised token" in shown.out


def test_references_without_answers_are_counted(dualselect, config, data):
    (data / "safe.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    shown = dualselect("check", "--config", config)
    assert shown.code == 0, shown.err
    assert "prompt-only 2 samples" in shown.out


def test_a_bad_line_is_one_line(dualselect, config, data):
    (data / "safe.jsonl").write_text('{"prompt": "a", "completion": 3}\n')
    shown = dualselect("check", "--config", config)
    assert shown.code == 2
    assert "safe.jsonl:1: field 'completion' is a number" in shown.err


def test_fields_that_are_not_read_are_named(dualselect, config, data):
    with (data / "task.jsonl").open("a") as file:
        file.write(json.dumps({"id": "x", "prompt": "p", "completion": "c", "score": 3, "label": True}) + "\n")
    shown = dualselect("check", "--config", config)
    assert "ignored     fields that are not read: score\n" in shown.out


def test_answers_that_end_as_generation_stops_are_not_spoken_of(dualselect, config):
    assert "no end" not in dualselect("check", "--config", config).out


def with_template(folder, model, template):
    """Write a copy of a model whose tokenizer has another chat template."""
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("\n", "at '<end>', so answers may run on; use a chat template whose answers"),
        ("<unk>\n", "at '<end>', but at '<unk>'; `dualselect evaluate` stops there"),
    ],
)
def test_answers_without_an_end_are_counted(dualselect, config, data, tiny_model_dir, end, told):
    turns = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + END }}{% endfor %}"
    begin = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    model = with_template(data / "model", tiny_model_dir, turns.replace("END", repr(end)) + begin)
    shown = dualselect("check", "--config", config, "--model_name_or_path", model)
    assert shown.code == 0, shown.err
    assert "no end      16 samples: what is learned does not end where generation stops" in shown.out
    assert told in shown.out


def test_an_end_that_the_generation_config_declares_will_do(dualselect, config, data, tiny_model_dir):
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<unk>' }}{% endfor %}"
    model = with_template(data / "model", tiny_model_dir, template)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    assert "no end" not in dualselect("check", "--config", config, "--model_name_or_path", model).out


def test_a_date_in_the_template_is_reported(dualselect, config, data, tiny_model_dir):
    template = "{{ strftime_now('%Y') }}{% for m in messages %}{{ m['role'] + m['content'] + '<end>' }}{% endfor %}"
    model = with_template(data / "model", tiny_model_dir, template)
    assert "today's date" in dualselect("check", "--config", config, "--model_name_or_path", model).out
    assert "today's date" not in dualselect("check", "--config", config).out


def test_the_cost_is_counted_without_a_model(dualselect, config, data):
    """16 samples in updates of 4; refreshes after one update of warm-up: of 6 references, and of the 1 chosen."""
    shown = dualselect("check", "--config", config, "--refresh", "steps", "--refresh_every", "2")
    assert "steps       4 updates, 4 an epoch\n" in shown.out
    assert "refreshes   2, each of 7 references" in shown.out
    assert "time " not in shown.out
    often = ("--refresh", "steps", "--refresh_every", "1", "--reference_fraction", "1.0")  # 3 x 12 samples, not 16
    again = dualselect("check", "--config", config, *often)
    assert "refreshes would read more tokens than training does" in again.out


def test_a_probe_measures_time_and_memory_and_leaves_nothing(dualselect, config, data):
    before = sorted(data.iterdir())
    shown = dualselect("check", "--config", config, "--probe")
    assert shown.code == 0, shown.err
    assert re.search(
        r"time        about [\d.e-]+ (s|min) with one process: [\d.e-]+ s an update, .* a refresh", shown.out
    )
    assert re.search(r"memory      about \d+\.\d\d GiB on cpu", shown.out)
    assert sorted(data.iterdir()) == before


def test_a_method_without_references_is_probed_too(dualselect, config):
    shown = dualselect("check", "--config", config, "--method", "random", "--probe")
    assert shown.code == 0, shown.err
    assert "s an update\n" in shown.out
    assert "refreshes" not in shown.out
