"""Greedy answers in batches, from any causal language model of transformers or PEFT."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from transformers import GenerationConfig

Prompt = str | Sequence[Mapping[str, str]]


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Return the token ids of a prompt: messages by the chat template and ready for an answer, text as it is."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    return list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])


def generate_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    description: str = "generating",
    show_progress: bool = True,
) -> list[str]:
    """Return one greedy answer per prompt, in the order of `prompts`, without special tokens.

    Prompts are grouped by length and padded on the left. A batch that does not fit into memory is halved and tried
    again. The model is put in eval mode and back.

    Raises:
        torch.OutOfMemoryError, RuntimeError: even a single prompt does not fit into memory.
    """
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    waiting = sorted(range(len(encoded)), key=lambda index: -len(encoded[index]))
    answers = [""] * len(encoded)
    settings = _greedy(model, tokenizer, max_new_tokens)
    with eval_mode(model), progress_bar(description, len(encoded), show_progress) as advance:
        while waiting:
            batch = waiting[:batch_size]
            try:
                texts = _generate_batch(model, tokenizer, [encoded[index] for index in batch], settings)
            except RuntimeError as error:  # torch.OutOfMemoryError is one of these
                if len(batch) == 1 or not _is_out_of_memory(error):
                    raise
                batch_size = len(batch) // 2
                continue
            for index, text in zip(batch, texts, strict=True):
                answers[index] = text
            waiting = waiting[len(batch) :]
            advance(len(batch))
    return answers


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
def progress_bar(description: str, total: int, visible: bool = True) -> Iterator[Any]:
    """Show a progress bar on stderr; yields a function that advances it by a number of items."""
    with Progress(console=Console(stderr=True), transient=True, disable=not visible) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


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
    declared = getattr(model.generation_config, "eos_token_id", None)
    # A chat model's turn may end in a token that its generation config does not name.
    named = [*(declared if isinstance(declared, list) else [declared]), tokenizer.eos_token_id]
    ends = {int(token) for token in named if token is not None}
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad_token_id(tokenizer),
        use_cache=True,
    )


def _generate_batch(model: Any, tokenizer: Any, rows: list[list[int]], settings: GenerationConfig) -> list[str]:
    inputs = left_padded(rows, pad_token_id(tokenizer), model.device)
    inputs.pop("position_ids")  # generate() derives its own from the mask
    width = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, generation_config=settings)
    return [text.strip() for text in tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)]


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error).lower()
