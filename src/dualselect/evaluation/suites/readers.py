"""Readers: each makes a sample from a record, with the fields of the original data set or of one of the plain forms."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualselect.data.forms import FORMS, detect_form, read_content
from dualselect.data.messages import Messages, messages_of, text_of, transcript, visible, whole
from dualselect.data.records import Record
from dualselect.errors import DataError
from dualselect.evaluation.exact_match import final_number
from dualselect.evaluation.suites.base import Reader, Sample

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_COLUMNS = _LETTERS[:10]  # names of columns that contain choices


def prompts(
    *fields: str,
    category: Sequence[str] = ("category",),
    context: Sequence[str] = (),
    keep: Callable[[Mapping[str, Any]], bool] | None = None,
) -> Reader:
    """Return a reader of prompts.

    Args:
        fields: Fields of the original that may contain the prompt; without one of them, any form of `load_samples` is
            read, whose answer becomes the reference answer.
        category: Fields that may contain the category.
        context: Fields that may contain a text to put before the prompt.
        keep: Function that returns whether a record is part of the suite; None keeps all.
    """

    def read(record: Record) -> Sample | None:
        if keep is not None and not keep(record.fields):
            return None
        named = _named(record, category)
        field = _field(record, fields)
        if field is None:
            return _plain(record, fields, named)
        turns = messages_of(record.fields[field], field, record.place, "user")
        if before := _named(record, context):
            turns = [*turns[:-1], {"role": "user", "content": f"{before}\n\n---\n\n{turns[-1]['content']}"}]
        return Sample(turns, category=named)

    return read


def first_turns(*fields: str) -> Reader:
    """Return a reader of the first thing that the user says in a transcript ('Human: ... Assistant: ...')."""
    plain = prompts()

    def read(record: Record) -> Sample | None:
        field = _field(record, fields)
        if field is None:
            return plain(record)
        turns = messages_of(transcript(record.fields[field]), field, record.place, "user")
        return Sample(turns[:1])

    return read


def conversations(record: Record) -> Sample:
    """Return the prompt of a record whose `conversations` are turns as ShareGPT has them, or of any plain form.

    Its last answer is the reference answer. An empty system message stays empty, as in training data.
    """
    return _plain(record, ("conversations",), _named(record, ("category",)))


def number_problem(record: Record) -> Sample:
    """Return a problem whose reference answer ends in a number; as question + answer, or in any plain form."""
    sample = _plain(record, ("question",), _named(record, ("category",)))
    if sample.expected is None or final_number(sample.expected) is None:
        raise DataError(
            f"{record.place}: the answer has no number at its end; write it as '#### 42', or remove the record"
        )
    return sample


def answered(record: Record) -> Sample:
    """Return a prompt with its known answer, in any plain form."""
    sample = _plain(record, (), _named(record, ("category",)))
    if sample.expected is None:
        raise DataError(f"{record.place}: has a prompt but no answer; give it a field 'completion'")
    return sample


def multiple_choice(record: Record) -> Sample:
    """Return a question with lettered choices.

    `choices` is a list of texts, and `answer` the index of the right one, its letter or its text. A CSV file has
    columns A, B, ... instead of `choices`.
    """
    place = record.place
    question = text_of(_needed(record, "question"), "question", place)
    texts = _choices(record)
    letters = tuple(_LETTERS[: len(texts)])
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True))
    asked = f"{question.strip()}\n\n{listed}\n\nAnswer with the letter of the right choice."
    right = letters[_index(_needed(record, "answer"), letters, texts, place)]
    prompt = [{"role": "user", "content": asked}]
    return Sample(prompt, expected=right, choices=letters, category=_named(record, ("category", "subject")))


def labelled(labels: Sequence[str] = ()) -> Reader:
    """Return a reader of `text` and `label`; a label that is a number is the index of one of `labels`."""

    def read(record: Record) -> Sample:
        text = text_of(_needed(record, "text"), "text", record.place)
        label = _label(_needed(record, "label"), labels, record.place)
        return Sample([{"role": "user", "content": text}], expected=label, category=label)

    return read


def ask_for_label(sample: Sample, labels: Sequence[str]) -> Messages:
    """Return the prompt that asks for the label of a text; the labels are named in it."""
    asked = f"{sample.question.strip()}\n\nWhich label fits this text: {', '.join(labels)}? Answer with the label only."
    return [*sample.prompt[:-1], {"role": "user", "content": asked}]


def _plain(record: Record, asked: Sequence[str], category: str | None) -> Sample:
    """Return the sample in a record of one of the forms of training data, whose answer may be missing."""
    if not any(form.fits(record.fields, answer_needed=False) for form in FORMS):
        names = " or ".join(f"'{name}'" for name in dict.fromkeys([*asked, "prompt"]))
        found = ", ".join(map(str, record.fields)) or "no field"
        raise DataError(f"{record.place}: contains no prompt (found {found}); name the field with it {names}")
    form = detect_form(record.fields, record.place, answer_needed=False)
    prompt, completion = read_content(record.fields, form, record.place, answer_needed=False)
    if completion is None:
        return Sample(prompt, category=category)
    return Sample([*prompt, *completion[:-1]], expected=completion[-1]["content"], category=category)


def _field(record: Record, names: Sequence[str]) -> str | None:
    return next((name for name in names if record.fields.get(name) is not None), None)


def _needed(record: Record, field: str) -> Any:
    if field not in record.fields:
        found = ", ".join(map(str, record.fields)) or "no field"
        raise DataError(f"{record.place}: field '{field}' is missing (found {found}); add or rename it")
    return record.fields[field]


def _named(record: Record, names: Sequence[str]) -> str | None:
    field = _field(record, names)
    if field is None or not str(record.fields[field]).strip():
        return None
    return whole(str(record.fields[field]), field, record.place)


def _list_of(record: Record, field: str) -> list[Any]:
    value = _needed(record, field)
    if not isinstance(value, list) or not value:
        raise DataError(f"{record.place}: field '{field}' is not a list, or is empty; give a list")
    return value


def _choices(record: Record) -> list[str]:
    """Return the choices, in the order of their letters.

    Raises:
        DataError: There are too few or too many, or one is empty, so that the key could point at another.
    """
    columns = {letter: record.fields[letter] for letter in _COLUMNS if letter in record.fields}
    if "choices" not in record.fields and len(columns) > 1:
        while columns and _is_empty(columns[max(columns)]):
            del columns[max(columns)]  # this question has fewer choices than others
        given = columns
    else:
        given = {f"choices[{index}]": item for index, item in enumerate(_list_of(record, "choices"))}
    if not 2 <= len(given) <= len(_LETTERS):
        raise DataError(f"{record.place}: field 'choices' contains {len(given)} choices; give 2 to {len(_LETTERS)}")
    for field, item in given.items():
        if _is_empty(item):
            raise DataError(
                f"{record.place}: field '{field}' is empty, and without it the answer could name another choice; "
                "write the choice, such as the word None, or remove the record"
            )
    return [text_of(str(item), field, record.place) for field, item in given.items()]


def _is_empty(choice: Any) -> bool:
    is_missing = choice is None or choice != choice  # NaN, as tables have it for a missing cell
    return is_missing or (isinstance(choice, str) and not visible(choice).strip())


def _index(answer: Any, letters: Sequence[str], texts: Sequence[str], place: str) -> int:
    # Letters and indices come before texts: choices may be numbers themselves, but then the answer is not a text.
    if isinstance(answer, str):
        for names in (letters, texts, [str(index) for index in range(len(letters))]):
            if answer.strip() in names:
                return names.index(answer.strip())
    elif isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(letters):
        return answer
    raise DataError(
        f"{place}: field 'answer' is {answer!r}; give the letter ({letters[0]} to {letters[-1]}), the index from 0 or "
        "the text of one of the choices"
    )


def _label(value: Any, labels: Sequence[str], place: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if not labels:
            return str(value)
        if 0 <= value < len(labels):
            return labels[value]
    elif isinstance(value, str) and (value.strip() in labels or (value.strip() and not labels)):
        return whole(value.strip(), "label", place)
    known = f"one of {', '.join(labels)}, or its index from 0" if labels else "text or a whole number"
    raise DataError(f"{place}: field 'label' is {value!r}; give {known}")
