"""The forms that a record may have, and how each is read: as a prompt and a completion, both as messages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from dualselect.data.messages import (
    Messages,
    check_completion,
    check_prompt,
    is_given,
    messages_of,
    sharegpt_messages,
    split_conversation,
    text_of,
    transcript,
)
from dualselect.data.records import kind_of
from dualselect.errors import DataError

Fields = Mapping[str, Any]
Content = tuple[Messages, Messages | None]

# What identifies samples; loading reads them.
_DESCRIPTIVE = ("id", "category", "planted")
# What surrounds the prompt in any form.
_SYSTEM = ("system", "system_prompt")
_SURROUNDING = (*_SYSTEM, "history", "context")
# Fields without which a record means something else.
_UNREAD = ("tools", "functions", "image", "images", "video", "videos", "audio", "audios")
# Fields that can mark an answer as undesired, as in unpaired preference data.
_VERDICTS = ("label", "kto_tag")


@dataclass(frozen=True)
class Form:
    """A form of records.

    Attributes:
        name: Name that the user reads.
        fields: The fields that a record of this form has.
        answer: The one of these fields that only references may lack.
        optional: Fields that a record may have in addition.
        read: Function that returns prompt and completion of a record at a place.
    """

    name: str
    fields: tuple[str, ...]
    answer: str
    read: Callable[[Fields, str], Content]
    optional: tuple[str, ...] = ()

    def fits(self, record: Fields, answer_needed: bool) -> bool:
        """Whether a record has the fields of this form; with `answer_needed` False it may lack the answer."""
        prompt_fields = tuple(name for name in self.fields if name != self.answer)
        needed = self.fields if answer_needed else prompt_fields or self.fields
        return all(record.get(name) is not None for name in needed)

    def __str__(self) -> str:
        return " + ".join([*self.fields, *(f"[{name}]" for name in self.optional)])


def _read_prompt_completion(record: Fields, place: str) -> Content:
    return _turns(record, "prompt", "completion", place)


def _read_question_answer(record: Fields, place: str) -> Content:
    return _turns(record, "question", "answer", place)


def _read_query_response(record: Fields, place: str) -> Content:
    return _turns(record, "query", "response", place)


def _turns(record: Fields, asked: str, answered: str, place: str) -> Content:
    prompt = messages_of(record.get(asked), asked, place, "user")
    check_prompt(prompt, asked, place)
    if record.get(answered) is None:
        return prompt, None
    completion = messages_of(record[answered], answered, place, "assistant")
    check_completion(completion, answered, place)
    return prompt, completion


def _read_instruction(record: Fields, place: str) -> Content:
    text = text_of(record.get("instruction"), "instruction", place)
    if is_given(record.get("input")):
        text = f"{text}\n\n{text_of(record['input'], 'input', place)}"
    prompt = [{"role": "user", "content": text}]
    if record.get("output") is None:
        return prompt, None
    return prompt, [{"role": "assistant", "content": text_of(record["output"], "output", place)}]


def _read_instruction_response(record: Fields, place: str) -> Content:
    return _turns(record, "instruction", "response", place)


def _read_messages(record: Fields, place: str) -> Content:
    value = record.get("messages")
    if isinstance(value, str):
        raise DataError(f"{place}: field 'messages' is text; give a list of messages")
    return split_conversation(messages_of(value, "messages", place, "user"), "messages", place)


def _read_sharegpt(record: Fields, place: str) -> Content:
    turns = sharegpt_messages(record.get("conversations"), "conversations", place)
    return split_conversation(messages_of(turns, "conversations", place, "user"), "conversations", place)


def _read_preference(record: Fields, place: str) -> Content:
    """Read `chosen` as the answer; it may contain the whole conversation, as messages or as a transcript."""
    chosen = messages_of(transcript(record.get("chosen")), "chosen", place, "assistant")
    given = record.get("prompt")
    if chosen[0]["role"] == "assistant":
        if given is None:
            raise DataError(
                f"{place}: field 'prompt' is missing, and 'chosen' contains no conversation; give the prompt"
            )
        prompt = messages_of(transcript(given), "prompt", place, "user")
        check_prompt(prompt, "prompt", place)
        check_completion(chosen, "chosen", place)
        return prompt, chosen
    prompt, completion = split_conversation(chosen, "chosen", place)
    if given is not None:
        asked = messages_of(transcript(given), "prompt", place, "user")
        if asked[-1]["content"].strip() != prompt[-1]["content"].strip():
            raise DataError(f"{place}: field 'chosen' is a conversation about another prompt; make the two agree")
    return prompt, completion


#: In the order in which they are tried.
FORMS = (
    Form("prompt-completion", ("prompt", "completion"), "completion", _read_prompt_completion),
    Form("preference", ("chosen",), "chosen", _read_preference, ("prompt", "rejected")),
    Form("messages", ("messages",), "messages", _read_messages),
    Form("ShareGPT", ("conversations",), "conversations", _read_sharegpt),
    Form("instruction", ("instruction", "output"), "output", _read_instruction, ("input",)),
    Form("instruction-response", ("instruction", "response"), "response", _read_instruction_response),
    Form("question-answer", ("question", "answer"), "answer", _read_question_answer),
    Form("query-response", ("query", "response"), "response", _read_query_response),
)


def detect_form(record: Fields, place: str, answer_needed: bool = True) -> Form:
    """Return the form of a record.

    Raises:
        DataError: The form is unknown (the message lists the known ones), or a field of the nearest one is missing.
    """
    for needed in (True, answer_needed):
        for form in FORMS:
            if form.fits(record, needed):
                return form
    for form in FORMS:
        if any(record.get(name) is not None for name in (*form.fields, *form.optional)):
            raise _missing(form, record, place)
    found = ", ".join(map(str, record)) or "no field"
    raise DataError(f"{place}: unknown form (found {found}); rename fields to one of {'; '.join(map(str, FORMS))}")


def read_content(record: Fields, form: Form, place: str, answer_needed: bool = True) -> Content:
    """Return prompt and completion of a record of a known form; the completion is None where it lacks one.

    Raises:
        DataError: The record is of another form, lacks a field, or a field cannot be used.
    """
    if not form.fits(record, answer_needed=True):
        other = next((other for other in FORMS if other.fits(record, answer_needed=True)), None)
        if other is not None:
            raise DataError(
                f"{place}: is a record of form '{other.name}' among records of form '{form.name}'; give them the "
                "same fields, or split the file"
            )
        if not form.fits(record, answer_needed):
            raise _missing(form, record, place)
    prompt, completion = form.read(record, place)
    if completion is None and answer_needed:
        raise DataError(f"{place}: field '{form.answer}' ends without an answer; let the assistant speak last")
    _check_meaning(record, completion is not None, place)
    return _surrounded(prompt, record, place), completion


def ignored_fields(record: Fields, form: Form) -> list[str]:
    """Return the fields of a record that have content and are not read."""
    read = {*form.fields, *form.optional, *_DESCRIPTIVE, *_SURROUNDING}
    others = {name: value for name, value in record.items() if name not in read and is_given(value)}
    return [name for name, value in others.items() if not _is_mark(name, value)]


def _is_mark(name: str, value: Any) -> bool:
    """Whether a field only says that the answer is a desired one, which is assumed anyway."""
    return (name in _VERDICTS and value is True) or (name == "weight" and value == 1)


def _check_meaning(record: Fields, has_answer: bool, place: str) -> None:
    """Refuse fields that are not read but change what a record means.

    Raises:
        DataError: The record has such a field, or the answer is marked as one to avoid.
    """
    for name in _UNREAD:
        if is_given(record.get(name)):
            raise DataError(
                f"{place}: field '{name}' is not read, but the record means something else without it; write what the "
                "model should see into the messages, or give the data to DualSelectTrainer in Python"
            )
    for name in _VERDICTS if has_answer else ():
        if record.get(name) is False or str(record.get(name)).strip().lower() == "false":
            raise DataError(
                f"{place}: field '{name}' is false, so the answer is one to avoid; remove the record, or give a "
                "desired answer"
            )
    weight = record.get("weight")
    if isinstance(weight, int | float) and weight != 1:
        raise DataError(
            f"{place}: field 'weight' is {weight}, but all samples count alike; remove the field, or repeat or remove "
            "the record"
        )


def refuse_undesired(dataset: Dataset, name: str) -> None:
    """Refuse a data set in TRL's forms whose answers are not all desired ones, as unpaired preference data has them.

    Args:
        dataset: Samples, whose column `label` or `kto_tag` says whether the answer is a desired one.
        name: Name of the data set in errors.

    Raises:
        DataError: An answer is one to avoid.
    """
    if {"completion", "messages", "conversations"}.isdisjoint(dataset.column_names):
        return
    for column in (verdict for verdict in _VERDICTS if verdict in dataset.column_names):
        row = next((row for row, is_desired in enumerate(dataset[column], start=1) if is_desired is False), None)
        if row is not None:
            raise DataError(
                f"{name}: column '{column}' is false in row {row}, so its answer is one to avoid; keep the rows in "
                f"which it is true: dataset.filter(lambda row: row['{column}'])"
            )


def _surrounded(prompt: Messages, record: Fields, place: str) -> Messages:
    """Return a prompt with the system message, the earlier turns and the context of its record.

    The context goes before the last question, after an empty line: `{context}\\n\\n{question}`.
    """
    first = prompt[:1] if prompt[0]["role"] == "system" else []
    turns = prompt[len(first) :]
    for name in _SYSTEM:
        if is_given(record.get(name)):
            message = {"role": "system", "content": text_of(record[name], name, place)}
            if first and first != [message]:
                raise DataError(f"{place}: field '{name}' differs from the prompt's own system message; remove one")
            first = [message]
    if is_given(record.get("context")):
        asked = f"{text_of(record['context'], 'context', place)}\n\n{turns[-1]['content']}"
        turns = [*turns[:-1], {**turns[-1], "content": asked}]
    return [*first, *_history(record.get("history"), place), *turns]


def _history(value: Any, place: str) -> Messages:
    """Return the earlier turns of a conversation, given as pairs of what the user and the assistant said."""
    if not is_given(value):
        return []
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise DataError(f"{place}: field 'history' is {kind_of(value)}; give a list of pairs [question, answer]")
    return [
        {"role": role, "content": text_of(said, f"history[{index}]", place)}
        for index, pair in enumerate(value)
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]


def _missing(form: Form, record: Fields, place: str) -> DataError:
    name = next(name for name in form.fields if record.get(name) is None)
    kind = "null" if name in record else "missing"
    return DataError(f"{place}: field '{name}' is {kind}; a record of form '{form.name}' has {form}")
