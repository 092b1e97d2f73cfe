import pytest

from dualselect.models import GenerationSettings, LocalModels
from dualselect.models.answering import answer_all, as_messages, with_system
from dualselect.models.cache import AnswerCache
from dualselect.models.thoughts import Answer

PROMPTS = [[{"role": "user", "content": text}] for text in ("a", "bb", "ccc", "dddd", "eeeee")]
IDENTITY = {"name": "it", "hash": "abc"}
SETTINGS = GenerationSettings()


def texts(answers):
    return [answer.text for answer in answers]


class Asked:
    """Answers in upper case, in batches of two from the end, and fails after some."""

    def __init__(self, fails_after=99):
        self.conversations, self.fails_after = [], fails_after

    def __call__(self, conversations, on_batch):
        numbers = list(reversed(range(len(conversations))))
        for start in range(0, len(numbers), 2):
            if len(self.conversations) >= self.fails_after:
                raise KeyboardInterrupt
            batch = numbers[start : start + 2]
            self.conversations += [conversations[number] for number in batch]
            on_batch(batch, [Answer(conversations[number][-1]["content"].upper(), "stop") for number in batch])


def test_answers_keep_the_order_of_the_prompts():
    assert texts(answer_all(IDENTITY, PROMPTS, SETTINGS, None, Asked())) == ["A", "BB", "CCC", "DDDD", "EEEEE"]


def test_what_is_in_the_cache_is_not_asked_for(tmp_path):
    cache, first, second = AnswerCache(tmp_path), Asked(), Asked()
    answer_all(IDENTITY, PROMPTS[:3], SETTINGS, cache, first)
    assert texts(answer_all(IDENTITY, PROMPTS, SETTINGS, cache, second)) == ["A", "BB", "CCC", "DDDD", "EEEEE"]
    assert sorted(second.conversations, key=str) == PROMPTS[3:]
    third = Asked(fails_after=0)
    assert texts(answer_all(IDENTITY, PROMPTS[::-1], SETTINGS, cache, third)) == ["EEEEE", "DDDD", "CCC", "BB", "A"]
    assert third.conversations == []


def test_another_target_or_setting_is_asked_again(tmp_path):
    cache = AnswerCache(tmp_path)
    answer_all(IDENTITY, PROMPTS, SETTINGS, cache, Asked())
    for identity, settings in [({"hash": "x"}, SETTINGS), (IDENTITY, GenerationSettings(max_new_tokens=3))]:
        asked = Asked()
        answer_all(identity, PROMPTS, settings, cache, asked)
        assert len(asked.conversations) == len(PROMPTS)


def test_a_run_that_broke_off_continues_where_it_was(tmp_path):
    cache, broken, again = AnswerCache(tmp_path), Asked(fails_after=4), Asked()
    with pytest.raises(KeyboardInterrupt):
        answer_all(IDENTITY, PROMPTS, SETTINGS, cache, broken)
    assert texts(answer_all(IDENTITY, PROMPTS, SETTINGS, cache, again)) == ["A", "BB", "CCC", "DDDD", "EEEEE"]
    assert again.conversations == [prompt for prompt in PROMPTS if prompt not in broken.conversations]
    assert len(again.conversations) == 1


@pytest.mark.parametrize("cached", [True, False])
def test_a_prompt_that_recurs_is_asked_for_once(tmp_path, cached):
    asked = Asked()
    cache = AnswerCache(tmp_path) if cached else None
    doubled = [PROMPTS[0], PROMPTS[1], PROMPTS[0], "a"]
    assert texts(answer_all(IDENTITY, doubled, SETTINGS, cache, asked)) == ["A", "BB", "A", "A"]
    assert len(asked.conversations) == 2


def test_no_prompts_ask_nothing():
    asked = Asked()
    assert texts(answer_all(IDENTITY, [], SETTINGS, None, asked)) == []
    assert asked.conversations == []


def test_text_is_one_user_turn():
    assert as_messages("hello") == [{"role": "user", "content": "hello"}]


def test_the_system_prompt_comes_first_unless_there_is_one():
    asked = Asked()
    own = [{"role": "system", "content": "mine"}, *PROMPTS[0]]
    answer_all(IDENTITY, [PROMPTS[0], own], GenerationSettings(system="be kind"), None, asked)
    assert sorted(asked.conversations, key=str) == [[{"role": "system", "content": "be kind"}, *PROMPTS[0]], own]
    assert with_system(PROMPTS[0], None) == PROMPTS[0]


def test_a_local_target_resumes_after_a_failure_without_asking_twice(tiny_model_dir, tmp_path, monkeypatch):
    settings = GenerationSettings(max_new_tokens=6, batch_size=2)
    expected = LocalModels().open(str(tiny_model_dir)).generate(PROMPTS, settings)
    cache = AnswerCache(tmp_path)
    target = LocalModels(cache=cache).open(str(tiny_model_dir))
    model, seen = target.model._shared.model, []
    generate = model.generate

    def failing(input_ids, **options):
        if len(seen) == 2:
            raise RuntimeError("the power went")
        seen.append(len(input_ids))
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", failing)
    with pytest.raises(RuntimeError, match="the power went"):
        target.generate(PROMPTS, settings)
    seen.clear()
    assert target.generate(PROMPTS, settings) == expected
    assert seen == [1]
    assert target.generate(PROMPTS, settings) == expected
    assert seen == [1]


def test_targets_are_asked_for_what_is_rendered_and_answers_are_kept_by_it(tmp_path):
    """A chat template that writes another date makes another prompt, though the messages are the same."""
    cache = AnswerCache(tmp_path)
    for date, asked in (("Monday", 1), ("Tuesday", 1), ("Monday", 0)):
        seen = []

        def ask(rendered, on_batch, seen=seen):
            seen.extend(rendered)
            on_batch(list(range(len(rendered))), [Answer(text, "stop") for text in rendered])

        def render(messages, date=date):
            return f"{date}: {messages[-1]['content']}"

        found = answer_all(IDENTITY, PROMPTS[:1], SETTINGS, cache, ask, render=render)
        assert found == [Answer(f"{date}: a", "stop")]
        assert len(seen) == asked


@pytest.mark.parametrize(
    ("answer", "keep_empty", "is_kept"),
    [
        (Answer("", "stop"), True, True),
        (Answer("", "stop"), False, False),
        (Answer("x", "length"), False, True),
        (Answer(None, reason="broken"), True, False),
    ],
)
def test_answers_that_may_differ_next_time_are_not_kept(tmp_path, answer, keep_empty, is_kept):
    cache, calls = AnswerCache(tmp_path), []

    def ask(conversations, on_batch):
        calls.append(len(conversations))
        on_batch([0], [answer])

    for _ in range(2):
        assert answer_all(IDENTITY, PROMPTS[:1], SETTINGS, cache, ask, keep_empty=keep_empty) == [answer]
    assert len(calls) == (1 if is_kept else 2)
