"""Where a model is asked: `MODEL`, or `MODEL@URL`."""

import re

from dualselect.errors import ConfigError


def parse_address(text: str) -> tuple[str, str | None]:
    """Return the model and the URL, if there is one; a model's name may hold an @ too.

    Raises:
        ConfigError: there is no model, or what looks like an address is no URL.
    """
    model, url = re.fullmatch(r"(.*?)(?:@(https?://.*))?", text.strip(), re.DOTALL).groups()  # type: ignore[union-attr]
    if not model or re.search(r"@[^@/]*:\d+(/|$)", model):
        cause = "names no URL" if model else "names no model"
        raise ConfigError(
            f"api:{text}: {cause}; give it as api:MODEL or api:MODEL@URL, with a URL such as http://127.0.0.1:8000/v1"
        )
    return model, url
