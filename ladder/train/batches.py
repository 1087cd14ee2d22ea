"""Datasets: rows of tokens by number, and which of them a step of a run reads.

A dataset has ``len()`` rows, ``rows(numbers)`` -> Batch, and ``supervised(numbers)``, how many tokens those rows are
scored on. The rows of a step are a pure function of seed and step: resuming needs no loader state, every number of
ranks sees the same global batch, and all wirings of one seed see the same data.

A mixture reads several sources, each by its weight. Of every BLOCK rows that a run visits in a row (fewer where the
weights are ratios of small numbers: of every 4 for 3 to 1) each source has its share to a whole row, spread evenly, so
any batch comes as near as it can. A source whose rows are used up begins its next epoch; the others do not wait.

Shapes: B rows, S tokens of input per row. Arrays are numpy int64.
"""

import math
import time
import zlib
from fractions import Fraction
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ladder.data.shards import TokenShards
from ladder.errors import UserError
from ladder.reading import read_json
from ladder.train.order import visited

BLOCK = 10_000  # rows
HELD_OUT = 20  # one row in so many of a text is held out
IGNORE = -100  # a target that is not scored; torch's and transformers' value


class Batch(NamedTuple):
    """``targets[b, s]`` is the token after ``inputs[b, s]``, or IGNORE. ``positions`` None: 0, 1, ..., S - 1."""

    inputs: np.ndarray  # [B, S]
    targets: np.ndarray  # [B, S]
    positions: np.ndarray | None  # [B, S]; they restart where a new conversation begins, which keeps the two apart


class Dataset:
    """What all datasets share: one source, all rows in a random order."""

    @property
    def sources(self) -> dict[str, "Dataset"]:
        """The sources by label; each can be validated on its own."""
        return {"all": self}

    def of_step(self, batch: int, seed: int, step: int) -> np.ndarray:
        """The ``batch`` row numbers of step 1, 2, ..."""
        return rows_of_step(len(self), batch, seed, step)

    def together(self, found: dict[str, dict]) -> dict:
        """{quantity: value} of the whole from the same of each source: ``stderr`` and ``n`` rows belong to means."""
        return found["all"]


class PackedTokens(Dataset):
    """Consecutive windows of a token stream (``ladder.data.shards.TokenShards`` or alike)."""

    def __init__(self, shards, sequence: int):
        self.shards, self.sequence = shards, sequence

    def __len__(self) -> int:
        return max(0, self.shards.tokens - 1) // self.sequence

    def rows(self, numbers) -> Batch:
        windows = np.stack([self.shards.read(int(n) * self.sequence, self.sequence + 1) for n in numbers])
        return Batch(windows[:, :-1], windows[:, 1:], None)

    def supervised(self, numbers) -> int:
        return len(numbers) * self.sequence


class Windows(Dataset):
    """Rows of S + 1 tokens that are there already: [N, S + 1]."""

    def __init__(self, windows: np.ndarray):
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def rows(self, numbers) -> Batch:
        windows = self.windows[numbers].astype(np.int64)
        return Batch(windows[:, :-1], windows[:, 1:], None)

    def supervised(self, numbers) -> int:
        return len(numbers) * (self.windows.shape[1] - 1)


class PackedChat(Dataset):
    """Rows of whole conversations, as ``ladder.data.chat.pack(samples, S + 1)`` makes them; assistant tokens count."""

    def __init__(self, packed: list[dict]):
        ids, labels, positions = (
            np.stack([np.asarray(row[key], np.int64) for row in packed])
            for key in ("input_ids", "labels", "position_ids")
        )
        # The first token of a conversation is nobody's continuation.
        self._targets = np.where(positions[:, 1:] == 0, IGNORE, labels[:, 1:])
        self._inputs, self._positions = ids[:, :-1], positions[:, :-1]
        self._counts = (self._targets != IGNORE).sum(1)

    def __len__(self) -> int:
        return len(self._inputs)

    def rows(self, numbers) -> Batch:
        return Batch(self._inputs[numbers], self._targets[numbers], self._positions[numbers])

    def supervised(self, numbers) -> int:
        return int(self._counts[numbers].sum())


class Mixture(Dataset):
    """Several token datasets, read in the proportion of ``shares`` (any unit). Rows are numbered one source after the
    other."""

    def __init__(self, sources: dict[str, Dataset], shares: dict[str, float]):
        self._sources, self.rows_of_block = sources, quotas(shares)
        self._starts = [0, *accumulate(map(len, sources.values()))]
        counts = [self.rows_of_block[label] for label in sources]
        # Visit j of a source with c of them is due at (j + 1/2) / c of the block.
        due = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        order = np.argsort(due, kind="stable")
        self._source = np.repeat(np.arange(len(counts)), counts)[order]  # [block] whose visit it is
        self._visit = np.concatenate([np.arange(count) for count in counts])[order]  # [block] which visit of the source

    @property
    def sources(self) -> dict[str, Dataset]:
        return self._sources

    def __len__(self) -> int:
        return self._starts[-1]

    def of_step(self, batch: int, seed: int, step: int) -> np.ndarray:
        blocks, inside = np.divmod(np.arange((step - 1) * batch, step * batch), len(self._source))
        numbers = np.empty(batch, np.int64)
        for at, (label, source) in enumerate(self._sources.items()):
            mine = self._source[inside] == at
            places = blocks[mine] * self.rows_of_block[label] + self._visit[inside[mine]]
            # Named by its label, a source keeps its order when others come or go.
            numbers[mine] = self._starts[at] + visited(len(source), places, seed, zlib.crc32(label.encode()))
        return numbers

    def rows(self, numbers) -> Batch:
        parts = [(mine, source.rows(its)) for mine, source, its in self._split(numbers)]
        back = np.argsort(np.concatenate([mine for mine, _ in parts]))
        inputs, targets = (np.concatenate([batch[i] for _, batch in parts])[back] for i in range(2))
        return Batch(inputs, targets, None)

    def supervised(self, numbers) -> int:
        return sum(source.supervised(its) for _, source, its in self._split(numbers))

    def together(self, found: dict[str, dict]) -> dict:
        """The means of the sources weighted by their shares, as in training; their errors are independent."""

        def weighted(key: str) -> list[float]:
            return [its[key] * self.rows_of_block[label] / len(self._source) for label, its in found.items()]

        whole = {key: sum(weighted(key)) for key in next(iter(found.values()))}
        return whole | {"stderr": math.hypot(*weighted("stderr")), "n": sum(its["n"] for its in found.values())}

    def _split(self, numbers):
        """(places among ``numbers``, source, its own row numbers) of every source that has some of them."""
        numbers = np.asarray(numbers)
        owners = np.searchsorted(self._starts, numbers, side="right") - 1
        for at, source in enumerate(self._sources.values()):
            if len(mine := np.flatnonzero(owners == at)):
                yield mine, source, numbers[mine] - self._starts[at]


def quotas(shares: dict[str, float]) -> dict[str, int]:
    """Rows of each source in a block: the smallest block that fits the shares exactly, or the nearest of BLOCK rows."""
    exact = {label: Fraction(share).limit_denominator(BLOCK) for label, share in shares.items()}
    whole = {label: share / sum(exact.values()) for label, share in exact.items()}
    block = math.lcm(*(share.denominator for share in whole.values()))
    if block > BLOCK:
        block = BLOCK
    found = {label: int(share * block) for label, share in whole.items()}
    for label in sorted(whole, key=lambda label: found[label] - whole[label] * block)[: block - sum(found.values())]:
        found[label] += 1
    if small := [label for label, rows in found.items() if not rows]:
        raise UserError(f"the weight of {', '.join(small)} is less than one row in {BLOCK:,}; raise it or leave it out")
    return found


def packed_tokens(directory: Path, split: str, sequence: int, verify: bool = True) -> Dataset:
    """The rows of one split of `ladder tokens`: of one source, or of a mixture."""
    sources = read_json(directory / "manifest.json").get("sources", {})
    if len(sources) < 2:
        return PackedTokens(TokenShards(directory, split, verify), sequence)
    made = {label: PackedTokens(TokenShards(directory, split, verify, label), sequence) for label in sources}
    return Mixture(made, {label: about["share"] for label, about in sources.items()})


def packed_text(paths: list[Path], field: str, folder: Path, sequence: int, vocabulary: int):
    """(files, rows to train on, rows to validate on) of plain text under the tokenizer of the checkpoint ``folder``.

    Of every tenth of the text the last twentieth is held out. Raises UserError for too little text, and for a token
    that is not of the ``vocabulary``.
    """
    from ladder.data.corpus import from_files
    from ladder.data.sources import local_files
    from ladder.data.tokenizer import load
    from ladder.data.tokens import encode

    files, (tokenizer, eos) = local_files(paths), load(folder)
    ids = np.fromiter(chain.from_iterable(encode(tokenizer, eos, from_files(files, field))), np.int32)
    count = max(0, len(ids) - 1) // sequence
    if count < HELD_OUT:
        raise UserError(
            f"{paths[0]}: {count} sequences of {sequence} tokens are too few to train on and to hold some out; give at "
            f"least {HELD_OUT}, or a shorter --sequence"
        )
    if ids.max() >= vocabulary:
        raise UserError(f"{folder}: its tokenizer gives the token {ids.max()}, but its vocab_size is {vocabulary}")
    windows = np.lib.stride_tricks.sliding_window_view(ids, sequence + 1)[::sequence][:count].copy()
    # What the tokenizer puts before every text (Llama's bos) stands in the place of the token that is not scored.
    windows[:, :1] = tokenizer.encode("").ids[:1] or windows[:, :1]
    block = max(HELD_OUT, count // 10)
    held_out = np.arange(count) % block >= block - block // HELD_OUT
    return [path for path, _ in files], Windows(windows[~held_out]), Windows(windows[held_out])


def check(dataset: Dataset, batch: int, name) -> None:
    """Refuse a dataset with fewer rows than one batch, or with nothing to learn from."""
    if len(dataset) < batch:
        raise UserError(
            f"{name}: {len(dataset)} sequences are fewer than one batch of {batch}; use more data, a smaller --batch "
            "or a shorter --sequence"
        )
    for label, source in dataset.sources.items():
        if not len(source):
            raise UserError(f"{name}: {label!r} has no whole sequence; use more of it, or a shorter --sequence")
    if not dataset.supervised(range(len(dataset))):
        raise UserError(f"{name}: none of its tokens is an assistant's; there is nothing to learn")


def loader_speed(dataset: Dataset, batch: int, seed: int, seconds: float = 0.3) -> float:
    """Tokens/s of reading alone: one process reads the whole batches of the first steps for ``seconds``.

    A rank of a training reads its own share of them only.
    """
    tokens, step, began = 0, 0, time.perf_counter()
    while not step or time.perf_counter() - began < seconds:
        step += 1
        tokens += dataset.rows(dataset.of_step(batch, seed, step)).inputs.size
    return tokens / (time.perf_counter() - began)


def rows_of_step(rows: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The ``batch`` row numbers of step 1, 2, ...: each epoch is its own permutation of all rows."""
    return visited(rows, np.arange((step - 1) * batch, step * batch), seed)


def evenly(rows: int, most: int) -> np.ndarray:
    """At most ``most`` row numbers, spread evenly over all: the validation rows, the same for every seed."""
    count = min(rows, most)
    return np.arange(count) * rows // max(1, count)
