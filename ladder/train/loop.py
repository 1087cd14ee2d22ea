"""The training loop. Pretraining and finetuning differ in their datasets, methods of adaptation in their objective.

for step in 1 .. steps:
    rows of (seed, step), split over micro-batches and ranks
    loss: sum of token losses / scored tokens of the whole batch, backward, clip, AdamW at learning_rate(step)
"""

import hashlib
import math
import signal
import sys
import time

import numpy as np
import torch

from ladder import cost
from ladder.errors import UserError
from ladder.memory import give_back
from ladder.model.modeling import LadderForCausalLM
from ladder.parallel.group import Group
from ladder.progress import Progress
from ladder.train.batches import evenly
from ladder.train.losses import measure, tokens
from ladder.train.methods import SFT, Objective
from ladder.train.options import Options
from ladder.train.speed import LARGE, peak, peak_memory, straggler_gap
from ladder.train.state import Checkpoints, State, trained

POINTS = 1000  # at most so many training points are logged


def train(
    model,
    training,
    validation,
    options: Options,
    ranks: Group,
    checkpoints: Checkpoints,
    state: State,
    tracking=None,
    objective: Objective = SFT,
) -> State:
    """Train ``model`` (already distributed) in place from ``state`` to the last step; return the final state.

    With ``objective.patience`` it ends with the best weights, perhaps before the last step. ``tracking`` is the MLflow
    run, on the first rank. Raises UserError when the loss is not finite, SystemExit(143) after a checkpoint when the
    job is told to terminate.
    """
    optimizer = adamw(model, options)
    if state.step:
        checkpoints.load(state, model, optimizer)
    per_step = options.batch * options.sequence  # tokens
    every = math.ceil(options.steps / POINTS)
    saved = state.step
    most, token_flops = None, 0
    if isinstance(model, LadderForCausalLM):  # of another family nobody counted the FLOPs
        most, whole = peak(ranks.device, options.precision), cost.part(model.config)
        token_flops = cost.training_flops(whole, model.layout.parameters - whole.looked_up, options.sequence)
    model.train()

    with (
        checkpoints,
        Progress(options.steps, "step", state.step, ranks.first) as progress,
        Terminate() as terminate,
    ):
        progress.say(model.layout.words(model, options))

        def evaluate(step: int) -> None:
            found = validate(model, validation, options, ranks, objective)
            point = {"step": step, "tokens": step * per_step, **entered, **found}
            state.validation.append(point)
            found = entered | {key: value for key, value in found.items() if key not in ("stderr", "n")}
            others = "".join(f", {term} {value:.4f}" for term, value in found.items() if term != "loss")
            progress.say(f"step {step}: validation loss {point['loss']:.4f} ± {point['stderr']:.4f}{others}")
            if tracking:
                tracking.log(step, {f"validation/{term}": value for term, value in found.items()})

        if not state.validation:
            entered = objective.enter(model, 0)
            evaluate(0)
            if objective.improved(state.validation):
                checkpoints.save(state, model, optimizer, best=True)
        for step in range(state.step + 1, options.steps + 1):
            if objective.exhausted(state.validation):
                progress.say(
                    f"stopped after step {state.step}: {objective.patience} validations brought nothing better"
                )
                break
            entered = objective.enter(model, step, options.steps, state.validation)
            began = time.perf_counter()
            rate = options.learning_rate(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = training.of_step(options.batch, options.seed, step)
            loss = backward(model, training, rows, options, ranks, objective)
            norm = model.layout.clip(model, options.clip or math.inf)
            # Group must agree on the loss, and on whether to stop.
            loss, stop = ranks.sum(torch.tensor([loss, terminate.asked], dtype=torch.float64)).tolist()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                checkpoints.wait()
                kept = f"the last good checkpoint is of step {saved}" if saved else "there is no checkpoint yet"
                raise UserError(
                    f"step {step}: the loss is {loss} and the gradient norm {norm}, on rows {_brief(rows)} (digest "
                    f"{batch_digest(training, rows)}); {kept}; lower --lr "
                    f"({options.lr}), lengthen --warmup ({options.warmup}) or look at the data"
                )
            optimizer.step()
            optimizer.zero_grad()
            if model.layout.parameters >= LARGE:
                give_back()
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
            if most:
                point["mfu"] = point["tokens_per_second"] * token_flops / (most * ranks.world_size)
                speed += f", MFU {point['mfu']:.1%}"
            if ranks.world_size > 1 and step % options.evaluate_every == 0:
                micro = options.per_rank(ranks.size)[1] * options.sequence
                gap, slowest = straggler_gap(model.config, micro, options.precision, ranks)
                point["straggler_gap"] = gap
                speed += f", rank {slowest} at {gap:.2f} x the median time"
            memory = peak_memory(ranks.device) / 2**30
            line = f"step {step}/{options.steps}: loss {loss:.4f}, gradient norm {norm:.3f}, {speed}, {memory:.1f} GiB"
            progress.advance(1, line, f"loss {point['loss']:.3f}, {speed}")
            if step % every == 0 or step == options.steps:
                state.training.append(point)
                if tracking:
                    values = {key: value for key, value in point.items() if key != "step"} | {"peak_memory": memory}
                    tracking.log(step, {f"train/{key}": value for key, value in values.items()})
            if step % options.evaluate_every == 0 or step == options.steps:
                evaluate(step)
            best = state.validation[-1]["step"] == step and objective.best(state.validation) is state.validation[-1]
            due = step % options.checkpoint_every == 0 or step == options.steps or stop
            if due or (best and objective.patience):
                if tracking:
                    tracking.flush()  # what a checkpoint knows is sent; the rest will be logged when it is done again
                checkpoints.save(state, model, optimizer, best=best)
                saved = step
            if stop:
                checkpoints.wait()
                progress.say(f"asked to terminate: stopped after step {step} with a checkpoint")
                raise SystemExit(128 + signal.SIGTERM)
    if objective.kept(state.validation)["step"] != state.step:
        checkpoints.load(checkpoints.best(), model, optimizer)
    return state


def adamw(model, options: Options) -> torch.optim.AdamW:
    parameters = trained(model).values()
    return torch.optim.AdamW(parameters, options.lr, options.betas, options.eps, options.weight_decay, fused=True)


def steps_in_time(model, dataset, held_out, options: Options, ranks: Group, objective: Objective) -> int:
    """How many steps ``options.minutes`` allow beside validations. Two are timed, of which the first is often slow,
    without a change to the weights."""
    objective.enter(model, 0)
    rows = dataset.of_step(options.batch, options.seed, 1)
    if ranks.first:
        print(f"timing two steps, to see how many {options.minutes:g} minutes allow", file=sys.stderr, flush=True)
    times = [time.perf_counter()]
    for _ in range(2):
        backward(model, dataset, rows, options, ranks, objective)
        model.zero_grad()
        times.append(time.perf_counter())
    validate(model, held_out, options, ranks, objective)
    step, validation = times[2] - times[1], time.perf_counter() - times[2]
    return ranks.gather(
        options.steps_within(60 * options.minutes - (time.perf_counter() - times[0]), step, validation)
    )[0]


def backward(model, dataset, rows: np.ndarray, options: Options, ranks: Group, objective: Objective = SFT) -> float:
    """Add the gradients of the objective over the batch; return this rank's part of it."""
    accumulate, micro = options.per_rank(ranks.size)
    scales = objective.scales(dataset, rows)
    total = 0.0
    for at, numbers in enumerate(rows.reshape(accumulate, ranks.size, micro)[:, ranks.rank]):
        if ranks.sharded:  # of one rank, gradients that are not in its shard yet would be there beside those that are
            model.set_requires_gradient_sync(at == accumulate - 1 or ranks.size == 1)
        batch = dataset.rows(numbers)
        loss, _ = measure(model, batch, ranks.device, scales, objective.teacher, objective.temperature)
        (loss * ranks.size).backward()  # gradients are averaged over ranks
        total += loss.item()
    return total


def validate(model, dataset, options: Options, ranks: Group, objective: Objective = SFT) -> dict:
    """{term: its mean per token that it counts} of the objective's terms; of ``loss`` (cross-entropy per scored token)
    also its standard error, ``stderr``, over ``n`` rows: the rows are the samples, their token counts vary. Of a
    mixture also ``loss_of_LABEL`` of each source."""
    found = {label: means(model, source, options, ranks, objective) for label, source in dataset.sources.items()}
    each = {f"loss_of_{label}": its["loss"] for label, its in found.items()} if len(found) > 1 else {}
    return dataset.together(found) | each


@torch.no_grad()
def means(model, dataset, options: Options, ranks: Group, objective: Objective) -> dict:
    """:func:`validate` of one source."""
    rows = evenly(len(dataset), options.validation_windows)
    terms = dict.fromkeys(objective.weights, 1.0)
    scored = np.array([dataset.supervised([row]) for row in rows])
    _, micro = options.per_rank(ranks.size)
    sums = torch.zeros(len(terms) + 1, len(rows), dtype=torch.float64)  # the last: how many tokens are not padding
    model.eval()
    # Group take turns; all do the same number of rounds (sharded weights are gathered together), some for nothing.
    for start in range(0, len(rows), micro * ranks.size):
        mine = np.arange(start + ranks.rank * micro, start + (ranks.rank + 1) * micro)
        mine = mine[mine < len(rows)]
        batch = dataset.rows(rows[mine] if len(mine) else rows[:1])
        _, values = measure(model, batch, ranks.device, terms, objective.teacher, objective.temperature)
        counted = torch.from_numpy(tokens(batch).sum(1))
        parts = torch.stack([*(value.sum(1).double().cpu() for value in values.values()), counted])
        sums[:, mine] = parts[:, : len(mine)]
    model.train()
    if ranks.sharded:
        model.reshard()  # without a backward its root keeps the gathered weights in place of the sharded parameters
    sums = ranks.sum(sums).numpy()
    found = {
        term: float(part.sum() / (scored if term == "loss" else sums[-1]).sum())
        for term, part in zip(terms, sums, strict=False)
    }
    residuals = (sums[0] - found["loss"] * scored) / scored.mean()  # standard error of a ratio of means
    stderr = residuals.std(ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    return found | {"stderr": float(stderr), "n": len(rows)}


def batch_digest(dataset, rows: np.ndarray) -> str:
    """Of the tokens of ``rows``, so that the batch can be told from others and found again."""
    return hashlib.sha256(dataset.rows(rows).inputs.tobytes()).hexdigest()[:16]


def _brief(rows: np.ndarray) -> str:
    return ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")


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
