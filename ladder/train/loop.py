"""The training loop. Pretraining and finetuning differ in their datasets only; distillation will in its loss.

    for step in 1 .. steps:
        rows of (seed, step), split over micro-batches and ranks
        loss: sum of token losses / scored tokens of the whole batch, backward, clip, AdamW at learning_rate(step)

Shapes: B rows, S tokens, V vocabulary.
"""

import math
import signal
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.distributed.tensor import DTensor

from ladder.errors import UserError
from ladder.progress import Progress
from ladder.train.batches import IGNORE, evenly, rows_of_step
from ladder.train.options import Options
from ladder.train.ranks import Ranks
from ladder.train.state import Checkpoints, State

POINTS = 1000  # at most so many training points are logged


def token_losses(model, batch, device) -> torch.Tensor:
    """Cross-entropy in fp32 of every token, in nats: [B, S], 0 where the target is not scored."""
    inputs, targets, positions = (None if a is None else torch.from_numpy(a).to(device) for a in batch)
    logits = model(input_ids=inputs, position_ids=positions, use_cache=False).logits  # [B, S, V]
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none")
    return losses.view(targets.shape)


def train(
    model, training, validation, options: Options, ranks: Ranks, checkpoints: Checkpoints, state: State, tracking=None
) -> State:
    """Train ``model`` (already distributed) in place from ``state`` to the last step; return the final state.

    ``tracking`` is the MLflow run, on the first rank. Raises UserError when the loss is not finite, SystemExit(143)
    after a checkpoint when the job is told to terminate.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), options.lr, options.betas, options.eps, options.weight_decay, fused=True
    )
    if state.step:
        checkpoints.load(state, model, optimizer)
    per_step = options.batch * options.sequence  # tokens
    every = math.ceil(options.steps / POINTS)
    saved = state.step
    model.train()

    with Progress(options.steps, "step", state.step, ranks.first) as progress, Terminate() as terminate:

        def evaluate(step: int) -> None:
            loss, stderr, n = validate(model, validation, options, ranks)
            state.validation.append({"step": step, "tokens": step * per_step, "loss": loss, "stderr": stderr, "n": n})
            progress.say(f"step {step}: validation loss {loss:.4f} ± {stderr:.4f}")
            if tracking:
                tracking.log(step, {"validation/loss": loss})

        if not state.validation:
            evaluate(0)
        for step in range(state.step + 1, options.steps + 1):
            began = time.perf_counter()
            rate = options.learning_rate(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = rows_of_step(len(training), options.batch, options.seed, step)
            loss = backward(model, training, rows, options, ranks)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip or math.inf)
            norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()
            # Ranks must agree on the loss, and on whether to stop.
            loss, stop = ranks.sum(torch.tensor([loss, terminate.asked], dtype=torch.float64)).tolist()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                kept = f"the last good checkpoint is of step {saved}" if saved else "there is no checkpoint yet"
                raise UserError(
                    f"step {step}: the loss is {loss} and the gradient norm {norm}; {kept}; lower --lr "
                    f"({options.lr}), lengthen --warmup ({options.warmup}) or look at the data"
                )
            optimizer.step()
            optimizer.zero_grad()
            state.step = step

            point = {
                "step": step,
                "tokens": step * per_step,
                "loss": loss,
                "grad_norm": norm,
                "lr": rate,
                "tokens_per_second": per_step / (time.perf_counter() - began),
            }
            speed = f"{point['tokens_per_second']:,.0f} tokens/s"
            line = f"step {step}/{options.steps}: loss {point['loss']:.4f}, {speed}"
            progress.advance(1, line, f"loss {point['loss']:.3f}, {speed}")
            if step % every == 0 or step == options.steps:
                state.training.append(point)
                if tracking:
                    tracking.log(step, {f"train/{key}": value for key, value in point.items() if key != "step"})
            if step % options.evaluate_every == 0 or step == options.steps:
                evaluate(step)
            if step % options.checkpoint_every == 0 or step == options.steps or stop:
                if tracking:
                    tracking.flush()  # what a checkpoint knows is sent; the rest will be logged when it is done again
                checkpoints.save(state, model, optimizer)
                saved = step
            if stop:
                progress.say(f"asked to terminate: stopped after step {step} with a checkpoint")
                raise SystemExit(128 + signal.SIGTERM)
    return state


def backward(model, dataset, rows: np.ndarray, options: Options, ranks: Ranks) -> float:
    """Add the gradients of the mean loss per scored token of the batch; return this rank's part of that loss."""
    accumulate, micro = options.per_rank(ranks.size)
    scored = max(1, dataset.supervised(rows))  # of all ranks and micro-batches
    total = 0.0
    for at, numbers in enumerate(rows.reshape(accumulate, ranks.size, micro)[:, ranks.rank]):
        if ranks.sharded:
            model.set_requires_gradient_sync(at == accumulate - 1)
        loss = token_losses(model, dataset.rows(numbers), ranks.device).sum() / scored
        (loss * ranks.size).backward()  # gradients are averaged over ranks
        total += loss.item()
    return total


@torch.no_grad()
def validate(model, dataset, options: Options, ranks: Ranks) -> tuple[float, float, int]:
    """(mean loss per scored token, its standard error, rows): the rows are the samples, their token counts vary."""
    rows = evenly(len(dataset), options.validation_windows)
    counts = np.array([dataset.supervised([row]) for row in rows])
    _, micro = options.per_rank(ranks.size)
    sums = torch.zeros(len(rows), dtype=torch.float64)
    model.eval()
    # Ranks take turns; all do the same number of rounds (sharded weights are gathered together), some for nothing.
    for start in range(0, len(rows), micro * ranks.size):
        mine = np.arange(start + ranks.rank * micro, start + (ranks.rank + 1) * micro)
        mine = mine[mine < len(rows)]
        batch = dataset.rows(rows[mine] if len(mine) else rows[:1])
        losses = token_losses(model, batch, ranks.device).sum(1).double().cpu()
        sums[mine] = losses[: len(mine)]
    model.train()
    if ranks.sharded:
        model.reshard()  # without a backward its root keeps the gathered weights in place of the sharded parameters
    sums = ranks.sum(sums).numpy()
    mean = sums.sum() / counts.sum()
    residuals = (sums - mean * counts) / counts.mean()  # standard error of a ratio of means
    stderr = residuals.std(ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    return float(mean), float(stderr), len(rows)


class Terminate:
    """Notes SIGTERM instead of dying of it, so that a preempted job can write a checkpoint first."""

    asked = False

    def __enter__(self) -> "Terminate":
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_) -> None:
        self.asked = True
