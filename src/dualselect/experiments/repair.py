"""Repairing the model of a finished run, from settings to a run folder with its model card."""

from dataclasses import dataclass, field
from pathlib import Path

from dualselect.data import REFERENCES, load_samples
from dualselect.experiments.arguments import DataArguments
from dualselect.methods import Method
from dualselect.models import resolve_model
from dualselect.options import documented, option
from dualselect.reports import write_model_card
from dualselect.training.repair import check_repair, repair


@documented
@dataclass(frozen=True)
class RepairSettings:
    """Settings of a repair: the model, the data and the folder of the result."""

    model: str = field(metadata={"help": "Run folder, adapter, model folder or hub id."})
    output_dir: str = field(metadata={"help": "New folder for the repaired model."})
    pools: list[str] = option([], "Data sets that the method needs, such as harmful=FILE.", metavar="NAME=SOURCE")
    references: str | None = option(None, "Source of safe references, where the method needs them.")
    split: str = option("train", "Split of the data sets, for hub ids.")
    limit: int | None = option(None, "Samples of each data set to use. Unset: all.")


def repair_model(settings: RepairSettings, method: Method) -> Path:
    """Repair a model by a method and return the folder of the result.

    Raises:
        ConfigError: The method does not act after training, lacks a pool, the model could not be loaded, or the output
            folder is not empty.
        DataError: A data set cannot be used.
    """
    sources = DataArguments(pools=settings.pools).pool_sources
    if settings.references is not None:
        sources[REFERENCES] = settings.references
    output = Path(settings.output_dir)
    check_repair(method, sources, output)
    pools = {
        name: load_samples(source, split=settings.split, limit=settings.limit, role=name)
        for name, source in sources.items()
        if name in method.pools
    }
    repair(settings.model, method, pools, output, sources=sources, resolve=resolve_model)
    write_model_card(output)
    return output
