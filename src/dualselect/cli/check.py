"""`dualselect check`: what a run would make of its data, before anything is trained."""

import argparse
from typing import TYPE_CHECKING, Any

from dualselect.errors import library_errors

if TYPE_CHECKING:
    from transformers import GenerationConfig

    from dualselect.data import LoadedSamples, Overlap
    from dualselect.experiments.settings import Settings
    from dualselect.training.preview import Inspection, TokenCounts

ABOUT = """Show what a run would make of its data. It takes what `dualselect train` takes, needs no model but its
tokenizer, trains nothing and writes nothing. Exit code 2 means that training would stop.

  dualselect check --config examples/gsm8k.yaml
  dualselect check --task data/task.jsonl --references data/safe.jsonl --model my/model

For every set: the form that was detected, fields that are not read, one sample as the model sees it with the part that
is learned marked, token counts, prompts that recur, samples that would be skipped or whose answers have no end. Between
sets: prompts that they share."""

_SHOWN = 5  # ids listed before "..."


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `dualselect`; its flags are those of `train`."""
    parser = subparsers.add_parser("check", help="show what a run would make of its data", unread="arguments")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; returns the exit code, 2 if training would stop."""
    from dualselect.experiments.settings import parse_settings

    return check(parse_settings(args.arguments, "check", ABOUT))


def check(settings: "Settings") -> int:
    """Inspect all sets of a run, print what was found, and return 0, or 2 if training would stop.

    Raises:
        ConfigError: Settings that do not go together, or there is no such model.
        DataError: A set cannot be read; the message names file, line and field.
    """
    from datasets import disable_progress_bars
    from rich.console import Console
    from transformers import AutoTokenizer

    from dualselect.data import refused_overlaps, run_doubts, run_overlaps
    from dualselect.data.templates import declared_ends, reads_clock
    from dualselect.experiments.run_data import set_sources
    from dualselect.experiments.run_model import find_model
    from dualselect.training.preview import inspect

    disable_progress_bars()
    console = Console(highlight=False, soft_wrap=True)
    sources = set_sources(settings)
    loaded = {name: source.load() for name, source in sources.items()}
    model, revision = find_model(settings), settings.model.model_revision
    with library_errors(f"the tokenizer of model '{settings.model.model_name_or_path}'", "check its files"):
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    ends = declared_ends(_generation_config(model, revision), tokenizer)
    problems = []
    for name, found in loaded.items():
        inspection = inspect(found.dataset, settings.training, tokenizer, ends, name)
        _show_set(console, name, sources[name].source, found, inspection, settings.training.max_length)
        if inspection.endless:
            console.print(_without_end(inspection.endless, ends, tokenizer), markup=False)
            console.print()
        if inspection.supervised is None and not inspection.prompt_only:
            problems.append(f"{name}: no sample has a supervised token within max_length; raise max_length")
    sets = {name: found.dataset for name, found in loaded.items()}
    overlaps = run_overlaps(sets)
    policy = settings.training.prompt_overlap
    _show_overlaps(console, overlaps, policy)
    for doubt in run_doubts(sets):
        console.print(doubt, markup=False)
    if reads_clock(tokenizer.chat_template):
        console.print("The chat template writes today's date into prompts; a run keeps the date of its start.")
    if refused_overlaps(overlaps, policy):
        problems.append("sets share prompts: remove them, or set prompt_overlap to drop")
    for problem in problems:
        console.print(f"[bold red]would stop[/]: {problem}")
    if not problems:
        console.print("[bold green]ready to train[/]")
    return 2 if problems else 0


def _show_set(
    console: Any, name: str, source: str, found: "LoadedSamples", inspection: "Inspection", max_length: int | None
) -> None:
    from rich.markup import escape

    console.rule(f"[bold]{escape(name)}[/]", align="left")
    drawn = "" if len(found.dataset) == found.rows else f", {len(found.dataset)} of them drawn"
    console.print(f"source      {escape(source)}: {found.rows} records{drawn}")
    console.print(f"form        {found.form.name}: {escape(str(found.form))}")
    if found.ignored:
        console.print(f"ignored     fields that are not read: {escape(', '.join(found.ignored))}")
    if inspection.prompt_only:
        console.print(f"prompt-only {inspection.prompt_only} samples, which the starting model would answer")
    for label, counts in (("tokens      ", inspection.tokens), ("supervised  ", inspection.supervised)):
        if counts is not None:
            console.print(f"{label}{_counts(counts)}")
    if inspection.cut:
        console.print(f"cut         {inspection.cut} samples fill max_length={max_length}; their ends are lost")
    if inspection.dropped:
        console.print(
            f"skipped     {len(inspection.dropped)} samples without a supervised token within "
            f"max_length={max_length}: {escape(_listed(inspection.dropped))}"
        )
    if inspection.duplicates:
        groups = [" = ".join(ids) for ids in inspection.duplicates]
        console.print(f"duplicates  {len(groups)} prompts recur: {escape(_listed(groups))}")
    if inspection.example:
        console.print("example     as the model sees it; what is learned is between ⟦ and ⟧")
        console.print(_example(inspection.example))
    console.print()


def _generation_config(model: str, revision: str | None) -> "GenerationConfig | None":
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model, revision=revision)
    except OSError:
        return None  # many models have none


def _without_end(count: int, ends: list[int], tokenizer: Any) -> str:
    from dualselect.data.templates import end_of_turn

    stops = " or ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(ends)) or "no token at all"
    text = f"no end      {count} samples: what is learned does not end where generation stops, at {stops}"
    turn = end_of_turn(tokenizer)
    if turn is None or turn in ends:
        return f"{text}, so answers may run on; use a chat template whose answers, as they are learned, end so"
    return (
        f"{text}, but at {tokenizer.convert_ids_to_tokens(turn)!r}; `dualselect evaluate` stops there, other programs "
        "do once it is the tokenizer's eos_token or in generation_config.json"
    )


def _counts(counts: "TokenCounts") -> str:
    return f"{counts.smallest} to {counts.largest} a sample, median {counts.median:g}, {counts.total} in all"


def _example(parts: list[tuple[str, bool]]) -> Any:
    from rich.text import Text

    text = Text()
    for part, is_supervised in parts:
        text.append(f"⟦{part}⟧" if is_supervised else part, style="bold green" if is_supervised else "dim")
    return text


def _show_overlaps(console: Any, overlaps: "list[Overlap]", policy: str) -> None:
    from rich.markup import escape

    console.rule("[bold]shared prompts[/]", align="left")
    for pair in dict.fromkeys(overlap.sets for overlap in overlaps):
        shared = [str(overlap) for overlap in overlaps if overlap.sets == pair]
        console.print(f"{' and '.join(map(escape, pair))} share {len(shared)} (prompt_overlap={policy}):")
        for line in shared[:_SHOWN]:
            console.print(f"  {escape(line)}")
        if len(shared) > _SHOWN:
            console.print("  ...")
    if not overlaps:
        console.print("none")
    console.print()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
