"""A model card for the hub: how the model was made and from what, what was measured, and its limits."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from dualselect.errors import DataError, one_line
from dualselect.files import replacing
from dualselect.reports.sections import subject_of
from dualselect.reports.sections.base import Measure
from dualselect.reports.sections.settings import base_model, evaluation_sources, fact_groups
from dualselect.runs.diagnostic_folder import is_diagnostic_folder
from dualselect.runs.folder import RunFolder, as_comparison, is_compare_folder, left_out, read_run
from dualselect.runs.labels import KINDS
from dualselect.statistics.formats import missing_text

FILE = "README.md"

_SPECIAL = re.compile(r"([\\`*_{}\[\]()|~$^@]|^[-+=#:])")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
_CARD_GROUPS = {"Method": "Method", "Training": "Training", "Data": "Training data", "Made with": "Made with"}

_LIMITS = """- The measures apply to the prompts they were taken on. A model that declines these requests may still
  answer others, and any alignment can be undone by further fine-tuning or by prompts made to get around it.
- Refusal rules read words and not meaning, and judges that are models err. Where two judges disagree, neither is
  the truth.
- An interval that contains zero shows no difference; that is not the same as showing that there is none."""


def write_model_card(folder: Path, output: Path | None = None) -> Path:
    """Write the model card of a run and return its path.

    Args:
        folder: Folder of the run.
        output: File to write; None for `README.md` in the folder, which is replaced.

    Raises:
        DataError: The folder contains no run.
    """
    folder = Path(folder)
    if is_compare_folder(folder):
        raise DataError(f"{folder}: is a comparison, but a model card is about one model; give one of its cells/*")
    if is_diagnostic_folder(folder):
        raise DataError(f"{folder}: is a diagnostic, which makes no model; give the output_dir of `dualselect train`")
    if not folder.is_dir():
        raise DataError(f"{folder}: is not a folder; give the output_dir of `dualselect train`")
    path = folder / FILE if output is None else Path(output)
    with replacing(path) as draft:
        draft.write_text(model_card(read_run(folder)), encoding="utf-8")
    return path


def model_card(run: RunFolder) -> str:
    """Return the model card of a run as Markdown with a YAML head."""
    head = yaml.safe_dump(_head(run), sort_keys=False, allow_unicode=True)
    base = base_model(run)
    base = (
        Path(base).name if base and Path(base).is_absolute() else base
    )  # without local paths, which mean nothing elsewhere
    about = f"Fine-tuned{f' from {escaped(base)}' if base else ''} with the method {escaped(run.method)} of dualselect."
    parts = [f"---\n{head}---", f"# {escaped(run.path.resolve().name)}", about, "## Measures", _measures(run)]
    for heading, facts in fact_groups(run):
        if heading in _CARD_GROUPS:
            parts += [f"## {_CARD_GROUPS[heading]}", bullets(facts)]
    seeds = _seeds_remark(run)
    parts += ["## Limits", _LIMITS + (f"\n- {seeds}" if seeds else "")]
    return "\n\n".join(parts) + "\n"


def _head(run: RunFolder) -> dict[str, Any]:
    base = base_model(run)
    is_adapter = (run.path / "adapter_config.json").is_file() or "lora_r" in run.config
    head: dict[str, Any] = {"library_name": "peft" if is_adapter else "transformers"}
    if base is not None and _HUB_NAME.fullmatch(base) and not Path(base).exists():
        head["base_model"] = base
    if datasets := hub_datasets(run.config):
        head["datasets"] = datasets
    head["tags"] = ["dualselect", "safe-fine-tuning", *(["lora"] if is_adapter else [])]
    head["pipeline_tag"] = "text-generation"
    return head


def hub_datasets(config: dict[str, Any]) -> list[str]:
    """Return the hub ids among the sources of a run's data, without their configuration or folder."""
    sources = [config.get("task"), config.get("references"), *evaluation_sources(config).values()]
    found = []
    for source in sources:
        if isinstance(source, str) and not Path(source).exists() and not source.endswith(_FILE_ENDINGS):
            name = "/".join(source.split(":")[0].split("/")[:2])
            found += [name] if _HUB_NAME.fullmatch(name) else []
    return list(dict.fromkeys(found))


def _measures(run: RunFolder) -> str:
    measures = subject_of(as_comparison(run)).measures
    notes = left_out(run)
    remarks = "\n\nNot shown:\n\n" + "\n".join(f"- {escaped(note)}" for note in notes) if notes else ""
    if not measures:
        return "Nothing has been measured; use `dualselect evaluate`." + remarks
    rows = [row for measure in measures for row in _rows(measure)]
    header = ("suite", "measure", "better", "model", "value", "95% interval", "n", "seeds", "difference")
    about = (
        "Values come with their 95% intervals. A difference is taken prompt by prompt against the named model, and is "
        "reported as one only if its interval excludes zero."
    )
    return f"{table(header, rows)}\n\n{about}{remarks}"


def _rows(measure: Measure) -> list[tuple[object, ...]]:
    better = "" if measure.metric.better == "neither" else measure.metric.better
    kind = KINDS.get(measure.kind, measure.kind).lower()
    rows: list[tuple[object, ...]] = []
    for row in measure.rows:
        differences = "; ".join(
            f"{measure.difference_text(one)} vs {one.other}: {measure.finding(one)}" for one in row.differences
        )
        count = f"{row.estimate.n}" + (f" ({missing_text(row.estimate)})" if row.estimate.missing else "")
        rows.append(
            (
                f"{measure.suite} ({kind})",
                measure.metric.title,
                better,
                row.method,
                measure.value_text(row),
                measure.interval_text(row),
                count,
                row.estimate.seeds,
                differences,
            )
        )
    return rows


def _seeds_remark(run: RunFolder) -> str:
    if not run.results:
        return ""
    return "One training run was measured: the intervals cover other prompts, not other seeds."


def escaped(text: object) -> str:
    """Return text as one line of Markdown, escaped so that it starts no HTML, link, cell or emphasis."""
    line = one_line(text)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; header and cells are escaped."""
    lines = [header, ["---"] * len(header)]
    shown = [" | ".join(map(escaped, header)), " | ".join(lines[1]), *(" | ".join(map(escaped, row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in shown)


def bullets(facts: Iterable[tuple[str, str]]) -> str:
    """Return names and values as a list."""
    return "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in facts)
