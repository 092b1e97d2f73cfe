"""Random projections of gradients that keep their inner products, a few thousand numbers per sample.

A sparse relative of the Johnson-Lindenstrauss projection, after the count sketch (Charikar, Chen and Farach-Colton
2002): every coordinate is added, with a random sign, to one of k numbers. Here k adjacent coordinates form a block, and
each block is added as a whole, rotated by a random step; so no two coordinates of a block collide, and the sum needs
no random access.
"""

from itertools import pairwise

import torch
from torch import Tensor

from dualselect.gradients.direction import Direction, Layout
from dualselect.gradients.factors import CHUNK, Dense, Outer, Rows, Term


class Sketch:
    """A linear map from P coordinates to k with <sketch(a), sketch(b)> = <a, b> on average over seeds.

    The error of an inner product has a standard deviation of at most `sqrt(2 / k)` times the product of both norms.

    Args:
        layout: Names and shapes of the parameters.
        size: Numbers in a sketch, k.
        seed: Seed of signs and rotations; sketches of one seed, layout and size can be compared.
        device: Device of the gradients.
        scale: Scale of a `Metric`, on the same device, for sketches whose inner products are the metric's.
    """

    def __init__(
        self,
        layout: Layout,
        size: int,
        seed: int,
        device: torch.device | str = "cpu",
        scale: Direction | None = None,
    ) -> None:
        self.layout = layout
        self.size = size
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (layout.size,), generator=generator, dtype=torch.int8)
        self._signs = signs.mul_(2).sub_(1).to(device)
        if scale is not None:
            self._signs = self._signs * scale.vector.sqrt()
        self._turns = torch.randint(0, size, (-(-layout.size // size),), generator=generator).to(device)
        self._starts = layout.starts()

    @torch.no_grad()
    def __call__(self, direction: Direction) -> Tensor:
        """Return the sketch of `direction`, shape `(k,)`, fp32."""
        out = torch.zeros(1, self.size, device=direction.vector.device)
        self.add(out, direction.vector[None], 0)
        return out[0]

    def add(self, out: Tensor, values: Tensor, start: int) -> None:
        """Add the sketch of the coordinates from `start` on.

        Args:
            out: Sketches to add to, shape `(B, k)`, fp32.
            values: Coordinates `start` to `start + n` of B vectors, shape `(B, n)`.
            start: Position in the flat vector.
        """
        step = max(1, CHUNK // (len(values) * self.size)) * self.size
        # Chunks end where blocks end.
        edges = [0, *range(step - start % self.size, values.shape[1], step), values.shape[1]]
        for first, last in pairwise(edges):
            self._add_chunk(out, values[:, first:last], start + first)

    def _add_chunk(self, out: Tensor, values: Tensor, start: int) -> None:
        stop = start + values.shape[1]
        first, last = start // self.size, -(-stop // self.size)
        signed = values * self._signs[start:stop]
        padding = (start - first * self.size, last * self.size - stop)
        blocks = torch.nn.functional.pad(signed, padding).view(len(values), last - first, self.size)
        places = torch.arange(self.size, device=values.device) - self._turns[first:last, None]
        out.add_(blocks.gather(2, (places % self.size).expand_as(blocks)).sum(1))

    def add_term(self, out: Tensor, name: str, term: Term) -> None:
        """Add the sketch of one term of the parameter `name` to `out` `(B, k)`."""
        start = self._starts[name]
        if isinstance(term, Outer):
            for rows, block in term.blocks():
                self.add(out, block.flatten(1), start + rows.start * term.right.shape[2])
        elif isinstance(term, Rows):
            self._add_rows(out, term, start)
        else:
            assert isinstance(term, Dense)
            self.add(out, term.value.flatten(1).float(), start)

    def _add_rows(self, out: Tensor, term: Rows, start: int) -> None:
        samples, tokens, columns = term.values.shape
        step = max(1, CHUNK // (samples * columns))
        batch = torch.arange(samples, device=out.device)[:, None, None]
        for first in range(0, tokens, step):
            index = term.index[:, first : first + step, None]
            places = start + index * columns + torch.arange(columns, device=out.device)
            values = term.values[:, first : first + step] * self._signs[places]
            turned = (places + self._turns[places // self.size]) % self.size
            out.index_put_((batch.expand_as(turned), turned), values.float(), accumulate=True)
