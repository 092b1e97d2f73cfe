"""A tokenizer is known by all that decides what a model is asked."""

from datetime import datetime
from types import SimpleNamespace

from dualselect.models import loading


def test_the_hash_changes_with_the_date_that_a_template_writes(tokenizer, monkeypatch):
    def hash_on(day):
        monkeypatch.setattr(loading, "datetime", SimpleNamespace(now=lambda: datetime(2026, 1, day)))
        return loading.tokenizer_hash(tokenizer)

    assert hash_on(1) == hash_on(2)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + tokenizer.chat_template
    assert hash_on(1) != hash_on(2)
    assert hash_on(1) == hash_on(1)
