"""Architectures of transformers, made tiny, and what is known of each: exact, or refused and by which name.

`scripts/architectures.py` writes docs/architectures.md from this table, and `test_architectures.py` holds every line of
it against single backward passes.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

EXACT = "exact"
TRAININGS = ("LoRA on attention", "LoRA on all linear layers", "full")

# What families call their sizes; a configuration takes the names that it has.
_SIZES: dict[str, Any] = {
    "vocab_size": 128,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width", "embedding_size"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim", "dff"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("attention_heads",), 4),
    "num_key_value_heads": 2,
    "head_dim": 8,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    "num_experts_per_tok": 2,
    # Wider than the usual 0.02, so that losses and gradients differ between samples.
    **dict.fromkeys(("initializer_range", "init_std"), 0.2),
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}

# What families call the projections of attention, or of the layer in its place.
_ATTENTION = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "query_key_value", "c_attn", "qkv_proj", "Wqkv", "q_b_proj", "kv_b_proj"),
    *("Wq", "Wk", "Wv", "query", "key", "value", "in_proj", "x_proj"),
)


@dataclass(frozen=True)
class Architecture:
    """What is known of an architecture.

    Attributes:
        name: Name of its configuration class without `Config`.
        attention: With LoRA on the attention's projections: "exact", or a part of the refusal's message.
        linear: The same with LoRA on all linear layers.
        full: The same with all parameters trained.
        note: What a user should know.
        sizes: Further settings of the tiny configuration.
    """

    name: str
    attention: str = EXACT
    linear: str = EXACT
    full: str = EXACT
    note: str = ""
    sizes: dict[str, Any] = field(default_factory=dict)

    def verdicts(self) -> dict[str, str]:
        """Return the expected verdict for each kind of training."""
        return dict(zip(TRAININGS, (self.attention, self.linear, self.full), strict=True))

    def config(self) -> Any:
        """Return the tiny configuration."""
        config_class = getattr(transformers, f"{self.name}Config")
        default, is_derived = config_class(), lambda name: isinstance(getattr(config_class, name, None), property)
        known = {name: size for name, size in _SIZES.items() if hasattr(default, name) and not is_derived(name)}
        return config_class(**known | self.sizes)

    def model(self, training: str) -> Any:
        """Return a tiny random model of which a part is trained, in eval mode."""
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(self.config(), attn_implementation="eager").float()
        for param in model.parameters():
            if param.ndim == 1:  # norms and biases, which are constant at first
                param.data.add_(0.1 * torch.randn_like(param))
        return (model if training == "full" else _with_lora(model, training)).eval()


def _with_lora(model: nn.Module, training: str) -> Any:
    layers = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    attention = [name for name in _ATTENTION if name in layers]
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear" if "all" in training else attention))
    for name, param in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would leave half of the gradients zero
            nn.init.normal_(param, std=0.1)
    return model


_BARE = "target_parameters"
_FUSED = "under all-linear PEFT targets fused experts or routers"
_ROUTERS = f"the routers' loss is TRL's; {_FUSED}"
_MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
_GROUPS = {"n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4}

ARCHITECTURES = [
    Architecture("Apertus", full="XIELUActivation", note="its activation has parameters"),
    Architecture("Arcee"),
    Architecture("Bert", "the losses of single samples", "cls.predictions", "BertLMPredictionHead", "a head of layers"),
    Architecture("BioGpt", full="BioGptLearnedPositionalEmbedding", note="its positions depend on the mask"),
    Architecture("BitNet"),
    Architecture("Blenderbot", "encoder_attn", "encoder_attn", "BlenderbotLearned", "an encoder's attention, unused"),
    Architecture("Bloom"),
    Architecture("CTRL"),
    Architecture("CodeGen", sizes={"rotary_dim": 4}),
    Architecture("Cohere"),
    Architecture("Cohere2"),
    Architecture("DeepseekV3", linear=_BARE, full="DeepseekV3Experts", note=_FUSED, sizes=_MLA | _GROUPS),
    Architecture("Ernie4_5"),
    Architecture("Exaone4"),
    Architecture("Falcon"),
    Architecture("GPT2"),
    Architecture("GPTBigCode"),
    Architecture("GPTJ", sizes={"rotary_dim": 4}),
    Architecture("GPTNeo", sizes={"attention_types": [[["global", "local"], 1]]}),
    Architecture("GPTNeoX"),
    Architecture("Gemma"),
    Architecture("Gemma2"),
    Architecture("Gemma3Text"),
    Architecture("Glm4"),
    Architecture("GptOss", full="GptOssAttention", note="the routers' loss is TRL's; attention has sinks"),
    Architecture("Granite"),
    Architecture("GraniteMoe", full="GraniteMoeTopKRouter", note="the routers' loss is TRL's"),
    Architecture("Helium"),
    Architecture("HunYuanDenseV1"),
    Architecture("HyperCLOVAX"),
    Architecture("InklingText", *["the losses of single samples"] * 2, "InklingNormedEmbedding", "a head of its own"),
    Architecture("InternLM3"),
    Architecture("Lfm2"),
    Architecture("Llama"),
    Architecture("Mamba", linear="incompatible with Mamba", full="MambaMixer", note="PEFT refuses out_proj"),
    Architecture("Ministral3"),
    Architecture("Mistral"),
    Architecture("Mixtral", linear=_BARE, full="MixtralTopKRouter", note=_ROUTERS),
    Architecture("ModernBertDecoder", "the losses of single samples", "lm_head", "lm_head", "a head of layers"),
    Architecture("Mpt"),
    Architecture("NanoChat"),
    Architecture("Nemotron"),
    Architecture("OPT", linear="fc1", full="OPTLearnedPositionalEmbedding", note="its MLP joins the samples"),
    Architecture("Olmo"),
    Architecture("Olmo2"),
    Architecture("Olmo3"),
    Architecture("Olmoe", linear=_BARE, full="OlmoeTopKRouter", note=_ROUTERS),
    Architecture("Persimmon"),
    Architecture("Phi"),
    Architecture("Phi3"),
    Architecture("Qwen2"),
    Architecture("Qwen2Moe", linear="shared_expert", full="Qwen2MoeTopKRouter", note=_ROUTERS),
    Architecture("Qwen3"),
    Architecture("Qwen3Moe", linear=_BARE, full="Qwen3MoeExperts", note=_ROUTERS),
    Architecture(
        "Qwen3Next",
        linear=_BARE,
        full="Qwen3NextGatedDeltaNet",
        note=_ROUTERS,
        sizes={"layer_types": ["linear_attention", "full_attention"]},
    ),
    Architecture(
        "RecurrentGemma",
        full="conv_1d",
        note="convolutions have no rule",
        sizes={"num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"]},
    ),
    Architecture("SeedOss"),
    Architecture("SmolLM3"),
    Architecture("StableLm"),
    Architecture("Starcoder2"),
    Architecture("VaultGemma"),
    Architecture("XGLM"),
]

_HEAD = """# Architectures

Per-sample losses and gradients of transformers' causal language models, tiny and random, against separate backward
passes. *exact*: equal up to rounding. *refused*: before the first update an error names the cause, here in
brackets; training another part of the model may still be exact. Every architecture, listed or not, is checked in the
first step of a run: two samples against the model's own loss and backward pass. Training stops if they differ.

Written by `python scripts/architectures.py`; `tests/gradients/test_architectures.py` checks every line.
"""


def table() -> str:
    """Return the text of docs/architectures.md."""
    rows = [["architecture", *TRAININGS, "note"], ["---"] * (len(TRAININGS) + 2)]
    for architecture in ARCHITECTURES:
        rows.append([architecture.name, *map(_cell, architecture.verdicts().values()), architecture.note])
    return _HEAD + "\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _cell(verdict: str) -> str:
    return verdict if verdict == EXACT else f"refused ({verdict})"
