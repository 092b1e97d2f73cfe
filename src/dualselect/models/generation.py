"""Answers in batches, greedy or sampled, from any causal language model of transformers or PEFT."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from dualselect.data.templates import declared_ends, end_of_turn
from dualselect.errors import ConfigError, one_line
from dualselect.models.batches import in_batches
from dualselect.models.thoughts import decode, thinking_options

Prompt = str | Sequence[Mapping[str, str]]
#: Takes the numbers of the prompts of a batch, and their answers.
OnBatch = Callable[[list[int], list[str]], None]


def encode_prompt(tokenizer: Any, prompt: Prompt, *, thinking: bool | None = None) -> list[int]:
    """Return the token ids of a prompt: messages by the chat template and ready for an answer, text as it is.

    Args:
        tokenizer: Tokenizer of the model.
        prompt: Messages or text.
        thinking: What the chat template is told about thinking; None leaves it to the template.

    Raises:
        ConfigError: messages, but the tokenizer has no chat template; a made-up one would measure a form of prompt
            that the model was never trained on. Or the template refuses the messages.
    """
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if getattr(tokenizer, "chat_template", None) is None:
        raise ConfigError(
            f"{getattr(tokenizer, 'name_or_path', '') or 'tokenizer'}: has no chat template, so that messages can't be "
            "put to the model; give an instruction-tuned model, or put the template that it was trained with into its "
            "folder as chat_template.jinja"
        )
    try:
        options = {"add_generation_prompt": True, "return_dict": True, **thinking_options(thinking)}
        return list(tokenizer.apply_chat_template(prompt, **options)["input_ids"])
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in prompt)
        raise ConfigError(
            f"the model's chat template refuses a prompt of the roles {roles}: {one_line(error)}; leave the system "
            "message out, or put a template that takes it into the model's folder as chat_template.jinja"
        ) from error


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
    on_batch: OnBatch | None = None,
    description: str = "generating",
    show_progress: bool = True,
) -> list[str]:
    """Return one answer per prompt, in the order of `prompts`, without special tokens but those that mark thoughts.

    Prompts are grouped by length and padded on the left. A batch that does not fit into memory is halved and tried
    again. The model is put in eval mode and back. Only the settings given here hold: penalties and sampling that the
    model's own generation config asks for are left out.

    Args:
        max_new_tokens: longest answer, in tokens.
        batch_size: prompts at once.
        temperature: 0 is greedy.
        top_p: share of the probability mass to sample from, for a temperature above 0.
        seed: of sampling. An answer depends on it and on its own prompt alone, not on the rest of its batch (but for
            rounding); equal prompts get equal answers.
        thinking: What the chat template is told about thinking; None leaves it to the template.
        on_batch: called after each batch, so that answers can be kept as they come.
        description: what the progress bar says.
        show_progress: whether to show it.

    Raises:
        ConfigError: the tokenizer has no chat template for messages.
        torch.OutOfMemoryError, RuntimeError: even a single prompt does not fit into memory.
    """
    encoded = [encode_prompt(tokenizer, prompt, thinking=thinking) for prompt in prompts]
    greedy = _greedy(model, tokenizer, max_new_tokens)

    def answer(batch: list[int]) -> list[str]:
        rows = [encoded[number] for number in batch]
        # Fresh for each batch: a batch that is tried again must draw the same numbers.
        noise = [_GumbelNoise(rows, temperature, top_p, seed)] if temperature > 0 else []
        texts = _generate_batch(model, tokenizer, rows, greedy, noise)
        if on_batch:
            on_batch(batch, texts)
        return texts

    with eval_mode(model):
        return in_batches(
            range(len(encoded)),
            answer,
            size=lambda number: len(encoded[number]),
            batch_size=batch_size,
            description=description,
            show_progress=show_progress,
        )


def left_padded(rows: Sequence[Sequence[int]], pad_token_id: int, device: Any) -> dict[str, torch.Tensor]:
    """Return `input_ids`, `attention_mask` and `position_ids`, each (B, T) int64, with the padding on the left."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_token_id] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    named = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(device) for name, tensor in named.items()}


def pad_token_id(tokenizer: Any) -> int:
    """Return the padding id of a tokenizer, its end token where it has none; padded places are masked anyway."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


@contextmanager
def eval_mode(*models: Any) -> Iterator[None]:
    """Run a block without gradients and with all models in eval mode; each is put back into its own mode after."""
    modes = [(model, model.training) for model in models]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for model, was_training in modes:
            model.train(was_training)


def _greedy(model: Any, tokenizer: Any, max_new_tokens: int) -> GenerationConfig:
    ends = declared_ends(model.generation_config, tokenizer)
    # A model ends its answers as its template does, whether or not that is declared.
    turn = end_of_turn(tokenizer)
    ends = sorted({*ends, turn}) if turn is not None else ends
    return GenerationConfig(
        do_sample=False,
        # What is left open here would be filled from the model's own generation config.
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=pad_token_id(tokenizer),
        use_cache=True,
    )


class _GumbelNoise(LogitsProcessor):
    """Turns the argmax of greedy decoding into a draw: adds Gumbel noise to the tempered, truncated logits.

    Every row has a generator of its own, seeded by its prompt, which is why batches don't matter. The numbers are
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
    """Return the logits (B, V) of the fewest tokens that hold `top_p` of the probability; the others are -inf."""
    ordered, order = scores.sort(descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    outside = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, before >= top_p)
    return scores.masked_fill(outside, -torch.inf)


def _generate_batch(
    model: Any, tokenizer: Any, rows: list[list[int]], settings: GenerationConfig, noise: list[LogitsProcessor]
) -> list[str]:
    inputs = left_padded(rows, pad_token_id(tokenizer), model.device)
    inputs.pop("position_ids")  # generate() derives its own from the mask
    width = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, generation_config=settings, logits_processor=LogitsProcessorList(noise))
    return decode(tokenizer, output[:, width:].tolist())
