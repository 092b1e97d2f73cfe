"""The model of a diagnostic where its gradients are measured, and the pools that are measured by it.

A fresh LoRA hides half of its gradient, since that of the factor A is zero. So the model takes a few steps on the task
first, unless the authors' fresh start is asked for. The weights before and after, and the second moments of the
optimizer, are kept in `weights.safetensors`: whatever follows begins from that file, in the same process or in another.
"""

from functools import cached_property
from typing import Any

from safetensors.torch import load_file, save_file

from dualselect.diagnostics.resources import read_set
from dualselect.diagnostics.settings import DiagnosticSettings
from dualselect.experiments.run_data import RunData
from dualselect.experiments.train import make_trainer
from dualselect.files import replacing
from dualselect.gradients import RAW, Direction, Layout, Metric, Parameters, StartingPoint, Watch, preconditioned
from dualselect.runs.diagnostic import PROBE, REFERENCES, TASK
from dualselect.runs.provenance import write_provenance
from dualselect.selection import Pool, remember_start
from dualselect.training import DualSelectTrainer
from dualselect.training.data import make_pool

WEIGHTS_FILE = "weights.safetensors"
FILES = (WEIGHTS_FILE, "warm-up", "provenance.json")


class Bench:
    """The model and the pools of a diagnostic, loaded when they are first asked for.

    Args:
        settings: The settings of the diagnostic, in whose folder the tables of the sets are.
    """

    def __init__(self, settings: DiagnosticSettings) -> None:
        self.settings, self.folder = settings, settings.folder
        self._pools: dict[str, Pool] = {}

    def warm_up(self) -> None:
        """Take the steps of the warm-up, if any, and keep the weights.

        Raises:
            ConfigError: The model could not be loaded.
            TrainingError: The weights are not finite.
        """
        aligned = Direction.of(self.params)
        kept = {"aligned": aligned.vector}
        write_provenance(self.folder, self._trainer.model, self._sets, {"seed": self.settings.seed})
        if self.settings.options.start == "warm":
            self._trainer.train()
            moments = self._trainer.run.second_moment()
            assert moments is not None  # steps were taken, and the optimizer is AdamW
            kept["second_moment"] = moments.vector
        kept["weights"] = Direction.of(self.params).vector
        with replacing(self.folder / WEIGHTS_FILE) as draft:
            save_file({name: vector.cpu() for name, vector in kept.items()}, draft)

    @property
    def params(self) -> Parameters:
        """The trainable parameters."""
        return self._trainer.run.params

    @cached_property
    def aligned(self) -> StartingPoint:
        """Context in which the model is the aligned one; outside, it is where gradients are measured."""
        self._kept["aligned"].copy_to(self.params)
        aligned = remember_start(self.params)
        self._kept["weights"].copy_to(self.params)
        return aligned

    @cached_property
    def metric(self) -> Metric:
        """The inner product of gradients."""
        if self.settings.options.metric == "raw":
            return RAW
        return preconditioned(self._kept["second_moment"], self._trainer.args.adam_epsilon)

    def pool(self, name: str) -> Pool:
        """Return the task, the references or the probe, with the model where gradients are measured."""
        if name not in self._pools:
            watch = self._trainer.watch or Watch(self._trainer.model, self.params)
            with self.aligned():  # which answers references without an answer
                self._pools[name] = make_pool(self._trainer, name, self._sets[name], watch, self.params)
        return self._pools[name]

    def ids(self, name: str) -> list[str]:
        """Return the ids of a set, by the rows of its table."""
        return list(self._sets[name]["id"])

    def places(self, name: str) -> dict[int, int]:
        """Return the place in a set's pool of every row of its table; samples without a supervised token have none."""
        places = {sample: place for place, sample in enumerate(self.pool(name).ids)}
        return {row: places[sample] for row, sample in enumerate(self.ids(name)) if sample in places}

    @cached_property
    def _sets(self) -> dict[str, Any]:
        return {name: read_set(self.folder, name) for name in (TASK, REFERENCES, PROBE)}

    @cached_property
    def _trainer(self) -> DualSelectTrainer:
        return make_trainer(self.settings.run, RunData(self._sets[TASK], None))

    @cached_property
    def _kept(self) -> dict[str, Direction]:
        device = next(iter(self.params.values())).device
        kept = load_file(self.folder / WEIGHTS_FILE, device=str(device))
        return {name: Direction(Layout.of(self.params), vector) for name, vector in kept.items()}
