"""The models that are measured: a small real one, and random Llamas with the shapes of known models.

The values of weights do not affect speed, so the random ones are made on the device itself and need no download.
"""

import tempfile
from functools import partial
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from benchmarks.samples import texts
from dualselect.devices import computes_bfloat16
from dualselect.errors import ConfigError, nearest
from dualselect.models import DEFAULT_MODEL, resolve_model

_SMOLLM2 = "smollm2"
_SHAPES: dict[str, dict[str, Any]] = {
    "random-tiny": {
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "random-20m": {
        "vocab_size": 8192,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    # As Llama-3.2-1B; the last one is as Llama-3-8B.
    "random-1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    # As Gemma-3-1B, whose layers attend to a window but for every sixth.
    "random-gemma-1b": {
        "vocab_size": 262144,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "sliding_window": 512,
    },
    "random-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
MODEL_NAMES = (_SMOLLM2, *_SHAPES)
# A pool that takes longer than a few minutes on two cores is left to smaller models or to a GPU.
_LARGEST_CPU_POOL = {_SMOLLM2: 256, "random-1b": 16, "random-gemma-1b": 16, "random-8b": 0}

_TOKENIZER_SIZE = 512
_TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def check_model(name: str) -> None:
    """Raise a ConfigError, with the nearest names, unless there is a model called `name`."""
    if name not in MODEL_NAMES:
        raise ConfigError(f"unknown model '{name}'{nearest(name, MODEL_NAMES)}")


def takes_pool(name: str, size: int, device: str) -> bool:
    """Return whether refreshing a pool of that size is a matter of minutes at most."""
    return device != "cpu" or size <= _LARGEST_CPU_POOL.get(name, size)


def make_model(name: str, device: str, seed: int, *, four_bits: bool = False) -> Any:
    """Return a new causal language model on `device`.

    Args:
        name: Name of a model.
        device: `cpu` or `cuda`.
        seed: Seed of random weights.
        four_bits: Whether to quantise its linear layers to NF4. Other weights are bf16, or fp32 where bf16 would be
            emulated.
    """
    check_model(name)
    torch.manual_seed(seed)
    dtype = torch.bfloat16 if computes_bfloat16(device) else torch.float32
    if name == _SMOLLM2:
        folder = resolve_model(DEFAULT_MODEL)
        return _quantized(folder, device) if four_bits else _loaded(folder, dtype, device)
    tokens = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    kind = Gemma3TextConfig if "gemma" in name else partial(LlamaConfig, rope_theta=500_000.0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(kind(**_SHAPES[name], **tokens), dtype=dtype)
    if not four_bits:
        return model
    with tempfile.TemporaryDirectory(prefix="dualselect-bench-") as folder:
        model.save_pretrained(folder)
        del model
        return _quantized(folder, device)


def _loaded(folder: str, dtype: torch.dtype, device: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)


def _quantized(folder: str, device: str) -> Any:
    dtype = torch.bfloat16 if computes_bfloat16(device) else torch.float32
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=config, device_map={"": device}
    )


def make_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model: its own, or for random models a small one made of the samples' texts."""
    if name == _SMOLLM2:
        return AutoTokenizer.from_pretrained(resolve_model(DEFAULT_MODEL))
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_TOKENIZER_SIZE,
        special_tokens=["<pad>", "<end>", "<user>", "<assistant>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts(200), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    tokenizer.chat_template = _TEMPLATE
    return tokenizer
