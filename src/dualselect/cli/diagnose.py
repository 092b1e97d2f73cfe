"""`dualselect diagnose`: do different batches of the task put different references at risk?"""

from collections.abc import Sequence

HELP = "measure whether different task batches put different references at risk"
ABOUT = """Measure whether different batches of a task put different safety references at risk, and whether references
that were chosen for a batch preserve safety better than fixed or random ones.

  dualselect diagnose --config examples/diagnose.yaml
  dualselect diagnose --config examples/diagnose.yaml --top_k 8 --output_dir runs/diagnose-8

The stages are resources, warm-up, embeddings, traces, overlap, heatmap and rollouts. Each leaves files in OUTPUT_DIR
and is done once: the same command continues where it stopped, and where a setting has changed it makes the stages again
that depend on it."""


def run(argv: Sequence[str]) -> int:
    """Do the diagnostic that the arguments ask for; returns the exit code."""
    from dualselect.diagnostics.run import diagnose
    from dualselect.diagnostics.settings import parse_settings
    from dualselect.reports import write_report

    settings = parse_settings(argv, ABOUT)
    diagnose(settings)
    print(f"Saved in {settings.folder}; {write_report(settings.folder)} shows what was found")
    return 0
