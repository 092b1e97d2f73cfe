"""Records of a hub data set."""

from collections.abc import Iterator
from typing import Any

from dualselect.errors import DataError, one_line


def hub_records(source: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the split of a hub data set.

    Args:
        source: `owner/name`, `owner/name:configuration`, or `owner/name/folder` for the files of a folder of it.
        split: Its split.

    Raises:
        DataError: The hub cannot be reached, or has no such data set, configuration or split.
    """
    import datasets

    path, _, configuration = source.partition(":")
    owner, *rest = path.split("/", 2)
    name, folder = "/".join([owner, *rest[:1]]), "/".join(rest[1:])
    try:
        yield from datasets.load_dataset(name, configuration or None, data_dir=folder or None, split=split)
    except ConnectionError as error:
        raise DataError(
            f"{source}: is no local file or folder, and the hub cannot be reached (offline); download the data first "
            "and name the file, or check the connection"
        ) from error
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(
            f"{source}: neither a local file or folder nor a data set on the hub; check the name, and log in "
            "if it is private"
        ) from error
    except (ValueError, OSError, RuntimeError) as error:
        # An unknown split or configuration; the message lists what there is.
        raise DataError(
            f"{source}, split '{split}': {one_line(error)}; name the split by the setting, the "
            "configuration as owner/name:configuration"
        ) from error
