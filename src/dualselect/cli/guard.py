"""`dualselect guard`: judge the beginnings of the task's answers, for the method star-dss."""

from collections.abc import Sequence

from dualselect.settings.parser import CommandParser, settings_from

HELP = "judge the beginnings of the task's answers by guard models"
ABOUT = """Judge every answer of a task by guard models, up to the end of each chunk of its tokens. The method star-dss
learns a token as far as its answer is safe up to there.

  dualselect guard data/task.jsonl --judge guard:ibm-granite/granite-guardian-3.1-2b --output_dir runs/guard
  dualselect train --method star-dss --task data/task.jsonl --guard_scores runs/guard/guard.parquet

Scores are written to guard.parquet in output_dir; several judges are averaged. An interrupted run of the command
continues where it stopped. Data, tokenizer and max_length are set as for `dualselect train`; see its --help-all."""


def run(argv: Sequence[str]) -> int:
    """Judge as the arguments say; returns the exit code."""
    from dualselect.evaluation.judges.settings import JudgeSettings
    from dualselect.experiments.guard import GuardSettings, guard
    from dualselect.experiments.settings import parse_settings

    parser = CommandParser("guard", ABOUT, usage="dualselect guard [DATA] [--judge JUDGE] [--SETTING VALUE ...]")
    parser.add_settings(GuardSettings, "guards")
    parser.add_settings(JudgeSettings, "judges (verdicts depend on none of these)")
    given, rest = parser.parse_known_args(argv)
    if rest and not rest[0].startswith("-"):
        rest = ["--task", *rest]
    settings = parse_settings(["--method", "sft", *rest], "guard", ABOUT)
    scores, path = guard(settings, settings_from(GuardSettings, given), settings_from(JudgeSettings, given))
    print(f"Saved in {path}: {len(scores.ids)} answers, safe with a mean probability of {scores.mean:.3f}")
    return 0
