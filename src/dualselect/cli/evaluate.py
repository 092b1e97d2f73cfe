"""`dualselect evaluate`: measure a model's safety and utility, alone or against others, and maybe gate it."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from dualselect.errors import ConfigError

_ABOUT = """Measure what a model does: safety, over-refusal and utility, with 95% intervals.

  dualselect evaluate --model runs/x --suite safety,overrefusal
  dualselect evaluate --model runs/x --baseline runs/sft --suite safety,gsm8k --judge refusal,guard
  dualselect evaluate --model runs/x --suite advbench --data advbench=prompts.jsonl --gate gate.yaml

A model is a run folder, an adapter, a full model, a hub id, or api:MODEL for an OpenAI-compatible endpoint. For an
adapter the aligned start (its base without it) is measured too. Prompts that the model was trained on are left out.
Answers are cached, so that an interrupted evaluation goes on where it stopped. Results go to the evaluation folder of
the run, with a page that shows them; `dualselect suites` lists what can be measured."""

SHIP, DO_NOT_SHIP = 0, 3


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `dualselect`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure safety and utility of a model",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--model", required=True, help="run folder, adapter, model folder, hub id or api:MODEL")
    what.add_argument("--baseline", help="model to compare with, say the same fine-tuning by plain SFT")
    what.add_argument(
        "--start", help="aligned model before fine-tuning (default: an adapter's base; 'none' leaves it out)"
    )
    what.add_argument("--suite", default="safety,overrefusal", help="suites, by comma (default: %(default)s)")
    what.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="SUITE=SOURCE",
        help="file, folder or hub id of a suite; repeatable",
    )
    what.add_argument("--limit", type=int, help="prompts of each suite, drawn by --seed (default: all)")
    what.add_argument(
        "--lm_eval", default="", help="tasks of lm-evaluation-harness, by comma (needs the extra lm-eval)"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--judge",
        default="refusal",
        help="judges, by comma: refusal, guard:MODEL, api:MODEL, reward:MODEL (default: %(default)s)",
    )
    how.add_argument(
        "--comparator",
        help="who prefers one of two answers in win rates against the baseline: api:MODEL, reward:MODEL, or a judge "
        "(default: the first judge)",
    )
    how.add_argument("--max_new_tokens", type=int, help="longest answer (default: each suite's own)")
    how.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    how.add_argument("--system", help="system prompt put before every prompt")
    how.add_argument(
        "--thinking",
        choices=("auto", "on", "off"),
        default="auto",
        help="whether a model that can think does before it answers; its thoughts are never judged (default: as its "
        "chat template does)",
    )
    how.add_argument("--batch_size", type=int, default=16, help="prompts at once (default: %(default)s)")
    how.add_argument("--dtype", default="auto", help="auto, bfloat16, float16 or float32 (default: %(default)s)")
    how.add_argument(
        "--seed", type=int, default=0, help="of the draw of prompts and of sampling (default: %(default)s)"
    )
    how.add_argument("--no_cache", action="store_true", help="neither read nor write cached answers")
    judges = parser.add_argument_group("judges (verdicts depend on none of these)")
    judges.add_argument("--judge_batch_size", type=int, default=8, help="answers that a local judge takes at once")
    judges.add_argument("--api_concurrency", type=int, default=8, help="requests at once to an endpoint")
    judges.add_argument("--api_requests_per_minute", type=float, default=0.0, help="rate limit of an endpoint; 0: none")
    judges.add_argument("--api_price_in", type=float, default=0.0, help="price of a million prompt tokens")
    judges.add_argument("--api_price_out", type=float, default=0.0, help="price of a million reply tokens")
    out = parser.add_argument_group("what becomes of it")
    out.add_argument("--output_dir", help="run folder for the results (default: the model's, if it is one)")
    out.add_argument("--gate", help=f"YAML of rules; prints SHIP (exit {SHIP}) or DON'T SHIP (exit {DO_NOT_SHIP})")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate as the arguments say; returns the exit code, 3 if a gate stays shut."""
    from rich.console import Console

    from dualselect.evaluation.evaluate import Models, evaluate
    from dualselect.evaluation.gate import decide, read_gate
    from dualselect.evaluation.summary import summary_table, win_rate_lines
    from dualselect.reports import write_report

    gate = read_gate(Path(args.gate)) if args.gate else None  # before anything that takes long
    settings = _settings(args)
    output = _output_dir(args)
    models = Models(args.model, args.baseline, args.start, args.dtype)
    results = evaluate(
        models,
        settings,
        output,
        judge_settings=_judge_settings(args),
        comparator=args.comparator,
        lm_eval_tasks=tuple(filter(None, args.lm_eval.split(","))),
        cache=None if args.no_cache else _cache_folder(),
        resolve=_resolve,
    )
    console = Console(highlight=False)
    console.print(summary_table(results))
    for line in win_rate_lines(results):
        console.print(line)
    print(f"Written to {output / 'evaluation'}; {write_report(output)} shows every answer")
    if gate is None:
        return 0
    decision = decide(gate, results)
    print(decision)
    return SHIP if decision.ships else DO_NOT_SHIP


def _settings(args: argparse.Namespace) -> Any:
    from dualselect.evaluation.run import EvaluationSettings, suite_names

    return EvaluationSettings(
        suites=suite_names(args.suite),
        judges=tuple(filter(None, args.judge.split(","))),
        data=dict(_named(item) for item in args.data),
        limit=args.limit,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        system=args.system,
        batch_size=args.batch_size,
        thinking={"auto": None, "on": True, "off": False}[args.thinking],
    )


def _judge_settings(args: argparse.Namespace) -> Any:
    from dualselect.evaluation.judges.specs import JudgeSettings

    names = [option.name for option in fields(JudgeSettings)]
    return JudgeSettings(**{name: getattr(args, name) for name in names if hasattr(args, name)})


def _named(item: str) -> tuple[str, str]:
    name, equals, source = item.partition("=")
    if not (name and equals and source):
        raise ConfigError(f"--data: '{item}' is not SUITE=SOURCE; write for example advbench=prompts.jsonl")
    return name, source


def _output_dir(args: argparse.Namespace) -> Path:
    if args.output_dir:
        return Path(args.output_dir)
    if Path(args.model).is_dir():
        return Path(args.model)
    return Path("runs") / "evaluate" / args.model.replace("/", "--").replace(":", "--")


def _cache_folder() -> Path:
    from dualselect.files import cache_folder

    return cache_folder() / "answers"


def _resolve(name: str) -> str:
    from dualselect.models import resolve_model

    return resolve_model(name)
