"""A tiny random Llama and a real BPE tokenizer with a chat template, made on the spot: no test needs a network."""

import gc
import os

# Before anything imports torch or transformers: tests are small, and many processes may share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

VOCAB_SIZE = 128
_SPECIAL = ["<pad>", "<end>", "<unk>"]
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
_CORPUS = ["system: user: assistant: the quick brown fox asks how many apples are there in all and why not"]


def pytest_collection_finish() -> None:
    """Leave what the imports made out of the garbage collection that every training run begins with."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _deterministic_torch() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of 128 tokens that covers ASCII and has a chat template."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    printable = [core.pre_tokenizer.pre_tokenize_str(chr(code))[0][0] for code in (10, *range(32, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=_SPECIAL, initial_alphabet=printable, show_progress=False
    )
    core.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", model_max_length=512
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def build_model(seed: int = 0, *, tied: bool = False) -> LlamaForCausalLM:
    """Return a random fp32 Llama of two layers; equal seeds give equal weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        # Wider than the usual 0.02, so that losses and gradients differ between samples.
        initializer_range=0.2,
        tie_word_embeddings=tied,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def make_tiny_model() -> Callable[..., LlamaForCausalLM]:
    """Return a function `(seed=0, *, tied=False) -> model`."""
    return build_model


@pytest.fixture
def tiny_model() -> LlamaForCausalLM:
    """Return a random Llama whose embedding and head are apart."""
    return build_model()


@pytest.fixture
def tied_tiny_model() -> LlamaForCausalLM:
    """Return a random Llama whose embedding is also its head."""
    return build_model(tied=True)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that `from_pretrained` takes: the untied model with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    build_model().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder
