"""`python -m benchmarks.refresh`: what a refresh misses, and what it saves, when it scores candidates only."""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.models import MODEL_NAMES, check_model
from benchmarks.report import be_quiet, hardware, versions, write_json
from benchmarks.samples import samples
from benchmarks.settings import Settings as StepSettings
from benchmarks.steppers import Batch, TrainerStep, batches_of, make_dualselect
from dualselect.data import load_samples
from dualselect.errors import ConfigError, DualSelectError
from dualselect.gradients import Direction, per_sample_nll
from dualselect.selection import Chosen, Pool, choose_references, draw_candidates, soft

RESULTS = Path(__file__).parent / "results" / "refresh.json"

_FIGURES = ("recall", "weight", "cosine", "seconds")
_ABOUT = f"""Compare a refresh of DualSelect's references that scores candidates only (`reference_candidates`) with one
that scores the whole pool, at the same weights and task direction, several times while the model trains. The run itself
follows the full refresh. The candidates of a refresh are those that the last one of the same size chose, and a draw.

  recall    share of the references that the full refresh chooses which are chosen
  weight    the same by their softmax weights (tau_ref), which count the highest scores most
  cosine    of the two reference directions
  seconds   of scoring and of the direction, over those of the full refresh

The first refresh has nothing to remember, so its recall is about the share of the pool that is scored; the means are
over the others. Models: {", ".join(MODEL_NAMES)}. Random ones need no download.

Written to {RESULTS.parent.name}/{RESULTS.name} beside this module. The default takes a few minutes on two free cores.

examples:
  python -m benchmarks.refresh --quick
  python -m benchmarks.refresh --model smollm2 --task data/task.jsonl --references data/safe.jsonl"""


@dataclass(frozen=True)
class Settings:
    """The settings of `python -m benchmarks.refresh`.

    Attributes:
        model: Name of `benchmarks.models`.
        device: `cpu` or `cuda`.
        pool: Number of references, where none are given.
        shares: Shares of the pool that are scored.
        refreshes: Number of refreshes.
        steps: Updates before each refresh.
        batch_size: Samples of an update.
        learning_rate: Learning rate of the updates.
        seed: Seed of samples, model and draws.
        task: Source of the task; None makes word problems.
        references: Source of the references; None makes word problems.
    """

    model: str = "random-tiny"
    device: str = "cpu"
    pool: int = 1000
    shares: tuple[float, ...] = (0.15, 0.25, 0.5)
    refreshes: int = 8
    steps: int = 20
    batch_size: int = 8
    learning_rate: float = 1e-3
    seed: int = 0
    task: str | None = None
    references: str | None = None

    def quick(self) -> "Settings":
        """Return settings for a smoke run."""
        return replace(self, pool=40, shares=(0.25, 1.0), refreshes=3, steps=2)


def measure(settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the figures of every refresh and their means by share."""
    trainer, stepper, pool = _prepare(settings)
    batches = _batches(trainer, settings)
    last = {share: torch.zeros(0, dtype=torch.long) for share in settings.shares}
    refreshes = []
    for number in range(settings.refreshes):
        for _ in range(settings.steps):
            stepper.step(next(batches))
        d = trainer.method.state_dict()[0]["task_sum"]
        full, g_ref, seconds = _refresh(trainer.method, pool, d, None)
        found = {}
        for share in settings.shares:
            generator = torch.Generator().manual_seed(settings.seed * 1000 + number)
            rows = draw_candidates(pool, round(share * len(pool)), last[share], generator)
            chosen, g, took = _refresh(trainer.method, pool, d, rows)
            last[share] = chosen.weights.nonzero().flatten()
            found[str(share)] = {
                **agreement(full, chosen, trainer.method.tau_ref),
                "cosine": float(g.cosine(g_ref)),
                "seconds": took / seconds,
            }
        say(f"refresh {number + 1}/{settings.refreshes}: " + _told(found))
        refreshes.append({"seconds": seconds, "by_share": found})
        _go_on(trainer.method, g_ref)
    return {"means": _means(refreshes, settings.shares), "refreshes": refreshes, "references": len(pool)}


def agreement(full: Chosen, chosen: Chosen, tau: float) -> dict[str, float]:
    """Return which part of a full refresh's choice another one found, by number and by softmax weights."""
    of_full, found = full.weights > 0, chosen.weights > 0
    keep = int(of_full.sum())
    weights = soft(-full.scanned["score"], torch.arange(len(of_full)), tau, keep) / keep
    return {"recall": float(found[of_full].float().mean()), "weight": float(weights[found].sum())}


def _prepare(settings: Settings) -> tuple[Any, TrainerStep, Pool]:
    task = _data(settings.task, settings.pool, settings.seed)
    references = _data(settings.references, settings.pool, settings.seed + 1)
    shape = StepSettings(
        (settings.model,), settings.device, batch_size=settings.batch_size, autocast=False, seed=settings.seed
    )
    trainer = make_dualselect(
        settings.model, "all_linear", task, shape, references, learning_rate=settings.learning_rate
    )
    return trainer, TrainerStep(trainer), trainer.run.pool()


def _data(source: str | None, count: int, seed: int) -> Dataset:
    return samples(count, 4, seed) if source is None else load_samples(source, limit=count, seed=seed)


def _batches(trainer: Any, settings: Settings) -> Iterator[Batch]:
    """Yield batches of the task for ever, in another order in every round."""
    rng = random.Random(settings.seed)
    order = list(range(len(trainer.train_dataset)))
    while True:
        rng.shuffle(order)
        yield from batches_of(trainer, order, settings.batch_size)


def _refresh(method: Any, pool: Pool, d: Direction, rows: Tensor | None) -> tuple[Chosen, Direction, float]:
    """Return what a refresh chooses of the rows, its direction, and its seconds."""
    began = time.perf_counter()
    chosen = choose_references(
        pool,
        d,
        loss=per_sample_nll,
        keep=method.references_to_keep(len(pool)),
        mu=method.mu_ref,
        nu=method.nu,
        scaling=method.score_scaling,
        rows=rows,
    )
    g_ref = pool.gradient(chosen.weights)
    g_ref.norm().item()  # waits for the device
    return chosen, g_ref, time.perf_counter() - began


def _go_on(method: Any, g_ref: Direction) -> None:
    """Let the run continue with the direction, as after a refresh of its own."""
    directions, values = method.state_dict()
    del directions["task_sum"]
    method.load_state_dict({**directions, "reference": g_ref}, values)


def _means(refreshes: Sequence[dict[str, Any]], shares: Sequence[float]) -> dict[str, dict[str, float]]:
    later = refreshes[1:]
    return {
        str(share): {name: sum(row["by_share"][str(share)][name] for row in later) / len(later) for name in _FIGURES}
        for share in shares
    }


def _told(found: dict[str, dict[str, float]]) -> str:
    return "; ".join(f"{share} of the pool: recall {row['recall']:.2f}" for share, row in found.items())


def table(means: dict[str, dict[str, float]]) -> Table:
    """Return the means as a table."""
    shown = Table(title="Refreshes of candidates against full ones; means over all but the first")
    for title in ("scored", *_FIGURES):
        shown.add_column(title, justify="right")
    for share, row in means.items():
        shown.add_row(f"{float(share):.0%}", *(f"{row[name]:.3f}" for name in _FIGURES))
    return shown


def _file_name(source: str | None) -> str | None:
    """Return the name of a file without its folder, which is true on this machine only."""
    return None if source is None else Path(source).name


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.refresh", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", help="name of a model (default: random-tiny)")
    made.add_argument("--device", choices=("cpu", "cuda"), help="default: cpu")
    made.add_argument("--quick", action="store_true", help="a small pool and few refreshes: does everything work?")
    made.add_argument("--pool", type=int, help="references (default: 1000)")
    made.add_argument("--refreshes", type=int, help="refreshes (default: 8)")
    made.add_argument("--steps", type=int, help="updates before each (default: 20)")
    made.add_argument("--learning-rate", type=float, help="default: 0.001")
    made.add_argument("--seed", type=int, help="seed of samples, model and draws (default: 0)")
    made.add_argument("--task", help="source of the task (default: generated word problems)")
    made.add_argument("--references", help="source of the references (default: generated word problems)")
    made.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes (default: beside this module)")
    return made


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings that the flags ask for; a ConfigError where a value is out of range."""
    settings = Settings().quick() if args.quick else Settings()
    own = {name: value for name, value in vars(args).items() if value is not None and name not in ("quick", "output")}
    settings = replace(settings, **own)
    check_model(settings.model)
    for name, least in (("pool", 10), ("refreshes", 2), ("steps", 1)):
        if getattr(settings, name) < least:
            raise ConfigError(f"--{name} is {getattr(settings, name)}; give at least {least}")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no CUDA GPU; leave --device out")
    return settings


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; returns the exit code."""
    args = parser().parse_args(argv)
    console = Console(stderr=True)
    began = time.perf_counter()
    try:
        settings = settings_of(args)
        be_quiet()
        result = measure(settings, console.print)
    except DualSelectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shown = replace(settings, task=_file_name(settings.task), references=_file_name(settings.references))
    about = {"settings": asdict(shown), "hardware": hardware(), "versions": versions()}
    write_json(args.output, result | about | {"seconds": time.perf_counter() - began})
    Console().print(table(result["means"]))
    console.print(f"{time.perf_counter() - began:.0f} s; every figure is in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
