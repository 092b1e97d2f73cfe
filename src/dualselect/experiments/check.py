"""How a run would read its data: every set as it would be trained on, and the prompts that sets share."""

from typing import Any

from datasets import Dataset, disable_progress_bars
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from transformers import GenerationConfig

from dualselect.data import REFERENCES, TASK, LoadedSamples, Overlap, refused_overlaps, run_doubts, run_overlaps
from dualselect.data.templates import declared_ends, end_of_turn, reads_clock
from dualselect.experiments.costs import SetSize, costs_of, lines, updates
from dualselect.experiments.probe import probe
from dualselect.experiments.run_data import set_sources
from dualselect.experiments.run_model import find_model, load_run_tokenizer
from dualselect.experiments.settings import Settings
from dualselect.training.preview import Inspection, TokenCounts, inspect

_SHOWN = 5  # ids listed before "..."


def check(settings: Settings, with_probe: bool = False) -> bool:
    """Inspect all sets of a run, print what was found, and return whether training would begin.

    Args:
        settings: Settings of the run.
        with_probe: Whether to train the model for a few updates, to say what time and memory the run will take.

    Raises:
        ConfigError: Settings do not go together, or there is no such model.
        DataError: A set cannot be read; the message names file, line and field.
    """
    disable_progress_bars()
    console = Console(highlight=False, soft_wrap=True)
    sources = set_sources(settings)
    loaded = {name: source.load() for name, source in sources.items()}
    model, revision = find_model(settings), settings.model.model_revision
    tokenizer = load_run_tokenizer(settings)
    ends = declared_ends(_generation_config(model, revision), tokenizer)
    problems, sizes = [], {}
    for name, found in loaded.items():
        inspection = inspect(found.dataset, settings.training, tokenizer, ends, name)
        sizes[name] = _size(inspection)
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
    if not problems:
        _show_costs(console, settings, sizes, sets if with_probe else None)
    for problem in problems:
        console.print(f"[bold red]would stop[/]: {problem}")
    if not problems:
        console.print("[bold green]ready to train[/]")
    return not problems


def _show_set(
    console: Any, name: str, source: str, found: LoadedSamples, inspection: Inspection, max_length: int | None
) -> None:
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
        console.print(f"duplicates  {len(groups)} prompts occur more than once: {escape(_listed(groups))}")
    if inspection.example:
        console.print("example     as the model sees it; what is learned is between ⟦ and ⟧")
        console.print(_example(inspection.example))
    console.print()


def _size(inspection: Inspection) -> SetSize | None:
    """Return the size of a set; None where no sample has an answer yet."""
    if inspection.tokens is None:
        return None
    usable = inspection.samples - len(inspection.dropped)
    return SetSize(usable + inspection.prompt_only, inspection.tokens.total / usable)


def _show_costs(
    console: Any, settings: Settings, sizes: dict[str, SetSize | None], probed: dict[str, Dataset] | None
) -> None:
    training, task = settings.training, sizes[TASK]
    if training.packing or task is None:
        return  # the number of rows is known once they are packed, that of tokens once there are answers
    console.rule("[bold]cost[/]", align="left")
    steps, per_epoch = updates(
        task.samples,
        training.per_device_train_batch_size,
        training.gradient_accumulation_steps,
        training.num_train_epochs,
        training.max_steps,
    )
    costs = costs_of(settings.method, task, sizes.get(REFERENCES), steps, per_epoch)
    for line in lines(costs, None if probed is None else probe(settings, probed)):
        console.print(line, markup=False)
    if REFERENCES in sizes and sizes[REFERENCES] is None:
        console.print("refreshes   are not counted: the tokens of references without answers are not known yet")
    console.print()


def _generation_config(model: str, revision: str | None) -> GenerationConfig | None:
    try:
        return GenerationConfig.from_pretrained(model, revision=revision)
    except OSError:
        return None  # many models have none


def _without_end(count: int, ends: list[int], tokenizer: Any) -> str:
    stops = " or ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(ends)) or "no token at all"
    text = f"no end      {count} samples: what is learned does not end where generation stops, at {stops}"
    turn = end_of_turn(tokenizer)
    if turn is None or turn in ends:
        return f"{text}, so answers may run on; use a chat template whose answers, as learned, end with one"
    return (
        f"{text}, but at {tokenizer.convert_ids_to_tokens(turn)!r}; `dualselect evaluate` stops there, other programs "
        "do once it is the tokenizer's eos_token or in generation_config.json"
    )


def _counts(counts: TokenCounts) -> str:
    return f"{counts.smallest} to {counts.largest} per sample, median {counts.median:g}, {counts.total} in all"


def _example(parts: list[tuple[str, bool]]) -> Any:
    text = Text()
    for part, is_supervised in parts:
        text.append(f"⟦{part}⟧" if is_supervised else part, style="bold green" if is_supervised else "dim")
    return text


def _show_overlaps(console: Any, overlaps: list[Overlap], policy: str) -> None:
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
