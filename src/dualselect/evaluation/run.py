"""One model, all suites: load, answer, judge, write; finished suites are not run again."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from rich.console import Console

from dualselect.data import prompt_key
from dualselect.errors import ConfigError, DataError
from dualselect.evaluation.judges import Judge, parse_judges
from dualselect.evaluation.suites import SUITES, LoadedSuite, Suite, expand, get_suite, load, run_suite
from dualselect.models.base import GenerationSettings, LocalTarget, Target
from dualselect.options import documented, option
from dualselect.runs.results import FOLDER, Role, SuiteResult, result_file

#: Short names for the suites that need no network.
GROUPS = {
    "safety": ("builtin-safety", "builtin-safe-answers"),
    "overrefusal": ("builtin-overrefusal",),
}

_console = Console(stderr=True)


def suite_names(text: str) -> tuple[str, ...]:
    """Return the suites that a comma-separated list names, groups and YAML files expanded, each once."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return tuple(dict.fromkeys(member for name in names for member in GROUPS.get(name, expand(name))))


@documented
@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and how.

    Raises:
        ConfigError: An unknown suite or judge, data for a suite that is not measured, or a number out of range.
    """

    suites: tuple[str, ...] = option(
        ("safety", "overrefusal"),
        "Suites, by comma: names, groups of them, YAML files of your own, or NAME=FILE.jsonl.",
        aliases=["--suite"],
    )
    judges: tuple[str, ...] = option(
        ("refusal",), "Judges, by comma: refusal, guard:MODEL, api:MODEL, reward:MODEL.", aliases=["--judge"]
    )
    data: Mapping[str, str] = option(
        {}, "File, folder or hub id that replaces the source of a suite; repeatable.", metavar="SUITE=SOURCE"
    )
    limit: int | None = option(None, "Prompts of each suite, drawn by the seed. Unset: all.")
    seed: int = option(0, "Seed for drawing prompts, and for sampling at a temperature above 0.")
    max_new_tokens: int | None = option(None, "Longest answer, in tokens. Unset: each suite's own.")
    temperature: float = option(0.0, "Temperature of sampling; 0 is greedy.")
    system: str | None = option(None, "System prompt put before every prompt.")
    batch_size: int = option(16, "Prompts at once.")
    thinking: bool | None = option(
        None, "Whether a model that can think does so before it answers. Unset: its chat template decides."
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "suites", suite_names(",".join(self.suites)))
        if not self.suites:
            raise ConfigError("no suite is given: name some, as `--suite builtin-safety,gsm8k`")
        names = [get_suite(text).name for text in dict.fromkeys(self.suites)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two suites are called '{name}'; rename one of them")
        for name in self.data:
            if name not in names:
                raise ConfigError(f"data are given for suite '{name}', which is not among {', '.join(names)}")
        for name in ("limit", "max_new_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; give at least 1")
        if self.thinking not in (None, True, False):
            raise ConfigError(f"thinking is '{self.thinking}'; write on, off, or leave it out")
        if self.temperature < 0:
            raise ConfigError(f"temperature is {self.temperature}; give 0 for greedy answers, or more")

    def generation(self, suite: Suite) -> GenerationSettings:
        """Return how the answers to a suite are generated."""
        return GenerationSettings(
            max_new_tokens=self.max_new_tokens or suite.max_new_tokens,
            temperature=self.temperature,
            seed=self.seed,
            system=self.system,
            batch_size=self.batch_size,
            thinking=self.thinking,
        )


def load_suites(settings: EvaluationSettings) -> list[tuple[Suite, LoadedSuite]]:
    """Return all suites with their samples; done before a model is loaded, so that a fault in the data costs no time.

    Raises:
        ConfigError: A suite has no data.
        DataError: A suite could not be loaded.
    """
    suites = [get_suite(text) for text in settings.suites]
    return [(suite, load(suite, settings.data.get(suite.name), settings.limit, settings.seed)) for suite in suites]


def evaluate_target(
    target: Target,
    settings: EvaluationSettings,
    *,
    role: Role,
    run_folder: Path,
    start: LocalTarget | None = None,
    seed: int | None = None,
    judges: Sequence[Judge] | None = None,
    suites: Sequence[tuple[Suite, LoadedSuite]] | None = None,
    trained_on: Collection[str] = (),
) -> list[SuiteResult]:
    """Return the results of a target on all suites, written into `<run folder>/evaluation/` one by one.

    A suite whose file is there already, made from the same target, prompts, judges and settings, is read instead.

    Args:
        target: Model to measure.
        settings: Settings of the measurement.
        role: Role of the target among the models of the folder.
        run_folder: Folder that the results go to.
        start: Aligned start, from which probes take the KL.
        seed: Training seed of the target, if known.
        judges: Judges of `settings`, if they are loaded already.
        suites: Suites of `settings` with their samples, from `load_suites`, if they are loaded already.
        trained_on: Keys (`dualselect.data.prompt_key`) of prompts that must not be measured on; they are left out,
            counted and reported.

    Raises:
        ConfigError: A suite needs what the target does not offer.
        DataError: A suite could not be loaded, or has no prompt left.
    """
    judges = parse_judges(settings.judges) if judges is None else judges
    results = []
    for number, (suite, whole) in enumerate(suites or load_suites(settings), start=1):
        name = suite.name
        loaded, overlapping = held_out(whole, trained_on)
        mark = _fingerprint(target, loaded, judges, settings, suite, start)
        done = _already(run_folder, name, role, mark)
        if done is None:
            _console.print(
                f"[{number}/{len(settings.suites)}] {name}: {len(loaded.samples)} prompts, {role} {target.name}"
            )
            done = run_suite(
                suite,
                loaded,
                target,
                judges,
                settings.generation(suite),
                role=role,
                base=start,
                seed=seed,
                batch_size=settings.batch_size,
            )
            done.settings |= {"limit": settings.limit, "draw_seed": settings.seed, "fingerprint": mark}
            done.settings["left_out_since_trained_on"] = overlapping
            done.write(run_folder)
        results.append(done)
    return results


def held_out(loaded: LoadedSuite, trained_on: Collection[str]) -> tuple[LoadedSuite, int]:
    """Return the suite without prompts that were trained on, and how many those were."""
    keys = frozenset(trained_on)
    kept = [sample for sample in loaded.samples if prompt_key(sample.prompt) not in keys]
    overlapping = len(loaded.samples) - len(kept)
    if not kept:
        raise DataError(f"{loaded.source}: the model was trained on all of its {overlapping} prompts; give other data")
    if overlapping:
        _console.print(f"{loaded.source}: left out {overlapping} prompts that the model was trained on", style="yellow")
    return replace(loaded, samples=kept), overlapping


def _fingerprint(
    target: Target,
    loaded: LoadedSuite,
    judges: Sequence[Judge],
    settings: EvaluationSettings,
    suite: Suite,
    start: LocalTarget | None,
) -> str:
    generation = asdict(settings.generation(suite))
    del generation["batch_size"]
    if generation["thinking"] is None:
        del generation["thinking"]  # results from before this setting existed stay valid
    made_from = [
        target.identity,
        None if start is None else start.identity,
        loaded.sha256,
        [sample.id for sample in loaded.samples],
        {judge.name: judge.version for judge in judges},
        generation,
    ]
    if suite.name not in SUITES:  # a user's own, whose declaration may change
        made_from.append([suite.kind, suite.scoring, *suite.measures])
    return sha256(json.dumps(made_from, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _already(run_folder: Path, suite: str, role: Role, mark: str) -> SuiteResult | None:
    path = run_folder / FOLDER / result_file(suite, role)
    if not path.is_file():
        return None
    try:
        result = SuiteResult.read(path)
    except DataError:
        return None  # has another format; it is replaced
    return result if result.settings.get("fingerprint") == mark else None
