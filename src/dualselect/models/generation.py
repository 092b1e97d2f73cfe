"""Answers in batches, greedy or sampled, from any causal language model of transformers or PEFT."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from dualselect.data.templates import declared_ends, end_of_turn
from dualselect.errors import ConfigError, one_line
from dualselect.models.batches import in_batches
from dualselect.models.modes import eval_mode
from dualselect.models.thoughts import Answer, decode, opens_thought, thinking_options

Prompt = str | Sequence[Mapping[str, str]]
#: Takes the indices of the prompts of a batch, and their answers.
OnBatch = Callable[[list[int], list[Answer]], None]

_TAIL = 24


def render_prompt(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, thinking: bool | None = None) -> str:
    """Return messages as the text that the model reads, ready for an answer.

    Args:
        tokenizer: Tokenizer of the model, for its chat template.
        messages: Messages with role and content.
        thinking: Whether the chat template is asked to think; None leaves it to the template.

    Raises:
        ConfigError: The tokenizer has no chat template (a made-up one would measure a form of prompt that the model was
            never trained on), or the template refuses the messages.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ConfigError(
            f"{getattr(tokenizer, 'name_or_path', '') or 'tokenizer'}: has no chat template, so it cannot render "
            "messages; give an instruction-tuned model, or put the template that it was trained with into its folder "
            "as chat_template.jinja"
        )
    try:
        options = {"add_generation_prompt": True, "tokenize": False, **thinking_options(thinking)}
        return str(tokenizer.apply_chat_template(messages, **options))
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ConfigError(
            f"the model's chat template refuses a prompt of the roles {roles}: {one_line(error)}; leave the system "
            "message out, or put a template that accepts it into the model's folder as chat_template.jinja"
        ) from error


def encode_prompt(tokenizer: Any, prompt: Prompt, *, thinking: bool | None = None) -> list[int]:
    """Return the token ids of a prompt: messages by the chat template and ready for an answer, text as it is.

    Args:
        tokenizer: Tokenizer of the model.
        prompt: Messages or text.
        thinking: Whether the chat template is asked to think; None leaves it to the template.

    Raises:
        ConfigError: As for `render_prompt`.
    """
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    return encode_rendered(tokenizer, render_prompt(tokenizer, prompt, thinking=thinking))


def encode_rendered(tokenizer: Any, rendered: str) -> list[int]:
    """Return the token ids of a prompt that its chat template has rendered, special tokens and all."""
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    thinking: bool | None = None,
    description: str = "generating",
    show_progress: bool = True,
) -> list[str]:
    """Return one answer per prompt, in the order of `prompts`, without special tokens except those that mark thoughts.

    Prompts are grouped by length and padded on the left. A batch that does not fit into memory is halved and tried
    again. The model is put in eval mode and back. Only the settings given here count: penalties and sampling that the
    model's own generation config asks for are left out.

    Args:
        model: A causal language model of transformers or PEFT.
        tokenizer: Its tokenizer.
        prompts: Messages, or texts that are given to the model as they are.
        max_new_tokens: Longest answer, in tokens.
        batch_size: Prompts at once.
        temperature: Temperature of sampling; 0 is greedy.
        top_p: Share of the probability mass to sample from, for a temperature above 0.
        seed: Seed of sampling. An answer depends on it and on its own prompt alone, not on the rest of its batch (but
            for rounding); equal prompts get equal answers.
        thinking: Whether the chat template is asked to think; None leaves it to the template.
        description: Text beside the progress bar.
        show_progress: Whether to show the progress bar.

    Raises:
        ConfigError: The tokenizer has no chat template for messages, or the template refuses some.
        torch.OutOfMemoryError, RuntimeError: Even a single prompt does not fit into memory.
    """
    answers = complete(
        model,
        tokenizer,
        [encode_prompt(tokenizer, prompt, thinking=thinking) for prompt in prompts],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        description=description,
        show_progress=show_progress,
    )
    return [answer.text or "" for answer in answers]


def complete(
    model: Any,
    tokenizer: Any,
    encoded: Sequence[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float,
    top_p: float,
    seed: int,
    on_batch: OnBatch | None = None,
    description: str = "generating",
    show_progress: bool = True,
) -> list[Answer]:
    """Return what the model writes after each prompt, in order, and whether it ended by itself.

    Args:
        model: Model, as for `generate_answers`; likewise the other settings.
        tokenizer: Its tokenizer.
        encoded: Token ids of the prompts.
        on_batch: Function that takes each batch of answers as it comes, to keep it.

    Raises:
        torch.OutOfMemoryError, RuntimeError: Even a single prompt does not fit into memory.
    """
    greedy = _greedy(model, tokenizer, max_new_tokens)

    def answer(batch: list[int]) -> list[Answer]:
        rows = [encoded[number] for number in batch]
        # Fresh for each batch: a batch that is tried again must draw the same numbers.
        noise = [_GumbelNoise(rows, temperature, top_p, seed)] if temperature > 0 else []
        answers = _generate_batch(model, tokenizer, rows, greedy, noise)
        if on_batch:
            on_batch(batch, answers)
        return answers

    with eval_mode(model):
        return in_batches(
            range(len(encoded)),
            answer,
            size=lambda number: len(encoded[number]),
            batch_size=batch_size,
            description=description,
            show_progress=show_progress,
        )


def answers_of(
    tokenizer: Any, rows: Sequence[list[int]], generated: Sequence[list[int]], finishes: Sequence[str]
) -> list[Answer]:
    """Return generated token ids as answers.

    Args:
        tokenizer: Tokenizer of the model.
        rows: Token ids of the prompts.
        generated: Token ids that follow each of them, padding included.
        finishes: Reason why each of them ended, `stop` or `length`.
    """
    # A template opens a thought at the end of a prompt, within this many tokens.
    opened = [opens_thought(tokenizer.decode(row[-_TAIL:])) for row in rows]
    parts = zip(decode(tokenizer, list(generated)), finishes, opened, strict=True)
    return [Answer(text, finish, is_open) for text, finish, is_open in parts]


def stop_tokens(generation_config: Any, tokenizer: Any) -> list[int]:
    """Return the tokens, ascending, at which an answer ends: those declared, and the template's end of a turn.

    A model ends its answers as its template does, whether or not that is declared.
    """
    turn = end_of_turn(tokenizer)
    declared = declared_ends(generation_config, tokenizer)
    return declared if turn is None else sorted({*declared, turn})


def left_padded(rows: Sequence[Sequence[int]], pad_token_id: int, device: Any) -> dict[str, torch.Tensor]:
    """Return `input_ids`, `attention_mask` and `position_ids`, each (B, T) int64, with the padding on the left."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_token_id] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    named = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(device) for name, tensor in named.items()}


def pad_token_id(tokenizer: Any) -> int:
    """Return the padding id of a tokenizer, its end token where it has none; padding is masked anyway."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _greedy(model: Any, tokenizer: Any, max_new_tokens: int) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False,
        # Settings left out here would be filled from the model's own generation config.
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=stop_tokens(model.generation_config, tokenizer) or None,
        pad_token_id=pad_token_id(tokenizer),
        use_cache=True,
    )


class _GumbelNoise(LogitsProcessor):
    """Turns the argmax of greedy decoding into a draw: adds Gumbel noise to the tempered, truncated logits.

    Every row has a generator of its own, seeded by its prompt, so batches do not matter. The numbers are
    drawn on the CPU, so that they are the same on every device.
    """

    def __init__(self, rows: Sequence[Sequence[int]], temperature: float, top_p: float, seed: int) -> None:
        self._temperature, self._top_p = temperature, top_p
        self._generators = [torch.Generator().manual_seed(_row_seed(row, seed)) for row in rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores / self._temperature
        if self._top_p < 1:
            scores = _nucleus(scores, self._top_p)
        draws = [torch.empty(scores.shape[1]).exponential_(generator=generator) for generator in self._generators]
        return scores - torch.stack(draws).log().to(scores.device)


def _row_seed(row: Sequence[int], seed: int) -> int:
    digest = sha256(f"{seed}:{','.join(map(str, row))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # manual_seed takes 63 bits


def _nucleus(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the logits (B, V) of the fewest tokens that have `top_p` of the probability; the others are -inf."""
    ordered, order = scores.sort(descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    outside = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, before >= top_p)
    return scores.masked_fill(outside, -torch.inf)


def _generate_batch(
    model: Any, tokenizer: Any, rows: list[list[int]], settings: GenerationConfig, noise: list[LogitsProcessor]
) -> list[Answer]:
    inputs = left_padded(rows, pad_token_id(tokenizer), model.device)
    inputs.pop("position_ids")  # generate() derives its own from the mask
    width = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, generation_config=settings, logits_processor=LogitsProcessorList(noise))
    generated, ends = output[:, width:].tolist(), set(settings.eos_token_id or ())
    finishes = ["length" if ends.isdisjoint(row) else "stop" for row in generated]
    return answers_of(tokenizer, rows, generated, finishes)
