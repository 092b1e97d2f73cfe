"""`python -m benchmarks.pools` on one small pool in this process, and its figures by hand."""

import pytest

from benchmarks.pools import STAGES, main, measure, per_sample, write_pool

pytestmark = pytest.mark.slow


def test_every_stage_of_a_pool_is_measured(tmp_path):
    path = tmp_path / "references.jsonl"
    write_pool(path, 40)
    found = measure(path, candidates=20, keep=5)
    assert list(found) == ["start", *STAGES]
    assert all(usage["anonymous"] > 0 for usage in found.values())


def test_bytes_of_a_further_sample():
    def usage(anonymous):
        return {stage: {"anonymous": anonymous * (1 + place), "mapped": 0} for place, stage in enumerate(STAGES)}

    assert per_sample({10: usage(1000), 110: usage(1200)}) == {"loaded": 2.0, "prepared": 4.0, "refreshed": 6.0}


def test_sizes_that_show_no_growth_are_refused(capsys):
    assert main(["--sizes", "1000", "1000"]) == 2
    assert "give two different sizes above 64" in capsys.readouterr().err
