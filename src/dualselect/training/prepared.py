"""The task as a method's `prepare` returned it: made once, when a run first starts, and read back on resume."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from dualselect.distributed import on_main_process, rank
from dualselect.errors import DataError, ResumeError
from dualselect.files import replacing
from dualselect.methods import Method, Run

FILE = "prepared.parquet"


class PreparedTask:
    """Keeps the prepared task in `<run folder>/prepared.parquet`, if the method changed it.

    Args:
        run_folder: Output folder of the run.
        task: Tokenised task.
    """

    def __init__(self, run_folder: Path, task: Dataset) -> None:
        self._path = run_folder / FILE
        self._task = task

    def fresh(self, method: Method, run: Run) -> Dataset:
        """Return the task as the method prepares it, and keep it.

        Raises:
            DataError: No sample is left.
        """
        prepared = method.prepare(self._task, run)
        if len(prepared) == 0:
            raise DataError(f"method '{method.name}' leaves no task sample to train on: let it drop fewer")
        if rank() == 0:
            self._path.unlink(missing_ok=True)
            if prepared is not self._task:
                with replacing(self._path) as draft:
                    prepared.to_parquet(draft)
        return prepared

    def again(self) -> Dataset:
        """Return the task as it was kept; the tokenised task where the method did not change it.

        Raises:
            ResumeError: The file cannot be read; on all processes.
        """
        table = on_main_process(self._kept)
        return self._task if table is None else Dataset(table)

    def _kept(self) -> pa.Table | None:
        try:
            return pq.read_table(self._path) if self._path.is_file() else None
        except (OSError, ValueError) as error:
            raise ResumeError(f"{self._path} cannot be read ({error}): start in a new output_dir") from error
