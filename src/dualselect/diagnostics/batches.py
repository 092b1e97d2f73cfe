"""Which samples a diagnostic uses: prompts that are in one set alone, and batches of one group each."""

from collections.abc import Iterable, Mapping, Sequence

from dualselect.data.loading import lot


def apart_rows(keys: Mapping[str, Sequence[str | None]], taken: Iterable[str | None] = ()) -> dict[str, list[int]]:
    """Return the rows of every set whose prompts are in no earlier set and come first in their own.

    Args:
        keys: Prompt keys of every set; None where there is no prompt, which leaves the row out.
        taken: Keys that no set may have.
    """
    seen = {None, *taken}
    rows: dict[str, list[int]] = {}
    for name, own in keys.items():
        first = {key: row for row, key in reversed(list(enumerate(own))) if key not in seen}
        rows[name] = sorted(first.values())
        seen.update(first)
    return rows


def batches_by_group(
    groups: Sequence[str], ids: Sequence[str], size: int, count: int, seed: int
) -> dict[str, list[int]]:
    """Return batches of one group each by name, spread over the groups as evenly as their sizes allow.

    Which samples make a batch depends on the seed and their ids, not on their order. What does not fill a batch is left
    out.

    Args:
        groups: Group of every sample.
        ids: Ids of the samples.
        size: Samples of a batch.
        count: Most batches.
        seed: Seed of the draw.
    """
    rows: dict[str, list[int]] = {name: [] for name in sorted(set(groups))}
    for row in sorted(range(len(ids)), key=lambda row: lot(ids[row], seed)):
        rows[groups[row]].append(row)
    turns = [(turn, name) for name, own in rows.items() for turn in range(len(own) // size)]
    chosen = sorted(sorted(turns)[:count], key=lambda item: (item[1], item[0]))
    return {f"{name}-{turn:04d}": rows[name][turn * size : (turn + 1) * size] for turn, name in chosen}
