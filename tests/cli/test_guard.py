"""`dualselect guard` from files to scores, and training by star-dss on what a guard trusts."""

import json
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from dualselect.evaluation.judges import JUDGES, Judge
from dualselect.experiments import guard as guarding
from dualselect.runs.guard_scores import GuardScores
from dualselect.runs.results import Verdict

pytestmark = pytest.mark.slow


class Counter(Judge):
    """Finds answers of three words or more unsafe, and has no verdict on empty ones."""

    name, version = "counter", "1"
    labels = ("safe", "unsafe")
    measures: ClassVar = {"unsafe": frozenset({"unsafe"})}
    asked: ClassVar[list[tuple[str, str]]] = []
    ends_after = float("inf")

    def judge(self, prompt, answer):
        if len(self.asked) >= self.ends_after:
            raise KeyboardInterrupt
        self.asked.append((prompt, answer))
        return Verdict(None if not answer else "unsafe" if len(answer.split()) > 2 else "safe")


class Trusting(Judge):
    """Finds all answers safe; its verdicts are graded."""

    name, version = "trusting", "1"
    labels = ("safe",)
    measures: ClassVar = {"unsafe": frozenset()}
    unsafe = 0.0

    def judge(self, prompt, answer):
        return Verdict("safe", score=self.unsafe)

    def unsafety(self, verdict):
        return verdict.score


@pytest.fixture(autouse=True)
def _judges(look_anew, monkeypatch):
    look_anew(JUDGES)
    for kind in (Counter, Trusting):
        JUDGES.add(kind.name, kind)
    monkeypatch.setattr(Counter, "asked", [])
    monkeypatch.setattr(Counter, "ends_after", float("inf"))


@pytest.fixture
def guard(dualselect, config, data):
    """Return a function that judges the task by some judges into a folder and returns the outcome."""

    def run(judge, folder="guard", *more):
        return dualselect("guard", "--config", config, "--judge", judge, "--output_dir", data / folder, *more)

    return run


def beginnings(model, rows, size):
    """Return question and beginning of every chunk of every answer, from the template's text of each answer."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = []
    for row in rows:
        prompt = [{"role": "user", "content": row["prompt"]}]
        whole = [*prompt, {"role": "assistant", "content": row["completion"]}]
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
        answer = tokenizer.apply_chat_template(whole)["input_ids"][len(asked) :]
        texts = [answer[: start + size] for start in range(0, len(answer), size)]
        found.append([(row["prompt"], tokenizer.decode(text, skip_special_tokens=True).strip()) for text in texts])
    return found


def rows_of(data):
    return [json.loads(line) for line in (data / "task.jsonl").read_text().splitlines()]


def test_every_chunk_is_judged_up_to_its_end(guard, data, tiny_model_dir):
    shown = guard("counter")
    assert shown.code == 0, shown.err
    expected = beginnings(tiny_model_dir, rows_of(data), 5)
    assert Counter.asked == [pair for pairs in expected for pair in pairs]
    scores = GuardScores.read(data / "guard" / "guard.parquet")
    assert scores.ids == [f"count{n}" for n in range(16)]
    assert scores.chunks.tolist() == [len(pairs) for pairs in expected]
    assert scores.safe.tolist() == [float(len(text.split()) <= 2) for _, text in Counter.asked]
    assert 0 < scores.mean < 1
    assert f"16 answers, safe with a mean probability of {scores.mean:.3f}" in shown.out
    assert [path.name for path in (data / "guard").iterdir()] == ["guard.parquet"]


def test_judges_are_averaged_and_whole_answers_are_one_chunk(guard, data, monkeypatch):
    monkeypatch.setattr(Trusting, "unsafe", 0.25)
    assert guard("counter,trusting", "guard", "--chunk_tokens", 0).code == 0
    scores = GuardScores.read(data / "guard" / "guard.parquet")
    assert scores.safe.tolist() == [(0.75 + (len(row["completion"].split()) <= 2)) / 2 for row in rows_of(data)]


def test_an_interrupted_run_continues_where_it_stopped(guard, data, monkeypatch):
    monkeypatch.setattr(guarding, "_BLOCK", 4)
    assert guard("counter", "whole").code == 0
    whole, asked = (data / "whole" / "guard.parquet").read_bytes(), list(Counter.asked)
    Counter.asked.clear()
    monkeypatch.setattr(Counter, "ends_after", len(asked) - 1)
    assert guard("counter").code == 130
    monkeypatch.setattr(Counter, "ends_after", float("inf"))
    Counter.asked.clear()
    assert guard("counter").code == 0
    assert 0 < len(Counter.asked) < len(asked) / 2
    assert (data / "guard" / "guard.parquet").read_bytes() == whole


def trained(dualselect, config, data, folder, *flags):
    shown = dualselect("train", "--config", config, "--output_dir", data / folder, *flags)
    assert shown.code == 0, shown.err
    return load_file(data / folder / "adapter_model.safetensors")


def test_star_dss_trains_alike_in_one_batch_and_in_four_and_after_a_resume(guard, dualselect, config, data):
    assert guard("counter").code == 0
    flags = ["--method", "star-dss", "--guard_scores", data / "guard" / "guard.parquet"]
    flags += ["--lora_dropout", 0, "--adam_epsilon", 1e-5]  # so that neither draws nor rounding depend on the split
    whole = trained(dualselect, config, data, "one", *flags)
    split = ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 4]
    parts = trained(dualselect, config, data, "four", *flags, *split)
    resumed = trained(
        dualselect, config, data, "one", *flags, "--resume_from_checkpoint", data / "one" / "checkpoint-2"
    )
    plain = trained(dualselect, config, data, "sft", "--method", "sft", *flags[4:])
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-3, atol=1e-5)
        assert torch.equal(resumed[name], weight)
    assert max((weight - plain[name]).abs().max() for name, weight in whole.items()) > 1e-3


def test_star_dss_of_a_task_that_is_trusted_is_sft_bit_for_bit(guard, dualselect, config, data):
    assert guard("trusting").code == 0
    flags = ["--method", "star-dss", "--guard_scores", data / "guard" / "guard.parquet"]
    found = trained(dualselect, config, data, "star", *flags)
    plain = trained(dualselect, config, data, "sft", "--method", "sft")
    assert all(torch.equal(found[name], weight) for name, weight in plain.items())


@pytest.mark.parametrize(
    ("judge", "flags", "message"),
    [
        ("refusal", [], "judge: 'refusal-rules' does not say whether an answer is unsafe; name a guard model"),
        ("counterr", [], "unknown judge 'counterr'; did you mean 'counter'"),
        ("counter", ["--chunk_tokens", -1], "chunk_tokens is -1; give at least 0"),
        (
            "counter",
            ["--completion_only_loss", "false"],
            "completion_only_loss is false, but guards judge answers alone",
        ),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_line(guard, judge, flags, message):
    shown = guard(judge, "guard", *flags)
    assert shown.code == 2
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_scores_are_not_overwritten_and_must_be_of_the_task(guard, dualselect, config, data):
    assert guard("counter").code == 0
    shown = guard("counter")
    assert shown.code == 2
    assert "guard.parquet is there already; remove it, or name another folder" in shown.err
    file = data / "guard" / "guard.parquet"
    for flags, message in (
        ([], "star-dss needs guard_scores: score the task with `dualselect guard`"),
        (["--guard_scores", file, "--max_length", 24], "answer tokens when it was scored and has"),
    ):
        shown = dualselect("train", "--config", config, "--method", "star-dss", *flags)
        assert shown.code == 2
        assert message in shown.err.splitlines()[-1]
