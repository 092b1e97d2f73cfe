"""`dualselect train`: fine-tune a model by any method, from a YAML file and flags."""

from collections.abc import Sequence
from pathlib import Path

HELP = "fine-tune a model by any method"
ABOUT = """Fine-tune a model. Settings come from a YAML file, from flags, or from both.

  dualselect train --config examples/gsm8k.yaml
  dualselect train --config examples/gsm8k.yaml --method sft --output_dir runs/plain
  dualselect train --task data/task.jsonl --references data/safe.jsonl --model my/model --rho 0.3"""


def run(argv: Sequence[str]) -> int:
    """Fine-tune as the arguments say; returns the exit code."""
    from dualselect.distributed import rank
    from dualselect.experiments.settings import parse_settings
    from dualselect.experiments.train import train
    from dualselect.reports import write_model_card, write_report
    from dualselect.training import record_conflicts

    settings = parse_settings(argv, "train", ABOUT)
    record_conflicts(train(settings))
    if rank() == 0:
        folder = Path(settings.training.output_dir)
        write_model_card(folder)
        print(f"Saved in {folder}; {write_report(folder)} shows what happened")
    return 0
