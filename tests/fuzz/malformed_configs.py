"""YAML files of settings that somebody may hand us, and other files that commands take. Made in code."""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa
from malformed_samples import ESC, parquet

#: Nine levels of ten aliases each: a billion items, in 300 bytes.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
_GATE = "rules:\n  - {suite: builtin-safety, metric: rules/refusal, "


class Config(NamedTuple):
    """A YAML file and what the message has to contain; the name of the file always."""

    name: str
    content: bytes
    names: str = ""


def _configs(cases: Mapping[str, str | bytes | tuple[str, str]]) -> Iterator[Config]:
    for name, case in cases.items():
        content, names = case if isinstance(case, tuple) else (case, "")
        yield Config(name, content if isinstance(content, bytes) else content.encode(), names)


def not_yaml() -> Iterator[Config]:
    """Yield files that no command can read, whatever it looks for."""
    yield from _configs(
        {
            "tab": ("task:\n\t- a\n", ":2"),
            "an open bracket": "seed: [1, 2\n",
            "an open quote": "task: 'a\n",
            "wrong indentation": "a: 1\n b: 2\n",
            "two colons": "a: b: c\n",
            "two documents": "a: 1\n---\nb: 2\n",
            "text": "hello\n",
            "a list": "- a\n- b\n",
            "a number": "17\n",
            "a bomb of aliases": (BOMB, "aliases"),
            "an alias of itself": "a: &a [*a]\n",
            "a merge of itself": "a: &a\n  <<: *a\n",
            "an unknown alias": "a: *b\n",
            "a merge of text": "<<: text\n",
            "an object of Python": "a: !!python/object/apply:os.system [ls]\n",
            "a tag": "a: !mine x\n",
            "not an integer": "a: !!int x\n",
            "not a number": "a: !!float x\n",
            "not a truth value": "a: !!bool x\n",
            "not a time": "a: !!timestamp x\n",
            "not bytes": "a: !!binary '*'\n",
            "an integer of nothing": "a: !!int ''\n",
            "a zero byte": "a: \0\n",
            "an escape": f"a: {ESC}\n",
            "deep": "a: " + "[" * 1500 + "]" * 1500 + "\n",
            "open and deep": "[" * 1500,
            "UTF-16": "a: 1\n".encode("utf-16"),
            "Latin-1": "a: é\n".encode("latin-1"),
            "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
            "a key that is a list": "? [a, b]\n: 1\n",
            "a key twice": "a: 1\na: 2\n",
        }
    )


def settings_of_runs() -> Iterator[Config]:
    """Yield lines that make the settings of a run impossible."""
    lines = {
        "task a list": ("task: [a.jsonl]", "task"),
        "task a mapping": ("task: {a: b}", "task"),
        "task empty": ("task: ''", "task"),
        "task null": ("task:", "task"),
        "references a list": ("references: [a, b]", "references"),
        "evaluation a text": ("evaluation: x", "evaluation"),
        "evaluation without a source": ("evaluation: {a: }", "evaluation"),
        "pools a number": ("pools: 7", "pools"),
        "learning rate a word": ("learning_rate: fast", "learning_rate"),
        "learning rate a list": ("learning_rate: [1]", "learning_rate"),
        "learning rate a mapping": ("learning_rate: {a: 1}", "learning_rate"),
        "learning rate bytes": ("learning_rate: !!binary eA==", "learning_rate"),
        "learning rate a set": ("learning_rate: !!set {a}", "learning_rate"),
        "steps a fraction": ("max_steps: 1.5", "max_steps"),
        "steps not finite": ("max_steps: .inf", "max_steps"),
        "batch size zero": ("per_device_train_batch_size: 0", "per_device_train_batch_size"),
        "batch size below zero": ("per_device_train_batch_size: -4", "per_device_train_batch_size"),
        "seed below zero": ("seed: -1", "seed"),
        "seed a list": ("seed: [0, 1]", "seed"),
        "seed null": ("seed:", "seed"),
        "truth a word": ("bf16: perhaps", "bf16"),
        "method a list": ("method: [sft]", "method"),
        "method unknown": ("method: dualselct", "dualselect"),
        "options a list": ("method_options: [rho]", "method_options"),
        "options a number": ("method_options: 3", "method_options"),
        "an option unknown": ("method_options: {roh: 1}", "rho"),
        "rho NaN": ("rho: .nan", "rho"),
        "rho a mapping": ("rho: {a: 1}", "rho"),
        "refresh a number": ("refresh: 5", "refresh"),
        "rank zero": ("lora_r: 0", "lora_r"),
        "rank a word": ("lora_r: many", "lora_r"),
        "adapter unknown": ("adapter: lorra", "lora"),
        "a limit of zero": ("task_limit: 0", "task_limit"),
        "output folder a list": ("output_dir: [a]", "output_dir"),
        "an unknown key": ("learning_rat: 1", "learning_rate"),
        "a key that is a number": ("1: a", "1"),
        "a key that is null": ("null: a", "None"),
        "a key with markup and escapes": ('"[red]\\e[2J": a', "red"),
        "keep without a selector": ("keep: scores.parquet", "keep"),
        "fraction above one": ("keep: a.parquet:less\nfraction: 2", "fraction"),
        "a bomb": (BOMB.replace("a: &a", "learning_rate: &a"), "aliases"),
    }
    yield from _configs(lines)


def comparisons() -> Iterator[Config]:
    """Yield lines that make a comparison impossible."""
    lines = {
        "no methods": ("methods: []", "methods"),
        "methods a number": ("methods: 3", "methods"),
        "a method that is a list": ("methods: [[sft]]", "label"),
        "a method unknown": ("methods: [sft, dualselct]", "dualselect"),
        "a method twice": ("methods: [sft, sft]", "sft"),
        "a label that is a path": ("methods: {../x: {method: sft}}", "../x"),
        "a label of escapes": ('methods: {"\\e[2J": {method: sft}}', "label"),
        "options that are a list": ("methods: {sft: [1]}", "sft"),
        "a method of options that is a list": ("methods: {sft: {method: [sft]}}", "sft"),
        "seeds a word": ("seeds: many", "many"),
        "seeds a fraction": ("seeds: [0.5]", "0.5"),
        "seeds below zero": ("seeds: [-1]", "-1"),
        "seeds twice": ("seeds: [0, 0]", "twice"),
        "seeds a mapping": ("seeds: {a: 1}", "seed"),
        "no seeds": ("seeds: []", "seeds"),
        "output folder a list": ("output_dir: [a]", "output_dir"),
        "output folder null": ("output_dir:", "output_dir"),
        "baseline a list": ("baseline: [sft]", "baseline"),
        "baseline unknown": ("baseline: stf", "sft"),
        "evaluate a list": ("evaluate: [builtin-safety]", "evaluate"),
        "evaluate nothing": ("evaluate: {}", "suites"),
        "suites a mapping": ("evaluate: {suites: {a: b}}", "suites"),
        "suites a number": ("evaluate: {suites: 3}", "3"),
        "a suite unknown": ("evaluate: {suites: [builtin-safty]}", "builtin-safety"),
        "a limit that is a list": ("evaluate: {suites: [builtin-safety], limit: [1]}", "limit"),
        "data a text": ("evaluate: {suites: [builtin-safety], data: x}", "data"),
        "data a list": ("evaluate: {suites: [builtin-safety], data: [x]}", "data"),
        "data of a suite that is a list": ("evaluate: {suites: [builtin-safety], data: {builtin-safety: [x]}}", "data"),
        "strength a list": ("strength: [rho]", "strength"),
        "strength of nothing": ("strength: {rho: []}", "rho"),
        "strength of mappings": ("strength: {rho: [{a: 1}]}", "rho"),
        "strength unknown": ("strength: {roh: [1]}", "rho"),
        "strength of a path": ("strength: {rho: [../x]}", "rho"),
        "tune without strengths": ("tune: {margin: 0.1}", "tune"),
        "margin a list": ("strength: {rho: [0.1, 0.2]}\ntune: {margin: [1]}", "margin"),
        "validation below zero": ("strength: {rho: [0.1, 0.2]}\nvalidation: -1", "validation"),
        "a single seed": ("seed: 3", "seeds"),
        "an unknown key": ("sedes: [1]", "seeds"),
    }
    yield from _configs(lines)


def streams() -> Iterator[Config]:
    """Yield lines that make a stream of tasks impossible."""
    lines = {
        "stream a text": ("stream: a.jsonl", "stream"),
        "stream of nothing": ("stream: []", "stream"),
        "stream of texts": ("stream: [a.jsonl]", "task 1"),
        "a task without a name": ("stream: [{task: a.jsonl, test: b.jsonl}]", "name"),
        "a task without a test": ("stream: [{name: a, task: a.jsonl}]", "test"),
        "a task with a list": ("stream: [{name: a, task: [a.jsonl], test: b.jsonl}]", "task"),
        "a name that is a path": ("stream: [{name: ../a, task: a.jsonl, test: b.jsonl}]", "../a"),
        "a name that is a number": ("stream: [{name: 1, task: a.jsonl, test: b.jsonl}]", "name"),
        "a name twice": (f"stream: {json.dumps([{'name': 'a', 'task': 'a.jsonl', 'test': 'b.jsonl'}] * 2)}", "'a'"),
        "an unknown key of a task": ("stream: [{name: a, task: a.jsonl, test: b.jsonl, tset: c}]", "test"),
        "memory a number": ("memory: 64", "memory"),
        "memory below zero": ("memory: {size: -1}", "size"),
        "memory of an unknown policy": ("memory: {policy: resevoir}", "policy"),
        "memory with an unknown key": ("memory: {sice: 1}", "size"),
        "memory size a list": ("memory: {size: [1]}", "size"),
        "safety a list": ("safety: [a]", "safety"),
        "safety missing": ("safety: nowhere.jsonl", "nowhere.jsonl"),
        "neutral missing": ("neutral: nowhere.txt", "nowhere.txt"),
        "singles a word": ("singles: perhaps", "singles"),
        "a task of its own": ("task: a.jsonl", "task"),
        "seeds of words": ("seeds: [a]", "seed"),
    }
    yield from _configs(lines)


def diagnostics() -> Iterator[Config]:
    """Yield lines that make a diagnostic impossible."""
    lines = {
        "batch size zero": ("batch_size: 0", "batch_size"),
        "batch size a word": ("batch_size: many", "batch_size"),
        "a metric unknown": ("metric: adm", "adam"),
        "a metric that is a list": ("metric: [raw]", "metric"),
        "strategies of nothing": ("strategies: []", "strategies"),
        "strategies unknown": ("strategies: [tsk-conditioned]", "task-conditioned"),
        "output folder a list": ("output_dir: [a]", "output_dir"),
        "strategies a mapping": ("strategies: {a: b}", "strategies"),
        "keywords missing": ("keywords: nowhere.yaml", "nowhere.yaml"),
        "keywords a list": ("keywords: [a]", "keywords"),
        "a field that no record has": ("group_by: colour", "colour"),
        "exclude missing": ("exclude: [nowhere.jsonl]", "nowhere.jsonl"),
        "exclude a mapping": ("exclude: {a: b}", "exclude"),
        "more in a batch than there are": ("batch_size: 100", "batch_size"),
        "an unknown key": ("top_q: 3", "top_k"),
    }
    yield from _configs(lines)


def gates() -> Iterator[Config]:
    """Yield gates that decide nothing."""
    lines = {
        "no rules": "noise_floor: 0.1\n",
        "rules a text": "rules: all\n",
        "rules of nothing": "rules: []\n",
        "a rule that is a text": "rules: [builtin-safety]\n",
        "a rule without a metric": "rules: [{suite: builtin-safety, at_least: 1}]\n",
        "a rule without a bound": f"{_GATE}}}\n",
        "two bounds": f"{_GATE}at_least: 0.1, at_most: 0.2}}\n",
        "a bound that is a word": f"{_GATE}at_least: high}}\n",
        "a bound that is a list": f"{_GATE}at_least: [0.1]}}\n",
        "a bound that is not a number": f"{_GATE}at_least: .nan}}\n",
        "a bound that is not finite": f"{_GATE}at_least: .inf}}\n",
        "a bound of 400 digits": f"{_GATE}at_least: {'9' * 400}}}\n",
        "against a list": f"{_GATE}worse_by_at_most: 0.1, against: [start]}}\n",
        "confident perhaps": f"{_GATE}at_least: 0.1, confident: perhaps}}\n",
        "an unknown key": f"{_GATE}at_lest: 0.1}}\n",
        "a floor below zero": "noise_floor: -1\nrules: [{suite: a, metric: b, at_least: 1}]\n",
        "a floor that is a list": "noise_floor: [1]\nrules: [{suite: a, metric: b, at_least: 1}]\n",
    }
    yield from _configs(lines)


def suites() -> Iterator[Config]:
    """Yield declarations of suites that cannot be."""
    lines = {
        "nothing": "",
        "a suite that is a text": "mine: prompts.jsonl\n",
        "a suite that is a list": "mine: [prompts.jsonl]\n",
        "without data": "mine: {kind: safety}\n",
        "data that are a list": "mine: {source: [prompts.jsonl]}\n",
        "data that are missing": ("mine: {source: nowhere.jsonl}\n", "nowhere.jsonl"),
        "a kind unknown": "mine: {source: a.jsonl, kind: saftey}\n",
        "a kind that is a list": "mine: {source: a.jsonl, kind: [safety]}\n",
        "a reader unknown": "mine: {source: a.jsonl, reader: promts}\n",
        "a reader that is a number": "mine: {source: a.jsonl, reader: 3}\n",
        "a reader with a wrong option": "mine: {source: a.jsonl, reader: {name: prompts, feilds: a}}\n",
        "tokens below one": "mine: {source: a.jsonl, max_new_tokens: 0}\n",
        "a name that is a path": "../mine: {source: a.jsonl}\n",
        "a name that is a number": "1: []\n",
        "an unknown key": "mine: {sorce: a.jsonl}\n",
        "a key that is a list": "mine: {source: a.jsonl, ? [a] : b}\n",
        "a name of the catalog": "builtin-safety: {source: a.jsonl}\n",
    }
    yield from _configs(lines)


def score_files() -> Iterator[tuple[str, bytes]]:
    """Yield files for `keep` that contain no whole scores."""
    notes = {"dualselect_selectors": '["less"]', "dualselect_about": "{}"}
    whole = pa.table({"id": ["task0"], "less": [1.0], "tokens": [3]})
    tables = {
        "no notes": whole,
        "selectors that are not JSON": whole.replace_schema_metadata(notes | {"dualselect_selectors": "{"}),
        "a selector without a column": whole.drop_columns("less").replace_schema_metadata(notes),
        "no ids": whole.drop_columns("id").replace_schema_metadata(notes),
        "no tokens": whole.drop_columns("tokens").replace_schema_metadata(notes),
        "scores of texts": pa.table({"id": ["task0"], "less": ["high"], "tokens": [3]}).replace_schema_metadata(notes),
        "tokens of texts": pa.table({"id": ["task0"], "less": [1.0], "tokens": ["a"]}).replace_schema_metadata(notes),
        "other ids": pa.table({"id": ["x"], "less": [1.0], "tokens": [3]}).replace_schema_metadata(notes),
        "no rows": whole.slice(0, 0).replace_schema_metadata(notes),
    }
    yield from ((name, parquet(table)) for name, table in tables.items())
    yield "empty", b""
    yield "cut", parquet(whole)[:-20]
