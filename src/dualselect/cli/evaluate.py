"""`dualselect evaluate`: measure a model's safety and utility, alone or against others, and gate it on request."""

from collections.abc import Sequence
from pathlib import Path

from dualselect.settings.parser import CommandParser, settings_from

HELP = "measure safety and utility of a model"
ABOUT = """Measure what a model does: safety, over-refusal and utility, with 95% intervals.

  dualselect evaluate --model runs/x --suite safety,overrefusal
  dualselect evaluate --model runs/x --baseline runs/sft --suite safety,gsm8k --judge refusal,guard
  dualselect evaluate --model runs/x --suite advbench --data advbench=prompts.jsonl --gate gate.yaml

A model is a run folder, an adapter, a full model, a hub id, or api:MODEL for an OpenAI-compatible endpoint. For an
adapter the aligned start (its base without it) is measured too. Prompts that the model was trained on are left out.
Answers are cached, so that an interrupted evaluation continues where it stopped. Results go to the evaluation folder of
the run, with a page that shows them; `dualselect suites` lists what can be measured."""

SHIP, DO_NOT_SHIP = 0, 3


def run(argv: Sequence[str]) -> int:
    """Evaluate as the arguments say; returns the exit code, 3 if a gate does not pass."""
    from dualselect.evaluation.evaluate import Models, evaluate
    from dualselect.evaluation.judges.settings import JudgeSettings
    from dualselect.evaluation.run import EvaluationSettings

    parser = CommandParser("evaluate", ABOUT)
    parser.add_settings(Models, "models")
    parser.add_settings(EvaluationSettings, "what is measured")
    parser.add_settings(JudgeSettings, "judges (verdicts depend on none of these)")
    _add_own_flags(parser)
    given = parser.parse(argv)

    from rich.console import Console

    from dualselect.evaluation.gate import decide, read_gate
    from dualselect.evaluation.summary import summary_table, win_rate_lines
    from dualselect.files import cache_folder
    from dualselect.models import resolve_model
    from dualselect.reports import write_report

    gate = read_gate(Path(given.gate)) if given.gate else None  # before any long work
    output = _output_dir(given.output_dir, given.model)
    results = evaluate(
        settings_from(Models, given),
        settings_from(EvaluationSettings, given),
        output,
        judge_settings=settings_from(JudgeSettings, given),
        comparator=given.comparator,
        lm_eval_tasks=tuple(filter(None, given.lm_eval.split(","))),
        cache=None if given.no_cache else cache_folder() / "answers",
        resolve=resolve_model,
    )
    console = Console(highlight=False)
    console.print(summary_table(results))
    for line in win_rate_lines(results):
        console.print(line)
    print(f"Written to {output / 'evaluation'}; {write_report(output)} shows every answer")
    if gate is None:
        return SHIP
    decision = decide(gate, results)
    print(decision)
    return SHIP if decision.ships else DO_NOT_SHIP


def _add_own_flags(parser: CommandParser) -> None:
    more = parser.add_argument_group("more to measure")
    more.add_argument(
        "--comparator",
        help="who prefers one of two answers in win rates against the baseline: api:MODEL, reward:MODEL, or a judge "
        "(default: the first judge)",
    )
    more.add_argument(
        "--lm_eval", default="", help="tasks of lm-evaluation-harness, by comma (needs the extra lm-eval)"
    )
    out = parser.add_argument_group("output")
    out.add_argument("--output_dir", help="run folder for the results (default: the model's, if it is one)")
    out.add_argument("--gate", help=f"YAML of rules; prints SHIP (exit {SHIP}) or DON'T SHIP (exit {DO_NOT_SHIP})")
    out.add_argument("--no_cache", action="store_true", help="neither read nor write cached answers")


def _output_dir(given: str | None, model: str) -> Path:
    if given:
        return Path(given)
    if Path(model).is_dir():
        return Path(model)
    return Path("runs") / "evaluate" / model.replace("/", "--").replace(":", "--")
