"""Per-sample gradients of a whole batch from one forward and one backward pass.

A `Watch` puts itself between the modules that own trainable parameters and autograd (`observed`). In backward every
module's input meets its output's gradient. Backward runs only as far as these modules: autograd's own weight gradients,
which nothing would read, are not computed.
"""

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients.direction import Direction, Layout, Parameters, safe_cosine, trainable_parameters
from dualselect.gradients.metrics import RAW, Metric
from dualselect.gradients.observed import Receive, Site, Switch, patch, unpatch
from dualselect.gradients.rules import check_adapters, check_bare_parameters, rule_for
from dualselect.gradients.sketches import Sketch
from dualselect.gradients.stores import Kept, Measured, Slot, Store


class PerSampleGradients:
    """The gradients of the B samples of one batch, queried without a second backward pass.

    It can outlive its context: several captures can be kept side by side. Results are fp32.
    """

    def __init__(self, watch: "Watch", sequence_lengths: Sequence[int] | None, metric: Metric, store: Store) -> None:
        self.layout = watch.layout
        self.running = False
        self.metric = metric
        self._switch = watch._switch
        self._slots = watch._slots
        self._store = store
        self._lengths = list(sequence_lengths) if sequence_lengths is not None else None
        self._norms: dict[Metric, Tensor] = {}
        if self._lengths is not None:
            store.batch_size = len(self._lengths)
        # Backward runs towards this leaf only, so weight gradients are not computed.
        self.anchor = torch.zeros((), device=store.device, requires_grad=True)

    def backward(self, losses: Tensor) -> None:
        """Run the one backward pass.

        Args:
            losses: Losses of the samples, shape `(B,)`; each depends on its own sample alone.

        Raises:
            UnsupportedModuleError: A trainable parameter was not used in its own module's forward.
        """
        if losses.shape != (self._store.batch_size,):
            raise ValueError(f"expected losses of shape ({self._store.batch_size},), got {tuple(losses.shape)}")
        self.running = True
        try:
            # A checkpointed layer that is computed again restores its own autocast.
            with self._switch.on(self), self._exact():
                torch.autograd.backward(losses.sum(), inputs=[self.anchor])
                self._store.finish()
        finally:
            self.running = False

    @torch.no_grad()
    def dot(self, direction: Direction, metric: Metric | None = None) -> Tensor:
        """Return the inner product of every sample's gradient with `direction`, shape `(B,)`.

        Args:
            direction: Direction to compare with.
            metric: Metric of the inner product; None takes the capture's own.
        """
        metric = metric or self.metric
        if metric.per_module:
            return self.cosine(direction, metric) * self.norm(metric) * metric.norm(direction)
        with self._exact():
            return self._store.total(direction, metric)

    @torch.no_grad()
    def norm(self, metric: Metric | None = None) -> Tensor:
        """Return the norm of every sample's gradient, shape `(B,)`; not finite where the gradient is not."""
        metric = metric or self.metric
        if metric not in self._norms:
            with self._exact():
                # A sum of Gram products can fall below zero by rounding where it is zero.
                self._norms[metric] = self._store.total(None, metric).clamp_min(0.0).sqrt()
        return self._norms[metric]

    @torch.no_grad()
    def cosine(self, direction: Direction, metric: Metric | None = None) -> Tensor:
        """Return the cosine of every sample's gradient with `direction`, shape `(B,)`; zero where either is zero."""
        metric = metric or self.metric
        if not metric.per_module:
            return safe_cosine(self.dot(direction, metric), self.norm(metric), metric.norm(direction))
        return self.module_cosines(direction, metric).mean(1)

    @torch.no_grad()
    def parts(self, direction: Direction | None, metric: Metric | None = None) -> Tensor:
        """Return the part of each of K parameters in the inner products, in the squared norms if None, `(B, K)`."""
        with self._exact():
            return self._store.parts(direction, metric or self.metric)

    @torch.no_grad()
    def module_cosines(self, direction: Direction, metric: Metric | None = None) -> Tensor:
        """Return the cosine of each module's part of every gradient and of `direction`, shape `(B, M)`.

        Modules are the layers that own parameters, in the order of their first parameters; the factors A and B of LoRA
        belong to one layer. A cosine is zero where either part is zero.
        """
        metric = metric or self.metric
        return metric.module_cosines(direction, self.parts(direction, metric), self.parts(None, metric))

    @torch.no_grad()
    def weighted_sum(self, weights: Tensor) -> Direction:
        """Return the sum over samples of `weights[i]` times gradient i.

        Args:
            weights: Shape `(B,)`. A sample of weight zero has no effect, even if its gradient is not finite.
        """
        with self._exact():
            return self._store.weighted_sum(weights.float())

    @torch.no_grad()
    def of_parameter(self, name: str) -> Tensor:
        """Return every sample's gradient by one parameter, shape `(B, *shape)`, fp32; not to be changed in place.

        Functions of single elements need it, such as Adam's step. It is formed where only its factors are kept.
        """
        with self._exact():
            return self._store.of_parameter(name)

    @torch.no_grad()
    def sketch(self, sketch: Sketch) -> Tensor:
        """Return a random projection of every sample's gradient, shape `(B, k)`, fp32."""
        with self._exact():
            return self._store.sketch(sketch)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept; a tensor that several modules share counts once."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self._store.tensors()}
        return sum(storages.values())

    def _exact(self) -> torch.autocast:
        return torch.autocast(self._store.device.type, enabled=False)

    # Called by the watched modules.

    def observe(self, site: Site, module: nn.Module, x: Tensor, tokens: int, itemsize: int) -> Receive:
        """Prepare for a call of `module` on `x` and return what receives input and output gradient in backward."""
        self._check_batch(site.name, x)
        site.itemsize = itemsize
        if not self.running:  # not again where a checkpointed layer is computed again
            tokens = max(self._lengths) if self._lengths is not None else tokens
            for parameter in site.own.values():
                self._store.plan(parameter, self._slots[parameter], tokens, itemsize)
        return partial(self._receive, site, module)

    def _receive(self, site: Site, module: nn.Module, x: Tensor, delta: Tensor) -> None:
        terms = site.rule(module, self._by_sample(x), self._by_sample(delta))
        for local, parameter in site.own.items():
            if local in terms:
                self._store.deposit(parameter, terms[local])

    def _check_batch(self, name: str, x: Tensor) -> None:
        leading, batch_size = x.shape[0], self._store.batch_size
        if not batch_size:
            self._store.batch_size = leading
        elif leading != batch_size and not self._is_joined(x):
            raise UnsupportedModuleError(
                f"module '{name}' was called with a leading dimension of {leading} in a batch of {batch_size} "
                "samples, so its gradient cannot be split by sample: freeze it or leave it out of the targets"
            )

    def _is_joined(self, values: Tensor) -> bool:
        """Whether these are the tokens of all samples in one row; our own losses pass others by sample."""
        return self._lengths is not None and values.shape[:2] == (1, sum(self._lengths))

    def _by_sample(self, values: Tensor) -> Tensor:
        """Bring a padding-free row `(1, N, ...)` into `(B, T, ...)`, padded with zeros."""
        if self._lengths is None or not self._is_joined(values):
            return values
        return nn.utils.rnn.pad_sequence(values[0].split(self._lengths), batch_first=True)


class Watch:
    """The watched modules of a model; made once per run.

    While it is installed but nothing is being captured, the model computes the same as without it.

    Args:
        model: Any model whose trainable parameters are in modules with a rule.
        params: Parameters to differentiate by; None takes all trainable ones. Tied parameters count once.

    Raises:
        UnsupportedModuleError: A module with trainable parameters has no rule, or there is nothing to train.
    """

    def __init__(self, model: nn.Module, params: Parameters | None = None) -> None:
        check_adapters(model)
        check_bare_parameters(model)
        self.model = model
        self.params = trainable_parameters(model) if params is None else params
        if not self.params:
            raise UnsupportedModuleError(
                "the model has no trainable parameters: pass a peft_config, or unfreeze what you want to train"
            )
        self.layout = Layout.of(self.params)
        self._device = next(iter(self.params.values())).device
        self._switch = Switch()
        self._sites = self._find_sites()
        owners = Counter(parameter for site in self._sites.values() for parameter in site.own.values())
        tables = {
            parameter
            for module, site in self._sites.items()
            for parameter in site.own.values()
            if isinstance(module, nn.Embedding)
        }
        self._slots = {
            name: Slot(param.shape, formable=owners[name] == 1 and name not in tables)
            for name, param in self.params.items()
        }
        self._installed = False

    def _find_sites(self) -> dict[nn.Module, Site]:
        names = {id(param): name for name, param in self.params.items()}
        sites = {}
        for name, module in self.model.named_modules():
            own = {
                local: names[id(param)]
                for local, param in module.named_parameters(recurse=False, remove_duplicate=False)
                if id(param) in names
            }
            if own:
                sites[module] = Site(name, rule_for(name, module), own, self._switch)
        return sites

    def install(self) -> None:
        """Put the watch between modules and autograd; nothing happens if it is there already."""
        if not self._installed:
            for module, site in self._sites.items():
                patch(module, site)
            _installed.add(self)
            self._installed = True

    def remove(self) -> None:
        """Restore every module; nothing happens if the watch is not installed."""
        if self._installed:
            for module, site in self._sites.items():
                unpatch(module, site)
            _installed.discard(self)
            self._installed = False

    def estimate(self, batch_size: int, tokens: int) -> int:
        """Return the bytes that a capture will keep.

        Inputs that several modules share are kept once, in the dtype that autocast gives them; both show in the first
        batch. Before it, inputs count as not shared and have the parameters' dtype.

        Args:
            batch_size: Number of samples of the batch, B.
            tokens: Number of tokens of each sample, padding included, T.
        """
        total = 0
        for module, site in self._sites.items():
            table = isinstance(module, nn.Embedding)
            for parameter in site.own.values():
                itemsize = site.itemsize or self.params[parameter].element_size()
                total += self._slots[parameter].nbytes(tokens, itemsize, table=table, shares_input=site.shares_input)
        return batch_size * total

    @contextmanager
    def capture(
        self,
        sequence_lengths: Sequence[int] | None = None,
        keep: bool = True,
        directions: Mapping[str, Direction] | None = None,
        metric: Metric | None = None,
    ) -> Iterator[PerSampleGradients]:
        """Watch one forward and backward pass of a batch whose samples do not interact.

        Inside the context run the forward pass, then `backward(losses)` of the yielded object; afterwards query
        it. A plain `losses.sum().backward()` works too and leaves `.grad` as it would be without.

        Args:
            sequence_lengths: Lengths of the B samples of a padding-free batch, which is a single row.
            keep: Whether gradients are kept. If not, only norms and the inner products with `directions` are computed.
            directions: Directions of the inner products if gradients are not kept, by name.
            metric: Default metric of the results; None means `RAW`.
        """
        metric = metric or RAW
        store: Store = Kept(self.layout, self._device)
        if not keep:
            store = Measured(self.layout, self._device, directions or {}, metric)
        gradients = PerSampleGradients(self, sequence_lengths, metric, store)
        was_installed = self._installed
        self.install()
        try:
            with self._switch.on(gradients):
                yield gradients
        finally:
            if not was_installed:
                self.remove()


@contextmanager
def capture(
    model: nn.Module, params: Parameters | None = None, sequence_lengths: Sequence[int] | None = None
) -> Iterator[PerSampleGradients]:
    """Watch one forward and backward pass, as `Watch.capture` does, with the model's installed watch or one of its own.

    Args:
        model: Any model whose trainable parameters are in modules with a rule.
        params: What to differentiate by; all trainable parameters if None. Tied parameters count once.
        sequence_lengths: Lengths of the B samples of a padding-free batch, which is a single row.

    Raises:
        UnsupportedModuleError: A module with trainable parameters has no rule, or mixes the samples.
    """
    params = trainable_parameters(model) if params is None else params
    watch = next((watch for watch in _installed if watch.model is model and _same(watch.params, params)), None)
    with (watch or Watch(model, params)).capture(sequence_lengths) as gradients:
        yield gradients


_installed: "weakref.WeakSet[Watch]" = weakref.WeakSet()


def _same(a: Parameters, b: Parameters) -> bool:
    return a.keys() == b.keys() and all(a[name] is b[name] for name in a)
