"""A whole evaluation: what is asked of a judge behind an endpoint, and which prompts were trained on."""

from datasets import Dataset

from dualselect.evaluation.evaluate import Models, evaluate
from dualselect.evaluation.judges.settings import JudgeSettings
from dualselect.evaluation.run import EvaluationSettings
from dualselect.runs import write_samples


def test_what_an_endpoint_was_asked_and_what_that_cost_is_reported(stub, make_adapter, tmp_path, capsys):
    settings = EvaluationSettings(
        suites=("builtin-safety",), judges=(f"api:org/judge@{stub.url}",), limit=3, max_new_tokens=2
    )
    prices = JudgeSettings(api_price_in=2.0, api_price_out=10.0, judge_cache=str(tmp_path / "replies"))
    adapter = make_adapter("tuned")

    def run(folder):
        return evaluate(Models(str(adapter)), settings, folder, judge_settings=prices)

    results = run(tmp_path / "first")
    assert {result.role for result in results} == {"model", "start"}
    asked = len(stub.requests)
    assert 3 <= asked <= 6  # equal answers are asked for once
    tokens = f"{10 * asked} prompt and {4 * asked} reply tokens"
    cost = asked * (10 * 2.0 + 4 * 10.0) / 1e6
    told = capsys.readouterr().err
    assert f"api-judge: {asked} requests (0 retries, 0 failed), 0 replies from the cache, {tokens}" in told
    assert f"cost {cost:.4f}" in told

    run(tmp_path / "second")
    assert len(stub.requests) == asked
    assert "api-judge: 0 requests (0 retries, 0 failed), " in capsys.readouterr().err


def test_a_checkpoint_is_not_measured_on_prompts_of_its_run_and_the_unknown_is_reported(make_adapter, tmp_path, capsys):
    def trained(folder):
        make_adapter("tuned").rename(folder)
        return str(folder)

    run = tmp_path / "run"
    run.mkdir()
    models = Models(trained(run / "checkpoint-2"), baseline=trained(tmp_path / "copy"), start="none")
    asked = ["one two", "three four", "five six"]
    write_samples(run, {"task": Dataset.from_list([{"prompt": text} for text in asked[:2]])}, {"task": ["a", "b"]})
    data = tmp_path / "advbench.jsonl"
    data.write_text("".join(f'{{"prompt": "{text}"}}\n' for text in asked))
    settings = EvaluationSettings(suites=("advbench",), data={"advbench": str(data)}, max_new_tokens=2)
    results = evaluate(models, settings, tmp_path / "results")
    measured = {result.role: [record.prompt for record in result.records] for result in results}
    assert measured["model"] == measured["baseline"] == ["five six"]
    told = capsys.readouterr().err
    assert told.count("it is unknown which prompts the model was trained on") == 1
    assert f"{tmp_path / 'copy'}: has no samples.parquet" in told
