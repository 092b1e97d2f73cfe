"""Cross-entropy on neutral text is the mean over all its tokens."""

import pytest
import torch
from transformers import LlamaForCausalLM

from dualselect.continual.neutral import BLOCK, METRIC, neutral_nll
from dualselect.errors import DataError
from dualselect.models import LocalModels

TEXT = "the quick brown fox asks how many apples are there in all\n" * 20 + "and why not"


@pytest.fixture
def target(tiny_model_dir):
    return LocalModels().open(str(tiny_model_dir))


def test_it_is_the_mean_over_the_tokens_of_whole_blocks(target, tiny_model_dir, tiny_tokenizer, tmp_path):
    path = tmp_path / "neutral.txt"
    path.write_text(TEXT)
    result = neutral_nll(target, str(path), role="model", batch_size=2)
    ids = tiny_tokenizer(TEXT)["input_ids"]
    count = len(ids) // BLOCK
    assert count > 2
    assert len(ids) % BLOCK > 0
    model = LlamaForCausalLM.from_pretrained(tiny_model_dir).eval()
    total = 0.0
    for start in range(0, count * BLOCK, BLOCK):
        block = torch.tensor(ids[start : start + BLOCK])
        log_probs = model(block[None]).logits[0, :-1].log_softmax(-1)
        total -= float(log_probs[torch.arange(BLOCK - 1), block[1:]].sum())
    found = result.values(METRIC)
    assert sum(found) / len(found) == pytest.approx(total / (count * (BLOCK - 1)), abs=1e-5)


def test_a_short_text_is_one_block(target, tmp_path):
    (tmp_path / "neutral.txt").write_text("the quick brown fox")
    (record,) = neutral_nll(target, str(tmp_path / "neutral.txt"), role="start").records
    assert record.values[METRIC] > 0


def test_a_file_without_text_is_refused(target, tmp_path):
    (tmp_path / "neutral.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match="contains no text"):
        neutral_nll(target, str(tmp_path / "neutral.jsonl"), role="start")
