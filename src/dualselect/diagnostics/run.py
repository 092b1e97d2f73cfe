"""A diagnostic from its settings: stage after stage, from the sets to the figure."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import yaml

from dualselect.diagnostics import bench as model
from dualselect.diagnostics import embeddings, overlap, resources, traces
from dualselect.diagnostics.bench import Bench
from dualselect.diagnostics.options import DiagnosticOptions
from dualselect.diagnostics.reductions import reductions
from dualselect.diagnostics.rollouts import Rollouts, RolloutSettings, TaskBatch, roll_out, spread_over_groups
from dualselect.diagnostics.settings import DiagnosticSettings
from dualselect.diagnostics.stages import Stage, open_folder, run_stages
from dualselect.distributed import world_size
from dualselect.errors import ConfigError
from dualselect.models.files import content_hash
from dualselect.reports.diagnostic_figure import write_figure
from dualselect.reports.figures import FORMATS
from dualselect.runs.diagnostic import FIGURE_FILE, PROBE, REFERENCES, TASK, read_rollouts, read_table, write_table
from dualselect.runs.diagnostic_folder import TASK_CONDITIONED
from dualselect.runs.provenance import CONFIG_FILE, write_config

ROLLOUT_SETTINGS = (
    *("rollout_batches", "rollout_steps", "rollout_samples", "rollout_learning_rate", "rollout_max_grad_norm"),
    *("corrections", "reference_weight"),
)
ROLLOUT_FILES = ("rollouts.parquet", "reductions.parquet")
FIGURE_FILES = tuple(f"{FIGURE_FILE}.{kind}" for kind in FORMATS)
_WITHOUT_EFFECT = ("output_dir", "disable_tqdm", "use_cpu")


def diagnose(settings: DiagnosticSettings, say: Callable[[str], None] = print) -> None:
    """Do the stages of a diagnostic that are not done yet, and leave their files in its folder.

    Args:
        settings: The settings.
        say: Is told of every stage.

    Raises:
        ConfigError: The folder contains something else, or there are several processes.
        DataError: Data that cannot be used.
    """
    if world_size() > 1:
        raise ConfigError("a diagnostic runs in one process: start it without accelerate launch or torchrun")
    resources.gather(settings.options, settings.seed)  # a fault in the data leaves no trace in the folder
    open_folder(settings.folder)
    _pin_date(settings)
    write_config(settings.folder, settings.plain())
    run_stages(settings.folder, stages(settings), say)


def stages(settings: DiagnosticSettings) -> list[Stage]:
    """Return the stages of a diagnostic, in the order in which they run."""
    options, seed, folder = settings.options, settings.seed, settings.folder
    bench = Bench(settings)
    drawn = {"seed": seed}
    return [
        Stage(
            "resources",
            partial(resources.make_resources, options, seed, folder),
            options.of(*resources.SETTINGS) | resources.source_digests(options) | drawn,
            resources.FILES,
        ),
        Stage("warm-up", bench.warm_up, _model_settings(settings), model.FILES, ("resources",)),
        Stage(
            "embeddings",
            partial(embeddings.embed, bench),
            options.of("sketch_size", "metric") | drawn,
            embeddings.FILES,
            ("warm-up",),
        ),
        Stage(
            "traces",
            partial(traces.trace, settings),
            options.of(*traces.SETTINGS) | drawn,
            traces.FILES,
            ("embeddings",),
        ),
        Stage(
            "overlap",
            partial(overlap.write_overlap, settings),
            options.of(*overlap.SETTINGS) | drawn,
            overlap.OVERLAP_FILES,
            ("traces",),
        ),
        Stage(
            "heatmap",
            partial(overlap.write_heatmap, settings),
            options.of(*overlap.SETTINGS) | drawn,
            overlap.HEATMAP_FILES,
            ("traces",),
        ),
        Stage(
            "rollouts",
            partial(_roll_out, bench),
            options.of(*ROLLOUT_SETTINGS) | drawn,
            ROLLOUT_FILES,
            ("traces",),
        ),
        Stage("figure", partial(write_figure, folder), {}, FIGURE_FILES, ("overlap", "heatmap", "rollouts")),
    ]


def _model_settings(settings: DiagnosticSettings) -> dict[str, object]:
    """Return what the weights and the tokenised samples depend on."""
    steps = ("start", "warmup_steps", "warmup_learning_rate", "micro_batch_size", "batch_size")
    names = {*settings.options.__dataclass_fields__, *_WITHOUT_EFFECT}
    shared = {name: value for name, value in settings.plain().items() if name not in names}
    model = Path(settings.run.model.model_name_or_path)  # what is on the hub is known by its name and revision
    return shared | settings.options.of(*steps) | {"model files": content_hash(model)}


def _roll_out(bench: Bench) -> None:
    settings, options = bench.settings, bench.settings.options
    place, reference = bench.places(TASK), bench.places(REFERENCES)
    members: dict[tuple[str, str], list[int]] = {}
    for row in read_table(settings.folder, "tasks").select(["row", "batch", "group"]).to_pylist():
        if row["row"] in place:
            members.setdefault((row["batch"], row["group"]), []).append(place[row["row"]])
    every = [TaskBatch(name, group, rows) for (name, group), rows in members.items()]
    chosen: dict[str, dict[str, list[int]]] = {}
    for row in read_table(settings.folder, "traces").select(["strategy", "batch", "reference"]).to_pylist():
        chosen.setdefault(row["strategy"], {}).setdefault(row["batch"], []).append(reference[row["reference"]])
    rollouts = Rollouts(
        bench.pool(TASK),
        bench.pool(REFERENCES),
        bench.pool(PROBE),
        bench.aligned,
        RolloutSettings(
            options.rollout_steps,
            options.rollout_learning_rate,
            options.rollout_max_grad_norm,
            options.reference_weight,
            options.rollout_samples,
            settings.seed,
        ),
    )
    batches = spread_over_groups(every, options.rollout_batches)
    roll_out(rollouts, batches, chosen, options.corrections, settings.folder, progress=settings.progress)
    write_table(settings.folder, "reductions", reductions(read_rollouts(settings.folder), _lead(options)))


def _lead(options: DiagnosticOptions) -> str:
    """Return the strategy that others are compared with."""
    return TASK_CONDITIONED if TASK_CONDITIONED in options.strategies else options.strategies[0]


def _pin_date(settings: DiagnosticSettings) -> None:
    """Fix the date that a chat template may ask for to that of the first start, so that a later one continues it."""
    training, path = settings.run.training, settings.folder / CONFIG_FILE
    if training.template_date is None:
        earlier = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        training.template_date = earlier.get("template_date") or datetime.now().isoformat(timespec="seconds")
