"""What every training job does around the loop: resume, track, save the model, write the record, tidy up."""

import argparse
import contextlib
import math
import statistics

import torch

from ladder.cost import counted
from ladder.files import need_disk, only_one
from ladder.job import Job, job
from ladder.model.checkpoint import save
from ladder.model.modeling import LadderForCausalLM
from ladder.parallel.group import Group
from ladder.train import memory
from ladder.train.batches import loader_speed
from ladder.train.layout import distribute
from ladder.train.loop import steps_in_time, train
from ladder.train.low_rank import merged
from ladder.train.methods import SFT, Objective
from ladder.train.options import Options
from ladder.train.speed import peak_memory
from ladder.train.state import Checkpoints, State


def carry_out(
    args: argparse.Namespace,
    stage: str,
    name: str,
    what: dict,
    inputs: dict,
    model,
    tokenizer,
    training,
    validation,
    options: Options,
    ranks: Group,
    objective: Objective = SFT,
) -> State:
    """Train ``model`` and leave ``args.out`` and ``args.record``; return the curves.

    ``what``: model, wiring, variant and seed, for record and checkpoint. ``inputs``: what identifies the data and the
    initial weights; a run resumes only if these and the options are as they were. ``tokenizer``: where to copy it from.
    Killed at any point, the same call again gives the same numbers.
    """
    parameters = sum(p.numel() for p in model.parameters())
    objective.prepare(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if ranks.first:
        # fp32 weights and two moments: of those that are kept, of the best, and of one that is being written
        need_disk(args.work, (options.keep + 2) * 12 * trained + 4 * parameters)
    kind, config = type(model), model.config
    shape = config if isinstance(model, LadderForCausalLM) else counted(config, parameters)
    memory.check(shape, options, ranks, trained / parameters)
    with contextlib.ExitStack() as stack:
        if ranks.first:
            stack.enter_context(only_one(args.work))
        ranks.barrier()
        checkpoints = Checkpoints(args.work, ranks, options.keep, {**what, **inputs, **options.numeric()})
        state = checkpoints.latest()
        this = stack.enter_context(job(args, stage, name, state.mlflow_run_id, ranks, **what))
        if this:
            state.mlflow_run_id = this.tracking.run_id or state.mlflow_run_id
        model = distribute(model, ranks, options)
        tracking = this.tracking if this else None
        read = loader_speed(training, options.batch, options.seed, 0.1) if this else 0.0
        with memory.explained(shape, options, ranks, trained / parameters):
            if options.minutes:
                state.steps = state.steps or steps_in_time(model, training, validation, options, ranks, objective)
                options = options.of_steps(state.steps)
            state = train(model, training, validation, options, ranks, checkpoints, state, tracking, objective)
        weights = model.layout.gathered(model, keep=ranks.first)
        if this:
            save(_plain(kind, config, merged(weights), options), tokenizer, args.out, what)
            curves = {"training": state.training, "validation": state.validation}
            settings = options.numeric() | inputs | {"ranks": ranks.world_size, "shard": options.shard}
            settings |= {"tp_ranks": ranks.tp}
            this.finish(
                _rows(this, state, (parameters, trained), ranks, objective, read), curves=curves, settings=settings
            )
        checkpoints.clear()  # last: until the record is there, a killed job ends again from its final checkpoint
        ranks.barrier()
    return state


def _plain(kind: type, config, weights: dict, options: Options):
    """An undistributed model around ``weights``, in the precision that was trained for."""
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    config.dtype = dtype
    with torch.device("meta"):
        plain = kind(config)
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    return plain


def _rows(
    this: Job, state: State, parameters: tuple[int, int], ranks: Group, objective: Objective, read: float
) -> list[dict]:
    final, points = objective.kept(state.validation), state.training
    last = points[-math.ceil(len(points) / 10) :]
    peak = peak_memory(ranks.device) / 2**30
    where = "of the GPU, rank 0" if ranks.device.type == "cuda" else "resident, rank 0"
    speed = statistics.median(point["tokens_per_second"] for point in points)
    values = [
        {
            "metric": "validation_loss",
            "value": final["loss"],
            "unit": "nats",
            "stderr": final["stderr"],
            "n": final["n"],
        },
        *(
            {"metric": f"validation_{key}", "value": value, "unit": "1" if key == "hidden" else "nats"}
            for key, value in final.items()
            if key not in ("step", "tokens", "late", "loss", "stderr", "n")
        ),
        {"metric": "training_loss", "value": statistics.fmean(p["loss"] for p in last), "unit": "nats", "n": len(last)},
        {"metric": "tokens_per_second", "value": speed, "unit": "tokens/s", "n": len(points)},
        {"metric": "parameters", "value": parameters[0], "unit": "1"},
        {"metric": "peak_memory", "value": peak, "unit": "GiB", "note": where},
        {"metric": "loader_tokens_per_second", "value": read, "unit": "tokens/s", "note": "of the loader alone"},
    ]
    if parameters[1] != parameters[0]:
        values.append({"metric": "trained_parameters", "value": parameters[1], "unit": "1"})
    for metric, unit in (("mfu", "fraction"), ("straggler_gap", "x")):
        if found := [point[metric] for point in points if metric in point]:
            values.append({"metric": metric, "value": statistics.median(found), "unit": unit, "n": len(found)})
    return [this.row(origin="measured", **row) for row in values]
