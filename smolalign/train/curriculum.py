"""What each optimizer step of pretraining trains on, in whole numbers: stages, mixtures, rows.

A stage is cut into rows of its length, each of one source, the last one short where the tokens do not divide. Any row
is found without those before it, so a run goes on where it was cut off, and processes need tell each other nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np

from smolalign.errors import UserError
from smolalign.recipe.pretraining import Stage

# Passes over a source after which more of them teach little (Muennighoff et al. 2023).
WORTHWHILE_EPOCHS = 4
# Fewest rows of a block, so that making its order costs little a row.
LEAST_BLOCK = 32


@dataclass(frozen=True, slots=True)
class Row:
    """A stretch of a source: so many tokens from a place in the stream of its documents."""

    source: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stage as it is trained.

    Args:
        number: counted from 1.
        name: of the stage.
        tokens: trained on, exactly.
        length: tokens of a row.
        rope_theta: base of the rotary position embedding.
        decays: whether the learning rate falls.
        shares: of each source that gives anything, in the sources' order; they sum to 1.
        first_step: optimizer steps before it.
        steps: its own, the last of which may be short.
        cursors: tokens of every source that the stages before it have read.
    """

    number: int
    name: str
    tokens: int
    length: int
    rope_theta: float
    decays: bool
    shares: dict[str, Fraction]
    first_step: int
    steps: int
    cursors: dict[str, int]

    @property
    def rows(self) -> int:
        """Rows of the stage, a short last one included."""
        return -(-self.tokens // self.length)

    @property
    def end(self) -> int:
        """Optimizer steps by its end."""
        return self.first_step + self.steps


class Plan:
    """All stages of a step.

    Args:
        stages: as the recipe has them.
        epoch_tokens: tokens of one pass over each source, in the recipe's order; what a stage without a mixture weighs
            its sources by, and what is read more than once is told by.
        step_tokens: of an optimizer step, over all devices.
        length: of rows, where a stage has none of its own.
        rope_theta: at the beginning.
        seed: of the order of rows.

    Raises:
        UserError: a stage's rows do not divide the tokens of a step, or a source that it names has nothing to read.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        epoch_tokens: Mapping[str, int],
        *,
        step_tokens: int,
        length: int,
        rope_theta: float,
        seed: int,
    ) -> None:
        self.epoch_tokens, self.step_tokens = dict(epoch_tokens), step_tokens
        decaying = decays(stages)
        found: list[Stretch] = []
        self._dealt: list[Dealt] = []
        cursors, first_step = dict.fromkeys(epoch_tokens, 0), 0
        for number, stage in enumerate(stages, start=1):
            rope_theta = stage.rope_theta or rope_theta
            stretch = Stretch(
                number,
                stage.name,
                stage.tokens,
                stage.max_length or length,
                rope_theta,
                decaying[number - 1],
                shares(stage, epoch_tokens),
                first_step,
                -(-stage.tokens // step_tokens),
                dict(cursors),
            )
            require_whole_rows(stretch.name, stretch.length, step_tokens)
            found.append(stretch)
            self._dealt.append(Dealt(tuple(stretch.shares.values()), stretch.rows, seed, number))
            first_step = stretch.end
            for source, tokens in self.read_by(stretch).items():
                cursors[source] += tokens
        self.stages = tuple(found)
        self.cursors = cursors
        self._ends = [stretch.end for stretch in found]

    @property
    def steps(self) -> int:
        """Optimizer steps of all stages."""
        return self._ends[-1]

    @property
    def tokens(self) -> int:
        """Tokens of all stages."""
        return sum(stretch.tokens for stretch in self.stages)

    @property
    def decay_steps(self) -> int:
        """Optimizer steps of the stages over which the learning rate falls."""
        return sum(stretch.steps for stretch in self.stages if stretch.decays)

    def stage_of(self, step: int) -> Stretch:
        """The stage of an optimizer step, counted from 0; the last one for the step after all."""
        return self.stages[min(bisect_right(self._ends, step), len(self.stages) - 1)]

    def step_rows(self, step: int) -> list[Row]:
        """The rows of an optimizer step, counted from 0."""
        stretch = self.stage_of(step)
        per_step = self.step_tokens // stretch.length
        first = (step - stretch.first_step) * per_step
        return [self.row(stretch, index) for index in range(first, min(first + per_step, stretch.rows))]

    def row(self, stretch: Stretch, index: int) -> Row:
        """A row of a stage, counted from 0."""
        place, before = self._dealt[stretch.number - 1].row(index)
        source = list(stretch.shares)[place]
        start = stretch.cursors[source] + before * stretch.length
        return Row(source, start, min(stretch.length, stretch.tokens - index * stretch.length))

    def read_by(self, stretch: Stretch) -> dict[str, int]:
        """Tokens that a stage reads of each source in its mixture."""
        dealt = self._dealt[stretch.number - 1]
        tokens = [rows * stretch.length for rows in dealt.before(stretch.rows)]
        last, _ = dealt.row(stretch.rows - 1)
        tokens[last] -= stretch.rows * stretch.length - stretch.tokens
        return dict(zip(stretch.shares, tokens, strict=True))

    def epochs(self, source: str) -> float:
        """Passes over a source by the end of all stages."""
        return self.cursors[source] / self.epoch_tokens[source] if self.cursors[source] else 0.0

    def worn(self) -> list[str]:
        """Sources that are read more often than is worthwhile."""
        return [name for name in self.epoch_tokens if self.epochs(name) > WORTHWHILE_EPOCHS]


class Dealt:
    """Which source each row of a stage is from: in blocks in which each has its share, in an order of the block's own.

    By the end of a block source k has given floor(C_k n + 1/2) - floor(C_(k-1) n + 1/2) of n rows, where C are the
    shares summed up. That is within a row of its share of n, sums to n, and never falls from one block's end to the
    next, since two rows of a block are the smallest share's.

    Args:
        shares: of each source; they sum to 1.
        rows: of the stage.
        seed: of the order within blocks; any number of whole numbers.
    """

    def __init__(self, shares: Sequence[Fraction], rows: int, *seed: int) -> None:
        self._bounds = [Fraction(0), *accumulate(shares)]
        self._rows, self._seed = rows, seed
        self._block = max(LEAST_BLOCK, -(-2 // min(shares)))
        # What is left over at the end goes with the block before it.
        self._blocks = max(1, rows // self._block)
        self._latest: tuple[int, np.ndarray, np.ndarray] | None = None

    def before(self, rows: int) -> list[int]:
        """How many of the first rows each source has given; `rows` must end a block."""
        sums = [int(bound * rows + Fraction(1, 2)) for bound in self._bounds]
        return [upper - lower for lower, upper in pairwise(sums)]

    def row(self, index: int) -> tuple[int, int]:
        """The source of a row, and how many rows of the stage that source has given before it."""
        block = min(index // self._block, self._blocks - 1)
        if self._latest is None or self._latest[0] != block:
            self._latest = (block, *self._shuffled(block))
        _, sources, given = self._latest
        place = index - block * self._block
        return int(sources[place]), int(given[place])

    def _shuffled(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The source of each row of a block, and the rows that it has given before."""
        first = block * self._block
        end = first + self._block if block < self._blocks - 1 else self._rows
        start = self.before(first)
        counts = [after - before for before, after in zip(start, self.before(end), strict=True)]
        # The numbers of a bit generator are the same in every version of numpy; its shuffles need not be.
        order = np.argsort(np.random.PCG64([*self._seed, block]).random_raw(end - first), kind="stable")
        sources = np.repeat(np.arange(len(counts)), counts)[order]
        given = np.empty(end - first, dtype=np.int64)
        for source, before in enumerate(start):
            given[sources == source] = np.arange(before, before + counts[source])
        return sources, given


def shares(stage: Stage, epoch_tokens: Mapping[str, int]) -> dict[str, Fraction]:
    """The share of each source in a stage, in the sources' order: as its mixture says, else by what each holds.

    Raises:
        UserError: a source of the mixture, or every source, has no tokens.
    """
    if stage.mixture is None:
        weights = {name: Fraction(tokens) for name, tokens in epoch_tokens.items() if tokens}
    else:
        # A weight of 0.1 is a tenth, not the nearest sum of powers of two.
        weights = {name: Fraction(str(stage.mixture[name])) for name in epoch_tokens if name in stage.mixture}
        if empty := next((name for name in weights if not epoch_tokens[name]), None):
            raise UserError(f"stage {stage.name}: source {empty!r} has no document to train on")
    if not weights:
        raise UserError(f"stage {stage.name}: no source has a document to train on")
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def decays(stages: Sequence[Stage]) -> list[bool]:
    """Over which stages the learning rate falls: those from the first that says so, else the last one."""
    first = next((index for index, stage in enumerate(stages) if stage.decay), len(stages))
    if first == len(stages) and stages[-1].decay is None:
        first -= 1
    return [index >= first for index in range(len(stages))]


def require_whole_rows(name: str, length: int, step_tokens: int) -> None:
    """Raises UserError where the tokens of an optimizer step are no whole number of a stage's rows."""
    if step_tokens % length:
        raise UserError(
            f"stage {name}: the {step_tokens:,} tokens of an optimizer step are no whole number of rows of {length:,}",
            mend=f"choose a global_batch_size whose product with max_length is a multiple of {length:,}",
        )
