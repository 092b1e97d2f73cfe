"""Results with answers and nothing else."""

from collections.abc import Callable, Mapping

import pytest

from dualselect.runs.results import Metric, Record, SuiteResult


@pytest.fixture
def make_result() -> Callable[..., SuiteResult]:
    """Return a function from answers by id to a result; the prompt of an id is `prompt <id>`."""

    def make(answers: Mapping[str, str | None], *, suite: str = "harm", role: str = "model") -> SuiteResult:
        records = [Record(id=name, prompt=f"prompt {name}", answer=answer) for name, answer in answers.items()]
        return SuiteResult(
            suite=suite,
            kind="safety",
            role=role,
            target={"name": role},
            metrics={},
            records=records,
            licence="MIT",
            seed=3,
        )

    return make


@pytest.fixture
def make_wins() -> Callable[..., SuiteResult]:
    """Return a function from wins (and lengths of both answers) to the result of a comparison, `c/win_rate`."""

    def make(wins, lengths=None, *, suite: str = "harm-winrate") -> SuiteResult:
        lengths = [(5, 5)] * len(wins) if lengths is None else lengths
        records = [
            Record(
                id=str(index), prompt="p", answer="x" * ours, baseline_answer="y" * theirs, values={"c/win_rate": win}
            )
            for index, (win, (ours, theirs)) in enumerate(zip(wins, lengths, strict=True))
        ]
        return SuiteResult(
            suite=suite,
            kind="comparison",
            role="model",
            target={},
            metrics={"c/win_rate": Metric("win rate", "higher")},
            records=records,
        )

    return make
