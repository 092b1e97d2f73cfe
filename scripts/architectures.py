"""Write docs/architectures.md, the table of supported architectures, from the table that the tests check."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT / "tests" / "gradients"))

from architectures import table  # noqa: E402

(_ROOT / "docs" / "architectures.md").write_text(table())
