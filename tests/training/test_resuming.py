"""What a continued run must share with the one before: everything, unless it is listed as free to change."""

import json
from dataclasses import dataclass, fields

import pytest

from dualselect.errors import ResumeError
from dualselect.methods import Random
from dualselect.training import DualSelectConfig
from dualselect.training.resuming import MAY_CHANGE, compare, identity_of

ADAPTER = {"peft_type": "LORA", "r": 4, "target_modules": {"q_proj", "v_proj"}, "base_model_name_or_path": "here"}


@pytest.fixture
def identify(settings):
    """Return a function that makes an identity; keywords change settings, or the arguments of `identity_of`."""

    def make(kind=DualSelectConfig, **changes):
        given = {
            "method": Random(),
            "adapter": {"default": ADAPTER},
            "weights": "w" * 64,
            "data": {"task": "t" * 64},
            "processes": 1,
            "chat_template": "{{ messages }}",
        }
        given |= {name: changes.pop(name) for name in [*given] if name in changes}
        args = settings(kind)
        for name, value in changes.items():
            setattr(args, name, value)
        return identity_of(args, given.pop("method"), **given)

    return make


def test_every_setting_is_compared_unless_it_is_listed(identify):
    names = {option.name for option in fields(DualSelectConfig)}
    assert names >= MAY_CHANGE
    first = identify()
    for name in names - {"method", "method_options"}:
        other = identify(**{name: "something else"})
        if name in MAY_CHANGE:
            compare(first, other)
        else:
            with pytest.raises(ResumeError, match=rf"another {name} \(there: .*'something else'"):
                compare(first, other)


def test_a_setting_that_is_new_is_compared(identify):
    @dataclass
    class Later(DualSelectConfig):
        novelty: float = 0.5

    with pytest.raises(ResumeError, match=r"novelty \(there: 0.5, here: 0.7\)"):
        compare(identify(Later), identify(Later, novelty=0.7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": Random(task_token_fraction=0.5)}, r"another task_token_fraction \(there: 0.9, here: 0.5\)"),
        ({"weights": "x" * 64}, r"another starting weights"),
        ({"data": {"task": "u" * 64}}, "another task data"),
        ({"data": {"task": "t" * 64, "references": "r"}}, r"another references data \(there: None, here: 'r'\)"),
        ({"adapter": {"default": ADAPTER | {"r": 8}}}, r"another r of adapter default \(there: 4, here: 8\)"),
        ({"adapter": None}, r"another adapter \(there: \['default'\], here: None\)"),
        ({"processes": 2}, r"another processes \(there: 1, here: 2\)"),
        ({"chat_template": "{{ messages }} "}, "another chat template"),
        ({"learning_rate": 0.1, "seed": 4}, r"learning_rate \(there: 0.01, here: 0.1\), seed \(there: 3, here: 4\)"),
    ],
)
def test_what_a_run_is_made_from_is_compared(identify, change, message):
    with pytest.raises(ResumeError, match=message) as raised:
        compare(identify(), identify(**change), "runs/x/checkpoint-2")
    assert str(raised.value).startswith("runs/x/checkpoint-2 was written by a run with another ")
    assert len(str(raised.value)) < 400


def test_what_a_method_says_that_it_is_made_from_is_compared(identify):
    class Reading(Random):
        content = "a"

        def identity(self):
            return super().identity() | {"content of the file": self.content}

    one, other = Reading(), Reading()
    other.content = "b"
    compare(identify(method=one), identify(method=Reading()))
    with pytest.raises(ResumeError, match=r"another content of the file \(there: 'a', here: 'b'\)"):
        compare(identify(method=one), identify(method=other))


def test_another_method_is_all_that_is_said(identify):
    class Other(Random):
        name = "other"

    with pytest.raises(ResumeError, match=r"another method \(there: 'random', here: 'other'\): "):
        compare(identify(), identify(method=Other(0.5)))


def test_an_identity_survives_its_file_and_does_not_depend_on_the_order_of_sets(identify):
    identity = identify()
    compare(json.loads(json.dumps(identity)), identity)
    assert identity["target_modules of adapter default"] == ["q_proj", "v_proj"]
    compare(identity, identify(adapter={"default": ADAPTER | {"base_model_name_or_path": "elsewhere"}}))


def test_secrets_are_left_out(identify):
    secret = "never written"
    assert secret not in json.dumps(identify(hub_token=secret, model_init_kwargs={"token": secret}))
