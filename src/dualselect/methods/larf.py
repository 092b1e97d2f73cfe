"""LARF: leave out the samples whose hidden states look more like unsafe answers than like safe ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from dualselect.distributed import on_main_process
from dualselect.errors import ConfigError
from dualselect.methods.base import Moments, Run, check_positive, check_range
from dualselect.methods.registry import method
from dualselect.methods.selectors import Selector, highest_share
from dualselect.models.generation import complete
from dualselect.models.layers import decoder_layers, scaled
from dualselect.options import option
from dualselect.selection import measures
from dualselect.selection.measures import Column
from dualselect.selection.prompts import prompt_of
from dualselect.selection.scan import digest_of

OVER_REFUSAL = "over-refusal"
_SCALES = (0.1, 0.2, 0.3)
_ANSWER_TOKENS = 32
_PROMPTS_AT_ONCE = 16
# In lower case; an answer with one of them counts as a refusal.
_REFUSALS = (
    "i cannot", "i can't", "i can not", "i won't", "i will not", "i'm sorry", "i am sorry", "i apologize",
    "my apologies", "i'm unable", "i am unable", "i'm not able", "i am not able", "i must decline",
    "not appropriate", "as an ai",
)  # fmt: skip


@method
@dataclass
class LARF(Selector):
    """Before training, leave out the samples that lie nearer to unsafe answers than to safe ones in a safety layer.

    "Layer-Aware Representation Filtering: Purifying Finetuning Data to Preserve LLM Safety Alignment", arXiv
    2507.18631, EMNLP 2025. With h the output of one decoder layer at the last token of prompt and answer,
    s(x) = mean_i [cos(h(x), h(unsafe_i)) - cos(h(x), h(safe_i))] over pairs of answers to the same prompts, `harmful`
    and `references`; the score is minus that. The layer is the one whose scaling by 1 + a against 1 - a changes most
    how often the model refuses harmless prompts that look harmful, max_a [refusals(1 + a) - refusals(1 - a)] / a.
    """

    name: ClassVar[str] = "larf"
    pools: ClassVar[tuple[str, ...]] = ("references", "harmful")
    cost: ClassVar[str] = (
        "1, and once a forward pass over the task and the pools; the layer search takes six short answers a layer and "
        "prompt"
    )
    fidelity: ClassVar[str] = (
        "faithful; the share that is left out, and how one layer is picked from the search, could not be verified"
    )

    keep_fraction: float = option(0.9, "Share of the samples to keep, in (0, 1].")
    layer: int | None = option(
        None,
        "Decoder layer whose output is compared, counted from 0. Unset: found by a search, which needs the pool "
        "`over-refusal`: harmless prompts that look harmful.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("keep_fraction", self.keep_fraction, 1.0)
        check_range("layer", self.layer, 0)
        if self.layer is None:
            self.pools = (*type(self).pools, OVER_REFUSAL)  # type: ignore[misc]  # of this one, so that it is made

    def measures(self, run: Run, at_start: Any, moments: Moments | None) -> Sequence[Column]:
        """Return the similarity to unsafe answers less that to safe ones.

        Raises:
            ConfigError: The model has no such layer, or none changes how often it refuses.
        """
        count, layer = len(decoder_layers(run.model)), self.layer
        if layer is None:
            layer = on_main_process(partial(_found_layer, run))
        if layer >= count:
            raise ConfigError(f"layer is {layer}, but the model has {count} decoder layers: give 0 to {count - 1}")
        # A mean of cosines is the inner product with a mean of unit vectors.
        unsafe, safe = (_mean_direction(run, name, layer) for name in ("harmful", "references"))
        target = unsafe - safe
        read = partial(_product, target=target)
        return [measures.state("larf.similarity", layer, read, digest_of(target))]  # type: ignore[arg-type]

    def score(self, scanned: Mapping[str, Tensor]) -> Tensor:
        """Return minus s."""
        return -scanned["larf.similarity"]

    def keep(self, score: Tensor, index: Tensor, run: Run) -> Tensor:
        """Return the share of the samples with the highest scores."""
        return highest_share(score, index, self.keep_fraction)


def most_sensitive_layer(layers: Sequence[nn.Module], refusals: Callable[[], int], show_progress: bool = False) -> int:
    """Return the layer whose scaling changes the number of refusals most for its size; the first one of a tie.

    Args:
        layers: Decoder layers.
        refusals: Function that counts the refusals of the model as it is now.
        show_progress: Whether to show a progress bar.

    Raises:
        ConfigError: No scaling changes the number.
    """

    def counted(layer: nn.Module, factor: float) -> int:
        with scaled(layer, factor):
            return refusals()

    bar = tqdm(layers, desc="Searching the layer", unit="layer", leave=False, disable=not show_progress)
    changes = [[(counted(layer, 1 + a) - counted(layer, 1 - a)) / a for a in _SCALES] for layer in bar]
    if not any(map(any, changes)):
        raise ConfigError(
            f"larf: no layer's scale changes how often the model refuses prompts of the pool '{OVER_REFUSAL}': give "
            "some that it refuses, or set layer"
        )
    sensitivity = [max(change) for change in changes]
    return sensitivity.index(max(sensitivity))


def _found_layer(run: Run) -> int:
    pool = run.pool(OVER_REFUSAL)
    prompts = [prompt_of(pool, row) for row in range(len(pool))]
    ask: dict[str, Any] = {"max_new_tokens": _ANSWER_TOKENS, "batch_size": _PROMPTS_AT_ONCE, "show_progress": False}

    def refusals() -> int:
        answers = complete(run.model, run.tokenizer, prompts, temperature=0.0, top_p=1.0, seed=0, **ask)
        texts = [(answer.text or "").lower().replace("\u2019", "'") for answer in answers]
        return sum(any(phrase in text for phrase in _REFUSALS) for text in texts)

    layer = most_sensitive_layer(list(decoder_layers(run.model)), refusals, pool.progress)
    run.say(f"larf: compares the output of decoder layer {layer}; set layer to {layer} to spare the search next time")
    return layer


def _mean_direction(run: Run, name: str, layer: int) -> Tensor:
    """Return the mean over a pool of the states' unit vectors, `(D,)`."""
    pool = run.pool(name)
    read = partial(normalize, dim=1)
    found = pool.scan([measures.state("state", layer, read, "unit")], title=f"Reading {name}", resumable=True)
    mean = found["state"].nanmean(0).to(pool.device)
    found.done()
    return mean


def _product(states: Tensor, target: Tensor) -> Tensor:
    return normalize(states, dim=1) @ target
