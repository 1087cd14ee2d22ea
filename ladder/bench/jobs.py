"""The benchmark's jobs of a plan: each is one command, which may time several points, with a record for each."""

from ladder.bench import grid
from ladder.bench.options import Options, defaults
from ladder.errors import UserError
from ladder.model.sizes import row, size
from ladder.options import flags, listed


def planned(plan) -> dict[str, dict]:
    """By name, the jobs of the section ``bench`` of a :class:`ladder.plan.Plan`'s configuration."""
    settings, device = plan.config["bench"], plan.config["device"]
    jobs: dict[str, dict] = {}
    for kind in ("emulated", "ranks"):
        for entry in settings.get(kind, []):
            usual = {"wirings": settings["wirings"], "device": device, "dtype": defaults(device)["dtype"]}
            entry = usual | entry | {"emulate": kind == "emulated"}
            shapes = {field: listed(entry[field]) for field in grid.Shape._fields}
            ranks = max(shapes["tp"]) if kind == "ranks" else 1
            on = {key: entry[key] for key in ("rho", "link", "backend") if key in entry}
            points = grid.points(shapes, entry["emulate"], **{"backend": defaults(device)["backend"]} | on)
            name = named(shapes, kind, entry)
            if name in jobs:
                raise UserError(f"bench.{kind}: two entries would be called {name}; join them")
            # On one node the command starts its own ranks.
            alone = device == "cpu" or plan.nodes(ranks) == 1
            flagged = {k: v for k, v in entry.items() if k != "device" or v == "cuda"}
            jobs[name] = entry | {
                "flags": flags(flagged, Options),
                "launch": "ladder" if alone else plan.launcher(ranks),
                "gpus": ranks if device == "cuda" else 0,
                # Ranks on the CPU share a node, whatever a node has of GPUs.
                "place": plan.place(ranks) if device == "cuda" else plan.place(1) | {"cpus_per_task": ranks},
                "row": [row(size(model)) for model in shapes["size"]],
                "records": [
                    f"{plan.root}/bench/{name}/{grid.name(shape, what, entry['dtype'], entry.get('layers'))}.json"
                    for shape, what in points
                ],
            }
    return jobs


def named(shapes: dict, kind: str, entry: dict) -> str:
    """``paper-1b-8l-tp8-b1+4+16-p8-n12-fp32-emulated``"""
    several = grid.Shape(*("+".join(map(str, shapes[field])) for field in grid.Shape._fields))
    computed = "-".join([*entry.get("compute", []), entry["dtype"]])
    return grid.name(several, entry.get("backend", kind), computed, entry.get("layers"))
