"""Print pip's flag for PyTorch's index of CPU builds if that index answers within seconds; print nothing otherwise.

Only the standard library: this runs before anything is installed.
"""

import signal
import sys
import urllib.request

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SECONDS = 4


def answers(url: str) -> bool:
    """Return whether `url` can be opened."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS):
            return True
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    if hasattr(signal, "alarm"):
        # A name look-up obeys no time-out of Python's; the alarm ends this process with nothing printed.
        signal.alarm(SECONDS)
    # Elsewhere PyPI's own build is the CPU one.
    if sys.platform == "linux" and answers(f"{CPU_INDEX}/torch/"):
        print(f"--extra-index-url={CPU_INDEX}")
