"""The rules that judge claims about speed. A rule looks at the origin and the hardware of what it judges."""

from ladder.report.benchmark_tables import BAR, predicted
from ladder.report.frames import Frames
from ladder.report.points import Measurement, emulated, plain, points
from ladder.report.quality import rewired_share
from ladder.report.rules import Verdict, untested, verdict
from ladder.report.shape_tables import fast_points, hybrids, share_of_gain, slower
from ladder.report.style import listing, look, percent, times

# Below, an all-reduce takes so little of the time that no share of it can be told; above, parallel is said to win.
RHOS = (0.2, 0.8)
ROUNDS = 50  # of decode steps; the first points of sweeps have fewer
NEAR = 0.05  # how far an emulated speed-up may be from the published one


def within(found: list[Measurement]) -> list[Measurement]:
    """The points at these rho that were timed long enough for their intervals to tell."""
    found = [p for p in found if RHOS[0] <= p.rho <= RHOS[1]]
    return [p for p in found if (row := p.row("speedup", "ladder")) and row["n"] >= ROUNDS]


def where(p: Measurement) -> str:
    words = (p.key["model"], f"TP {p.key['tp']:g}", f"batch {p.key['batch']:g}", p.how, p.hardware)
    return f"ρ {p.rho:g} ({', '.join(filter(None, words))})"


def bounds(row: dict) -> str:
    return f"{percent(row['value'])} [{percent(row['low'])}, {percent(row['high'])}]"


def hides_decode(frames: Frames) -> Verdict:
    found = [(p, p.row("hidden_wall", "ladder"), p.row("hidden_virtual", "ladder")) for p in within(emulated(frames))]
    found = [entry for entry in found if entry[1] and entry[2]]
    if not found:
        return untested("No emulated decode timing at ρ from 0.2 to 0.8.")
    numbers = [f"{where(p)}: {bounds(w)} wall, {bounds(v)} virtual" for p, w, v in found]
    return verdict(
        all(w["low"] > 0.5 and v["low"] > 0.5 for _, w, v in found), f"Hidden in decode at {'; '.join(numbers)}."
    )


def beats_parallel(frames: Frames) -> Verdict:
    metrics = ("speedup", "speedup_virtual")
    found = [
        (p, [p.row(metric, wiring) for metric in metrics for wiring in ("ladder", "parallel")])
        for p in within(emulated(frames, batch=1))
    ]
    found = [(p, rows) for p, rows in found if all(rows)]
    if not found:
        return untested("No emulated decode timing of ladder and parallel at batch 1 and ρ from 0.2 to 0.8.")
    numbers = []
    for p, (a, b, c, d) in found:
        ladder = f"ladder {spread_of(a)} wall, {spread_of(c)} virtual"
        numbers.append(f"{where(p)}: {ladder}; parallel {spread_of(b)} wall, {spread_of(d)} virtual")
    holds = all(a["value"] > b["value"] and c["low"] > d["high"] for _, (a, b, c, d) in found)
    return verdict(holds, f"Decode speed-up at {'; '.join(numbers)}.")


def spread_of(row: dict) -> str:
    return f"{times(row['value'])} [{times(row['low'])}, {times(row['high'])}]"


def measured_gain(model: str, tp: int, least: float, batches: tuple, wiring: str = "ladder", p2p: bool = True):
    """A rule for a speed-up on real hardware: tokens/s over standard at least ``least``."""

    def judge(frames: Frames) -> Verdict:
        found = [p for p in points(frames) if p.origin == "measured" and p.key["model"] == model]
        found = [p for p in found if p.key["tp"] == tp and p.key["batch"] in batches and p.key["backend"] == "nccl"]
        found = [p for p in found if ("p2p off" in str(p.key["link"]).lower()) != p2p]
        gains = [(p, gain["value"]) for p in found if (gain := p.throughput_gain(wiring))]
        if not gains:
            return untested(f"No measurement of {model} over {tp} GPUs in this run.")
        numbers = listing(f"{times(gain)} at batch {p.key['batch']:g}" for p, gain in gains)
        return verdict(all(gain >= least for _, gain in gains), f"tokens/s over standard: {numbers}.")

    return judge


def communication_share(frames: Frames) -> Verdict:
    found = [
        p for p in points(frames) if p.origin == "measured" and p.key["model"] == "llama-3-70b" and p.key["tp"] == 8
    ]
    found = [p for p in found if p.key["batch"] == 4 and p.key["backend"] == "nccl"]
    shares = [1 - 1 / gain["value"] for p in found if (gain := p.throughput_gain("upper_bound"))]
    if not shares:
        return untested("No measurement of llama-3-70b over 8 GPUs in this run.")
    numbers = f"Share of the time that vanishes without communication: {listing(map(percent, shares))}."
    return verdict(all(0.28 <= share <= 0.48 for share in shares), numbers)


def seventy(frames: Frames) -> list[Measurement]:
    """Points of the paper's 70B at TP 8 with NVLink: over 8 GPUs, or rank 0's shard on one with that link emulated."""
    found = [p for p in plain(points(frames)) if (p.key["model"], p.key["tp"]) == ("llama-3-70b", 8)]
    real = [p for p in found if p.origin == "measured" and "p2p off" not in p.link.lower() and on_gpu(p)]
    return real or [p for p in found if p.key["link"] == "h100-nvlink" and on_gpu(p)]


def on_gpu(point: Measurement) -> bool:
    return any(name in point.hardware for name in ("H100", "H200"))


def emulated_gain(frames: Frames) -> Verdict:
    found = [p for p in seventy(frames) if p.origin == "emulated"]
    paper = frames.paper("fig2_70b_throughput", tp=8, p2p="enabled").set_index(["batch", "wiring"])["value"]
    numbers, holds, batches = [], True, set()
    for p in found:
        for wiring in ("ladder", "parallel"):
            gain, batch = p.throughput_gain(wiring), p.key["batch"]
            if gain is None or (batch, wiring) not in paper:
                continue
            published = paper[batch, wiring] / paper[batch, "standard"]
            numbers.append(
                f"{look(wiring).label} {times(gain['value'])} at batch {batch:g} (published {times(published)})"
            )
            holds &= abs(gain["value"] - published) <= NEAR
            batches.add(batch)
    if 1 not in batches:
        return untested("No llama-3-70b at TP 8 on an H100 or H200 with the emulated link h100-nvlink at batch 1.")
    return verdict(bool(holds), f"tokens/s over standard: {listing(numbers)}.")


def catches_up(frames: Frames) -> Verdict:
    leads = {}
    for p in seventy(frames):
        ladder, parallel = (p.throughput_gain(w) for w in ("ladder", "parallel"))
        if ladder and parallel:
            leads[p.key["batch"]] = (ladder["value"] / parallel["value"] - 1, p.origin)
    if not {1, 64} <= set(leads):
        return untested("No llama-3-70b at TP 8 with NVLink, real or emulated on an H100 or H200, at batch 1 and 64.")
    numbers = listing(f"{percent(leads[b][0], 1, True)} at batch {b} ({leads[b][1]})" for b in (1, 64))
    return verdict(leads[64][0] <= min(0.02, leads[1][0]), f"Ladder's lead over parallel: {numbers}.")


def half_the_gain(frames: Frames) -> Verdict:
    found = []
    for p, wiring in hybrids(points(frames)):
        share, part = rewired_share(wiring, p.key["model"]), share_of_gain(p, wiring)
        if share is not None and part is not None and 0.45 <= share <= 0.55:
            found.append((p, wiring, part))
    if not found:
        return untested("No hybrid of half of the layers was timed beside full ladder where that gains 2 % or more.")
    numbers = listing(f"{percent(part)} ({look(w).label}, {p.key['model']} {p.at}, {p.origin})" for p, w, part in found)
    return verdict(all(0.35 <= part <= 0.65 for _, _, part in found), f"Share of full ladder's gain: {numbers}.")


def never_slower(frames: Frames) -> Verdict:
    found = [(p, p.row("speedup", "ladder")) for p in fast_points(frames)]
    found = [(p, row) for p, row in found if slower(row) is not None]
    if not found:
        return untested("No emulated decode timing at ρ up to 0.1.")
    numbers = listing(f"{spread_of(row)} at {where(p)}" for p, row in found)
    return verdict(not any(slower(row) for _, row in found), f"Decode speed-up: {numbers}.")


def link_predicts(frames: Frames) -> Verdict:
    held = predicted(frames)
    if held.empty:
        return untested("No record holds the emulated link against a real slow network.")
    numbers = listing(f"{row.value:.2f} ({look(row.wiring).label}, {row.link})" for row in held.itertuples())
    return verdict(bool(((held["value"] - 1).abs() <= BAR).all()), f"Emulated over real decode time: {numbers}.")
