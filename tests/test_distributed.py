"""Processes that wait for one another: real ones, over gloo on this machine."""

import subprocess
import sys

import pytest

_SCRIPT = """
import sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
from dualselect.distributed import from_all_processes, on_main_process

LIMIT = 5  # seconds
number, store = int(sys.argv[1]), dist.FileStore(sys.argv[2], 2)


def begin(run):
    store.add(run, 1)
    while store.add(run, 0) < 2:  # imports may take longer than the limit
        time.sleep(0.05)
    prefixed = dist.PrefixStore(f"group of {run}", store)
    dist.init_process_group("gloo", store=prefixed, rank=number, world_size=2, timeout=timedelta(seconds=LIMIT))


begin("first")
assert on_main_process(lambda: time.sleep(LIMIT + 3) or "answers") == "answers"
dist.destroy_process_group()

begin("second")  # in the same processes, with a group of its own
time.sleep(0 if number else LIMIT + 3)
assert from_all_processes(number) == [0, 1]

time.sleep(0 if number else LIMIT + 3)
if number:
    try:
        dist.all_reduce(torch.zeros(1))
    except RuntimeError as error:
        print("limited:", error)
"""


@pytest.mark.slow
def test_a_long_task_of_the_main_process_does_not_run_into_the_time_limit(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    started = [
        subprocess.Popen(
            [sys.executable, script, str(number), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    (_, first), (limited, second) = (process.communicate(timeout=600) for process in started)
    assert [process.returncode for process in started] == [0, 0], first + second
    assert limited.startswith("limited:")  # which an exchange of tensors would have run into
