"""The table of metrics: what a number is called, its unit, how it is written, which way is better, and what its ends
are. Records, derived tables, tables and charts of the site take all of that from here."""

import math
from dataclasses import dataclass

BOOTSTRAP, PREDICTED, SEEDS, ERRORS = (
    "95 % interval (bootstrap)",
    "90 % interval of the prediction",
    "lowest and highest seed",
    "two standard errors to either side",
)


@dataclass(frozen=True)
class Metric:
    """form: a format specification that Python and d3 share; it is applied to value × scale. Numbers from 1000 on are
    written without decimals. better: 1 if more is better, -1 if less is, 0 if neither. interval: what the columns
    NAME_low and NAME_high are."""

    label: str
    unit: str = ""
    form: str = ".2f"
    better: int = 0
    interval: str = ""
    scale: float = 1

    def text(self, value: float) -> str:
        """The number as a table shows it: 1.308 -> '1.31×'."""
        shown = value * self.scale
        form = self.form.replace(".2f", ",.0f") if abs(shown) >= 999.5 else self.form
        return f"{shown:{form}}".replace("-", "−") + ("×" if self.unit == "×" else "")

    @property
    def title(self) -> str:
        """The name with its unit, for a head or an axis."""
        return f"{self.label}, {self.unit}" if self.unit not in ("", "×") else self.label


def _share(label: str, form: str = ".0f", better: int = 0, interval: str = "") -> Metric:
    return Metric(label, "%", form, better, interval, 100)


def _change(label: str, form: str = "+.3f", unit: str = "", interval: str = BOOTSTRAP) -> Metric:
    return Metric(label, unit, form, -1, interval)


METRICS = {
    # speed
    "tokens_per_second": Metric("tokens/s", "", ".2f", 1, BOOTSTRAP),
    "tokens_per_second_per_gpu": Metric("tokens/s per GPU", "", ".2f", 1),
    "speedup": Metric("tokens/s over standard", "×", ".2f", 1, BOOTSTRAP),
    "decode_speedup": Metric("decode speed-up", "×", ".2f", 1, BOOTSTRAP),
    "decode_speedup_virtual": Metric("decode speed-up, virtual clock", "×", ".2f", 1, BOOTSTRAP),
    "prefill_speedup": Metric("prefill speed-up", "×", ".2f", 1, BOOTSTRAP),
    "decode_saved": Metric("decode time saved", "%", ".1f", 1, BOOTSTRAP),
    "prefill_saved": Metric("prefill time saved", "%", ".1f", 1, BOOTSTRAP),
    "throughput_gained": Metric("tokens/s gained", "%", ".1f", 1, BOOTSTRAP),
    "decode_s": Metric("decode step", "ms", ".2f", -1, BOOTSTRAP, 1e3),
    "prefill_s": Metric("prefill", "ms", ".1f", -1, BOOTSTRAP, 1e3),
    "hidden": _share("communication hidden", better=1, interval=BOOTSTRAP),
    "decode_hidden_wall": _share("hidden in decode, wall clock", better=1, interval=BOOTSTRAP),
    "decode_hidden_virtual": _share("hidden in decode, virtual clock", better=1, interval=BOOTSTRAP),
    "decode_hidden_schedule": _share("hidden in decode, schedule", better=1),
    "prefill_hidden_wall": _share("hidden in prefill, wall clock", better=1, interval=BOOTSTRAP),
    "prefill_hidden_virtual": _share("hidden in prefill, virtual clock", better=1, interval=BOOTSTRAP),
    "prefill_hidden_schedule": _share("hidden in prefill, schedule", better=1),
    "exposed": _share("communication with nothing computing", better=-1),
    "start_s": Metric("start", "ms", ".2f", scale=1e3),
    "end_s": Metric("end", "ms", ".2f", scale=1e3),
    "ms_per_token": Metric("time per token", "ms", ".1f", -1),
    # quality
    "validation_loss": _change("validation loss", ".3f", "nats", SEEDS),
    "byte_perplexity": _change("byte perplexity", ".3f", interval=SEEDS),
    "word_perplexity": _change("Wikitext perplexity", ".2f", interval=SEEDS),
    "cloze": _share("cloze", ".1f", 1, SEEDS),
    "accuracy": _share("accuracy", ".1f", 1, SEEDS),
    "validation_kl": _change("KL to the original", ".3f", "nats", SEEDS),
    "kl": _change("KL to the original", ".3f", "nats"),
    "loss": _change("loss", ".3f", "nats", SEEDS),
    "value": Metric("value", interval=SEEDS),
    "change": Metric("perplexity against the original", "%", "+.1f", -1, SEEDS),
    "difference": _change("difference"),
    "loss_difference": _change("loss less standard's", unit="nats"),
    "perplexity_difference": _change("perplexity, difference"),
    "floor": Metric("noise floor", "", ".3f"),
    "floor_of_others": Metric("widest of other wirings' seeds", "", ".3f"),
    "seeds_apart": Metric("seeds apart", "", ".3f"),
    "stderr": Metric("standard error", "", ".4f"),
    "relative_stderr": _share("standard error"),
    "p": Metric("p", "", ".3f"),
    "drop": _change("lost by converting"),
    "left": _change("left to the original"),
    "left_alike": _change("left to it treated alike"),
    "over_finetuned": _change("less finetuned"),
    "regained": _share("regained", better=1, interval=SEEDS),
    "regained_alike": _share("regained, treated alike", better=1, interval=SEEDS),
    "chat_loss": _change("chat loss", ".3f", "nats", SEEDS),
    "loss_change": _change("change of the loss", "+.4f", "nats", ERRORS),
    "original_perplexity": Metric("perplexity of the original", "", ".2f", -1),
    "training_s": Metric("training time", "minutes", ".1f", -1, SEEDS, 1 / 60),
    "tokens": Metric("training tokens", "thousands", ",.0f", scale=1e-3),
    "loss_when_standard_ends": _change("loss when standard ends", ".3f", "nats", SEEDS),
    "loss_at_equal_tokens": _change("loss less standard's at equal tokens", "+.3f", "nats", SEEDS),
    "loss_at_equal_time": _change("loss less standard's at equal time", "+.3f", "nats", SEEDS),
    "percent": Metric("value", "%", ".4g"),
    # scale
    "batch_ladder_lead_ends": Metric("batch from which ladder no longer leads", "", ".0f"),
    "batch_parallel_overtakes": Metric("batch from which parallel is faster", "", ".0f"),
    "batch_parallel_leads": Metric("batch from which parallel leads", "", ".0f"),
    "latency_us": Metric("latency of an all-reduce", "µs", ",.4g"),
    "latency_of_peak_gain": Metric("latency of the largest gain", "µs", ",.0f"),
    "latency_ladder_lead_ends": Metric("from here ladder no longer leads", "µs", ",.0f"),
    "latency_parallel_overtakes": Metric("from here parallel is faster", "µs", ",.0f"),
    "latency_parallel_leads": Metric("from here parallel leads", "µs", ",.0f"),
    "latency_gain_ends": Metric("from here ladder gains next to nothing", "µs", ",.0f"),
    "peak_gain": Metric("ladder's largest gain", "×", ".2f", 1, PREDICTED),
    "standard_one_shot": Metric("standard, one-shot", "×", ".2f", 1, PREDICTED),
    "ladder_nccl": Metric("ladder, NCCL", "×", ".2f", 1, PREDICTED),
    "ladder_one_shot": Metric("ladder, one-shot", "×", ".2f", 1, PREDICTED),
    "ladder_over_one_shot": Metric("ladder with NCCL over standard with one-shot", "×", ".2f", 1, PREDICTED),
    "over_standard": Metric("over standard", "×", ".2f", 1),
    # predictions
    "published": Metric("published"),
    "simulated": Metric("simulated", interval=PREDICTED),
    "error": _share("error", "+.1f"),
    "error_median": _share("median error", ".1f", -1),
    "error_p90": _share("90th percentile", ".1f", -1),
    "error_max": _share("largest", ".1f", -1),
    "bias": _share("bias", "+.1f"),
    "inside": _share("in the 90 % interval"),
    "r2": Metric("R²", "", ".2f", 1),
    "without_median": _share("without interference, median", ".1f", -1),
    "without_p90": _share("without interference, 90th percentile", ".1f", -1),
    "ladder_median": _share("ladder alone, median", ".1f", -1),
    "rule_median": _share("rule of thumb, median", ".1f", -1),
    "prefill_seconds": Metric("prefill time", "s", ".3f", -1),
    "memory_bytes": Metric("memory", "GB", ".1f", -1, scale=1e-9),
    "simulated_decode_s": Metric("simulated step", "ms", ".2f", -1, scale=1e3),
    "simulated_speedup": Metric("simulated speed-up", "×", ".2f", 1, PREDICTED),
    "simulated_hidden": _share("hidden, simulated"),
    "estimate": Metric("value", "", ".3g"),
    "in_links": Metric("in the table of links", "", ".4g"),
    "differs_from_committed": _share("differs from the committed by", ".2f"),
    # the benchmark itself
    "hidden_eager": _share("hidden, eager", interval=BOOTSTRAP),
    "hidden_compiled": _share("hidden, compiled", interval=BOOTSTRAP),
    "hidden_lost": _share("lost by compiling", "+.1f", -1),
    "decode_compile_speedup": Metric("eager over compiled, decode", "×", ".2f", 1, BOOTSTRAP),
    "prefill_compile_speedup": Metric("eager over compiled, prefill", "×", ".2f", 1, BOOTSTRAP),
    "step_bytes": Metric("read in a step", "GB", ".2f", scale=1e-9),
    "copy_bandwidth": Metric("copy", "GB/s", ",.0f", 1, BOOTSTRAP, 1e-9),
    "roofline_fraction": _share("of the limit", better=1, interval=BOOTSTRAP),
    "host_share": _share("host", ".1f", -1),
    "over_transformers": Metric("over transformers", "×", ".2f", 1, BOOTSTRAP),
    "real_s": Metric("real", "ms", ".2f", -1, BOOTSTRAP, 1e3),
    "emulated_s": Metric("emulated", "ms", ".2f", -1, BOOTSTRAP, 1e3),
    "emulated_over_real": Metric("emulated over real time", "", ".2f", 0, BOOTSTRAP),
    "real_speedup": Metric("speed-up, real", "×", ".2f", 1),
    "emulated_speedup": Metric("speed-up, emulated", "×", ".2f", 1),
    "bandwidth_gbs": Metric("bandwidth", "GB/s", ",.5g", 1),
    "communication_share": _share("share of the time in all-reduces"),
    "lead": _share("lead", "+.1f", 1),
    "wall_s": Metric("wall time", "s", ",.0f", -1),
    "share_of_gain": _share("share of full ladder's gain", better=1),
    "layers_share": _share("layers converted"),
    "size_ratio": Metric("parameters, ratio", "×"),
    "speed_ratio": Metric("larger over smaller, tokens/s", "×", ".2f", 1),
    "saved": Metric("time saved against standard", "%", ".1f", 1),
    "small_speed": Metric("smaller model's tokens/s", "", ".2f", 1),
    "large_speed": Metric("larger model's tokens/s", "", ".2f", 1),
}
# What tells rows apart: the head of its column.
DIMENSIONS = {
    "against": "Held against", "all_reduces": "All-reduces in 8 layers", "assumed": "Assumed", "backend": "Backend",
    "batch": "Batch", "changed": "Changed after numbers could be seen", "choice": "Which layers", "claim": "Claim",
    "clock": "Clock", "commit": "Commit", "compute": "Computed", "config_digest": "Configuration", "contest": "Among",
    "contradicts": "Contradicts another source", "converted": "Layers converted", "copy": "Repeats another number",
    "counted": "Judged", "decision": "Against finetuning", "degree": "For so many ranks", "derived": "Derived here",
    "dirty": "Files differed from the commit", "dtype": "Number format", "emulated_as": "Emulated as",
    "every_seed_drops": "Conversion costs in every seed", "family": "Family", "fast_enough": "As fast as the smaller",
    "file": "Published file", "first_batch": "First batch", "floor_pairs": "Pairs of seeds", "form": "Layers",
    "free": "Free to convert", "free_layers": "Layers free to convert", "gap": "Difference",
    "group": "Published numbers", "hardware": "Hardware", "high": "Upper end", "holds": "Holds", "id": "Id",
    "in_flight": "At once", "kept": "Kept by the repository", "kind": "Kind", "lane": "Lane", "larger": "Larger",
    "last_batch": "Last batch", "layer": "Layer", "layers": "Layers", "layers_of_model": "Layers of the model",
    "leaders": "Not told apart", "length": "Steps of the run", "link": "Link", "link_name": "Link, without its ρ",
    "low": "Lower end", "metric": "Quantity", "mlflow_run_id": "MLflow run", "model": "Model", "n": "n",
    "name": "Name", "near": "Close below", "network": "Network", "new_tokens": "New tokens", "note": "Remark",
    "one_record": "Timed in turn", "origin": "Origin", "other_seed": "Other seed", "outcome": "Outcome", "p2p": "P2P",
    "parameter": "Parameter", "per_layer": "All-reduces a layer", "phase": "Phase", "point": "Point",
    "preset": "Preset", "prompt": "Prompt tokens", "quoted": "Value", "ranks": "Ranks", "real": "A real model",
    "reason": "Why not", "record": "Record", "rho": "ρ", "rewired": "Rewired", "right": "Right", "rounds": "Rounds",
    "row_joint": "joint", "row_lag": "lag", "row_own": "own", "row_weight": "weight", "rule": "Rule", "run": "Job",
    "seed": "Seed", "seeds": "Seeds", "setting": "Setting", "slower": "Slower beyond noise", "small": "In the small",
    "smaller": "Smaller", "source": "Source in full", "split": "Split", "stage": "Stage", "step": "Step",
    "steps": "Steps", "study": "Run", "table": "Source", "task": "Task", "tied": "Depends on T",
    "timed_layers": "Layers run", "tp": "TP", "trusted": "Agrees with the authors' other data", "unit": "Unit",
    "use": "Used", "usual": "The model's usual place", "variant": "Checkpoint", "verdict": "Against the noise floor",
    "version": "Version", "view": "Shown as", "winner": "Fastest", "wiring": "Wiring", "wirings": "Wirings",
    "within_ms": "ms per token, at most", "written": "Rule written",
}  # fmt: skip


def metric_of(column: str) -> str:
    """The row of METRICS behind a column: NAME_low and NAME_high are ends of NAME."""
    return column if column in METRICS else column.removesuffix("_low").removesuffix("_high")


def unknown(columns) -> list[str]:
    """The columns of a derived table that are in neither table."""
    return [column for column in columns if column not in DIMENSIONS and metric_of(column) not in METRICS]


def label(column: str) -> str:
    """The head of a column."""
    return METRICS[column].title if column in METRICS else DIMENSIONS.get(column, column)


def text(column: str, value) -> str:
    """A cell of a column as the page shows it; '' for a missing value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if column in METRICS:
        return METRICS[column].text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
