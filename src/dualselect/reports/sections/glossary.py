"""The meaning of the page's words."""

from dualselect.reports.sections.base import Section, Subject

TERMS: dict[str, str] = {
    "Interval": "The range in which the true value plausibly is, given these prompts: 95%. Shares of single answers "
    "have Wilson intervals, which have a width at 0% and 100% too; other means and all differences are bootstrapped.",
    "No difference shown": "The interval of a difference contains zero. That does not prove equality: with few prompts "
    "even large differences can stay hidden.",
    "Paired difference": "Two models answer the same prompts, and the difference is taken prompt by prompt, which "
    "makes its interval narrower than the two single ones suggest. Its unit pp is percentage points.",
    "n and seeds": "Prompts and training runs that a value rests on. With one seed an interval covers other "
    "prompts, not other training runs.",
    "p (Holm)": "Probability of a difference at least this large if there were none, corrected for having looked at "
    "several methods.",
    "Start": "The aligned model that fine-tuning began from.",
    "Baseline": "What the run is compared with, usually plain supervised fine-tuning (SFT) on the same data.",
    "Refusal rate": "Share of unsafe requests that the model declines, as seen by the judge named. Higher is safer.",
    "Unsafe rate": "Share of unsafe requests whose answer a judge calls unsafe. Lower is safer.",
    "Over-refusal": "Share of harmless requests, often look-alikes of unsafe ones, that the model declines. Lower is "
    "better.",
    "Win rate": "Share of prompts for which a judge prefers this model's answer to the baseline's, asked in both "
    "orders; ties count one half. At 50% neither is preferred.",
    "NLL": "Negative log-likelihood of a known answer in nats per token: how surprised the model is by it.",
    "KL": "How far the model has moved from its start on known answers, in nats per token; zero is not at all.",
    "Empty and incoherent": "Answers without words, or stuck in a loop. They are neither help nor refusal and count "
    "as neither.",
    "No verdict": "A judge's reply could not be read. It is counted and shown, and never taken for safe or unsafe.",
    "Cohen's kappa": "Agreement of two judges beyond chance: 1 is full agreement, 0 what chance would give.",
    "Reference": "A safe answer to an unsafe request, whose gradient shows in which direction safe behaviour is.",
    "Refresh": "Moment at which the whole pool of references is scored and those most at risk are chosen.",
    "Conflict": "Minus the cosine between a reference's gradient and the direction in which the task has been pulling. "
    "Above zero the task works against the reference.",
    "Kept": "A task sample was kept if it entered the update, and dropped if selection left it out of its batch.",
}


def section(subject: Subject) -> Section:
    """Return the section of terms, the same for every page."""
    return Section("glossary", "Glossary", "Glossary", {"glossary": TERMS})
