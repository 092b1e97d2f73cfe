"""A folder with a tiny random reward model."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast


@pytest.fixture
def make_classifier_dir(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[[int], Path]:
    """Return a function from a number of outputs to the folder of a random Llama classifier with its tokenizer."""

    def make(outputs: int) -> Path:
        config = LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
            pad_token_id=tiny_tokenizer.pad_token_id,
            num_labels=outputs,
        )
        folder = tmp_path / "classifier"
        LlamaForSequenceClassification(config).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make
