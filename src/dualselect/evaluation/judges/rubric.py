"""Rubrics: instructions for an LLM judge, in a file of the package, with a version made from its text."""

import json
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files


@dataclass(frozen=True)
class Rubric:
    """A rubric, and how texts are added below it.

    Attributes:
        text: Text of the rubric.
    """

    text: str

    @classmethod
    def packaged(cls, package: str, name: str) -> "Rubric":
        """Return the rubric in `rubrics/<name>.md` of a package."""
        return cls(files(package).joinpath("rubrics", f"{name}.md").read_text(encoding="utf-8"))

    @property
    def version(self) -> str:
        """Eight hexadecimal digits that change with the text."""
        return sha256(self.text.encode()).hexdigest()[:8]

    def request(self, **texts: str) -> str:
        """Return the rubric with the texts below it as one JSON object, so that none can pass for an instruction."""
        return f"{self.text.strip()}\n\n{json.dumps(texts, ensure_ascii=False)}"
