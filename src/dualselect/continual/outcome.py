"""What a stream came to, in the files of its folder: table of values, matrix, measures, tables and figures."""

from pathlib import Path

import pyarrow as pa

from dualselect.continual.estimates import stream_measures
from dualselect.continual.matrix import matrix_rows
from dualselect.continual.tables import markdown_table
from dualselect.files import replacing
from dualselect.reports.sections.stream_figures import write_figures
from dualselect.runs.stream import Stream, write_matrix, write_measures, write_stream
from dualselect.runs.values import write_values

TABLE_FILE = "table.md"


def write_outcome(stream: Stream, values: pa.Table, folder: Path) -> None:
    """Write `stream.json`, `results.parquet`, `matrix.parquet`, `measures.parquet`, `table.md` and the figures.

    Args:
        stream: Tasks, methods, seeds and how far the cells are.
        values: Tidy table of everything that was measured, with the column `stage`.
        folder: Folder of the stream.

    Raises:
        DataError: A task has no value of its metric, or stages share no prompt.
    """
    write_values(values, folder)
    matrix = write_matrix(matrix_rows(stream, values), folder).to_pylist()
    measures = write_measures(stream_measures(stream, values), folder).to_pylist()
    with replacing(folder / TABLE_FILE) as draft:
        draft.write_text(markdown_table(stream, matrix, measures), encoding="utf-8")
    write_figures(stream, matrix, folder)
    write_stream(stream, folder)
