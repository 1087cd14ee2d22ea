"""Roughly what a plan takes, for people who must ask for hours and disk."""

from ladder.cost import part, training_flops
from ladder.plan import Plan, listed

REACHED = 395.6e12  # FLOP/s assumed of training on an H100: two fifths of its peak in bf16


def gpu_hours(plan: Plan) -> dict[str, float]:
    """Estimated H100 hours by stage: 6 x parameters x tokens at 40 % of peak for training."""

    def train(run: dict) -> float:
        shape = run["shape"]
        if shape is None:
            return 0.0
        per_token = training_flops(part(shape), shape.parameters, run["sequence"])  # embeddings count too
        passes = 4 / 3 if run.get("taught") else 1  # forward is a third of forward and backward
        return passes * run["steps"] * run["batch"] * run["sequence"] * per_token / REACHED / 3600

    checkpoints = sum(len(group["checkpoints"]) for group in plan.evaluate.values())
    points = sum(job["gpus"] * len(job["records"]) for job in plan.bench.values())
    return {
        "pretrain": sum(map(train, plan.pretrain.values())),
        "adapt": sum(map(train, plan.adapt.values())),
        "evaluate": checkpoints * plan.config["evaluate"].get("gpu_hours", 0.1),
        "bench": points * plan.config["bench"].get("gpu_hours", 0.2),
    }


def disk(plan: Plan) -> dict[str, float]:
    """Estimated bytes by stage at the peak: final models, and one running job's checkpoints (fp32 weights and two
    moments; two are kept, and the best, while one is being written)."""

    def final(jobs: dict) -> float:
        return sum(4.0 * job["shape"].parameters for job in jobs.values() if job["shape"])

    trained = (*plan.pretrain.values(), *plan.adapt.values())
    running = [12.0 * run["shape"].parameters * 4 for run in trained if run["shape"]]
    sources = listed(plan.config["corpus"])
    tokens = max((run["steps"] * run["batch"] * run["sequence"] for run in plan.pretrain.values()), default=0)
    return {
        "tokens": 2.0 * tokens + 4.5 * tokens * any(source["kind"] == "huggingface" for source in sources),
        "pretrain": final(plan.pretrain),
        "convert": final(plan.convert),
        "adapt": final(plan.adapt),
        "checkpoints": max(running, default=0.0),
    }


def summary(plan: Plan) -> str:
    """One line of jobs, GPU hours and disk, each by stage."""
    stages = {"pretrain": plan.pretrain, "convert": plan.convert, "adapt": plan.adapt}
    jobs = ", ".join(f"{len(jobs)} {stage}" for stage, jobs in (stages | {"bench": plan.bench}).items())
    checkpoints = sum(len(group["checkpoints"]) for group in plan.evaluate.values())
    parts = f"{len(plan.parts)} parts of the corpus, " if plan.parts else ""
    line = f"profile {plan.config['name']}: {parts}{jobs}, {checkpoints} checkpoints to evaluate"
    if plan.config["device"] == "cuda":
        hours = gpu_hours(plan)
        parts = ", ".join(f"{stage} {value:,.0f}" for stage, value in hours.items())
        line += f"; about {sum(hours.values()):,.0f} H100 hours ({parts})"
    stored = disk(plan)
    parts = ", ".join(f"{stage} {value / 1e9:,.1f}" for stage, value in stored.items())
    return line + f"; about {sum(stored.values()) / 1e9:,.1f} GB of disk ({parts})"
