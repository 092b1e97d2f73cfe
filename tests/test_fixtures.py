from transformers import AutoModelForCausalLM, AutoTokenizer


def test_tokenizer_returns_every_ascii_text(tiny_tokenizer):
    text = "".join(map(chr, range(32, 127))) + "\n How many?"
    ids = tiny_tokenizer(text)["input_ids"]
    assert tiny_tokenizer.decode(ids) == text
    assert max(ids) < len(tiny_tokenizer) == 128


def test_chat_template_ends_a_turn_with_eos(tiny_tokenizer):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = tiny_tokenizer.apply_chat_template(turns, return_dict=False)
    assert ids.count(tiny_tokenizer.eos_token_id) == 2


def test_saved_model_and_tokenizer_load(tiny_model_dir, tiny_model, tied_tiny_model):
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert loaded.get_input_embeddings().weight.equal(tiny_model.get_input_embeddings().weight)
    assert len(AutoTokenizer.from_pretrained(tiny_model_dir)) == 128
    assert tied_tiny_model.lm_head.weight is tied_tiny_model.model.embed_tokens.weight
    assert tiny_model.lm_head.weight is not tiny_model.model.embed_tokens.weight
