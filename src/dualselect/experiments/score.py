"""Scoring a task by any number of selectors in one pass, from settings to a folder with scores and a page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dualselect import methods
from dualselect.data import INDEX_COLUMN, REFERENCES
from dualselect.distributed import rank
from dualselect.errors import ConfigError, nearest
from dualselect.experiments.run_data import load_run_data
from dualselect.experiments.settings import Settings
from dualselect.experiments.train import make_trainer
from dualselect.gradients import IGNORED
from dualselect.methods import Method
from dualselect.methods.selectors import Scorer, Warmup, check_scorer, score_task, scorers_among
from dualselect.options import documented, option
from dualselect.reports.scores import Sample, write_scores_page
from dualselect.runs.scores import FILE, ScoreTable, score_table
from dualselect.settings.config_file import Entry
from dualselect.settings.parser import CommandParser

PAGE = "scores.html"


@documented
@dataclass(frozen=True)
class ScoreSettings:
    """Which selectors score the task, and at which weights."""

    selectors: list[str] = option(
        ["dualselect"], "Selectors: methods that score samples before training, separated by spaces or commas."
    )
    selector_options: list[str] = option([], "Options of selectors, say less.sketch_size=512.", metavar="NAME=VALUE")
    warmup_fraction: float = option(
        0.0, "Share of the task that the model is warmed up on before it is measured; 0 measures it as it starts."
    )
    warmup_epochs: float = option(1.0, "Epochs of the warm-up.")
    top: int = option(10, "Most suspicious samples to show of each selector.")

    def __post_init__(self) -> None:
        if self.top < 0:
            raise ConfigError(f"top is {self.top}; give at least 0")


@dataclass
class _Scoring(Method):
    """What the trainer is made with: it needs what any of the selectors needs."""

    name: ClassVar[str] = "score"

    scorers: list[Any] = field(default_factory=list)

    @property
    def pools(self) -> tuple[str, ...]:  # type: ignore[override]
        """The pools of all selectors."""
        return tuple(dict.fromkeys(pool for scorer in self.scorers for pool in scorer.pools))

    @property
    def needs_start(self) -> bool:
        """Whether a selector compares with the starting weights."""
        return any(scorer.needs_start for scorer in self.scorers)


def score(settings: Settings, scoring: ScoreSettings) -> tuple[ScoreTable, Path]:
    """Score the task and return the scores and the folder with the file and the page.

    An interrupted scan continues where it stopped if the same is asked for again.

    Raises:
        ConfigError: A name is no selector, an option is wrong, a pool is missing, or the folder has scores already.
        DataError: A data set cannot be used.
    """
    folder = Path(settings.training.output_dir)
    if (folder / FILE).exists():
        raise ConfigError(f"output_dir: {folder / FILE} is there already; remove it, or name another folder")
    scorers = read_scorers(scoring.selectors, scoring.selector_options)
    method = _Scoring(scorers=scorers)
    _check_pools(settings, method)
    warmup = Warmup(scoring.warmup_fraction, scoring.warmup_epochs)
    trainer = make_trainer(settings, load_run_data(settings), method)
    task = trainer.samples
    found = score_task(scorers, task, trainer.run, warmup)
    ids = [trainer.data.task_ids[index] for index in task[INDEX_COLUMN]]
    about = {
        "data": settings.data.task,
        "model": settings.model.model_name_or_path,
        "warmup": asdict(warmup),
        "options": {scorer.name: asdict(scorer) for scorer in scorers},  # type: ignore[call-overload]
    }
    table = score_table(ids, found.scores, found.scanned, about)
    if rank() == 0:
        table.write(folder / FILE)
        shown = {row for name in table.scores for row in table.lowest(name, scoring.top)}
        texts = {row: _sample(task[row], trainer.processing_class) for row in sorted(shown)}
        write_scores_page(table, texts, scoring.top, folder / PAGE)
    found.scanned.done()
    return table, folder


def read_scorers(names: Sequence[str], options: Sequence[str] = ()) -> list[Scorer]:
    """Return selectors by their names, which may be joined by commas.

    Args:
        names: Names of methods.
        options: Their options as NAME.OPTION=VALUE.

    Raises:
        ConfigError: A name is unknown, given twice or no selector, or an option is wrong.
    """
    wanted = [name for part in names for name in part.split(",") if name]
    if len(set(wanted)) < len(wanted) or not wanted:
        raise ConfigError(f"selectors: {', '.join(wanted) or 'none'}; give at least one, each once")
    given: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for text in options:
        name, dot, setting = text.partition(".")
        key, equals, value = setting.partition("=")
        if not (dot and equals) or name not in given:
            raise ConfigError(f"selector_options: '{text}' is not SELECTOR.OPTION=VALUE of one of {', '.join(given)}")
        given[name] |= _option(methods.get(name), key.replace("-", "_"), value)
    return [_scorer(name, values) for name, values in given.items()]


def _scorer(name: str, options: dict[str, Any]) -> Scorer:
    able = scorers_among(methods.available())
    if name not in methods.available():
        raise ConfigError(f"unknown selector '{name}'{nearest(name, able)}")
    return check_scorer(methods.get(name).from_options(options))


def _option(kind: type[Method], name: str, value: str) -> dict[str, Any]:
    parser = CommandParser("score", add_help=False)
    parser.add_settings(kind, kind.name)
    if not parser.knows(name):
        raise ConfigError(f"selector_options: '{kind.name}' has no option '{name}'{nearest(name, _names(parser))}")
    if name.startswith("warmup_"):
        raise ConfigError(f"selector_options: {name} holds for all selectors; give it as --{name}")
    return parser.parse_value(name, Entry(value, "selector_options"))


def _names(parser: CommandParser) -> list[str]:
    return [flag.lstrip("-") for flag in parser.flags]


def _check_pools(settings: Settings, method: _Scoring) -> None:
    given = {*settings.data.pool_sources, *([REFERENCES] if settings.data.references is not None else [])}
    for name in method.pools:
        if name not in given:
            who = ", ".join(scorer.name for scorer in method.scorers if name in scorer.pools)
            flag = "--references SOURCE" if name == REFERENCES else f"--pools {name}=SOURCE"
            raise ConfigError(f"{who} needs {name}: give {flag}")


def _sample(row: dict[str, Any], tokenizer: Any) -> Sample:
    """Return a sample as the model sees it: what is not supervised, and what is."""
    pairs = list(zip(row["input_ids"], row["labels"], strict=True))
    parts = [[token for token, label in pairs if (label == IGNORED) is is_prompt] for is_prompt in (True, False)]
    return Sample(*(tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in parts))
