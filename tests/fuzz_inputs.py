"""Mutated inputs by kind: a kind writes one into a folder and returns the command line that reads it."""

import copy
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
VALUES = (None, True, False, -1, 0, 1, 3, 7, 10**6, 10**12, 10**400, 0.5, -0.5, 1e-300, float("nan"), float("inf"))
VALUES += ("", "x", "x" * 5000, "٣", "a\nb", "\ud83d", "../../etc", "standard", "1e999", [], {}, [[]], [None])
WORDS = (
    "",
    "0",
    "-1",
    "1e9",
    "99999999999",
    "9" * 400,
    "٣",
    "nan",
    "inf",
    "1.5",
    "@",
    "-",
    "x" * 3000,
    "a\nb",
    "../..",
)


# Mutations ---------------------------------------------------------------------------------------------------------


def places(value, path=()) -> Iterator[tuple]:
    """The path of every value in a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


def mutate_value(rng: random.Random, value) -> tuple[object, str]:
    """The value with something replaced, deleted, added or scaled; and what was done."""
    value = copy.deepcopy(value)
    path = rng.choice(list(itertools.islice(places(value), 3000)) or [()])
    if not path:
        return rng.choice(VALUES), "replaced as a whole"
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key, name = path[-1], ".".join(map(str, path))
    act = rng.choice(("replace", "replace", "replace", "delete", "add", "scale", "wrap"))
    if act == "delete":
        del parent[key]
    elif act == "add" and isinstance(parent, dict):
        parent["surplus"] = rng.choice(VALUES)
    elif act == "scale" and isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
        parent[key] = parent[key] * rng.choice((-1, 0, 1.5, 1000, 1e30))
    elif act == "wrap":
        parent[key] = [parent[key]]
    else:
        parent[key] = rng.choice(VALUES)
        act = f"= {parent[key]!r}"[:60]
    return value, f"{name} {act}"


def mutate_bytes(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """The bytes of a file (not empty), damaged as disks, editors and transfers do."""
    at = rng.randrange(len(data))
    text = data.decode("utf-8", "replace")
    made, act = rng.choice(
        (
            (data[:at], f"cut at {at}"),
            (data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :], f"bit at {at}"),
            (data[:at] + b"\0" * 16 + data[at + 16 :], f"zeros at {at}"),
            (b"", "empty"),
            (text.encode("utf-16"), "UTF-16"),
            ("é".encode("latin-1") + data, "Latin-1"),
            (b"\xef\xbb\xbf" + data, "BOM"),
            (b"[" * 100_000, "100,000 brackets"),
            (data + data, "twice"),
            (data.replace(b"\n", b"\r\n"), "CRLF"),
        )
    )  # fmt: skip
    return made, act


def mutate_json(rng: random.Random, path: Path) -> str:
    """Mutate a JSON file in place; say how."""
    data = path.read_bytes()
    if rng.random() < 0.25:
        data, act = mutate_bytes(rng, data)
    else:
        value, act = mutate_value(rng, json.loads(data))
        data = json.dumps(value, ensure_ascii=True).encode()
        if rng.random() < 0.1 and data.startswith(b"{") and isinstance(value, dict) and value:
            key = next(iter(value))
            data, act = b"{" + json.dumps({key: 1}).encode()[1:-1] + b", " + data[1:], f"{key} twice"
    path.write_bytes(data)
    return f"{path.name}: {act}"


def mutate_word(rng: random.Random, word: str) -> str:
    at = rng.randrange(len(word) + 1)
    piece = rng.choice(WORDS)
    return rng.choice((piece, word[:at] + piece + word[at:], word[:at], word + word, word[:at] + piece))


# Kinds -------------------------------------------------------------------------------------------------------------


def config(rng, here: Path, _) -> tuple[list, str]:
    import yaml

    text = (ROOT / "config" / "default.yaml").read_text()
    path = here / "config.yaml"
    if rng.random() < 0.3:
        data, act = mutate_bytes(rng, text.encode())
        path.write_bytes(data)
    else:
        value, act = mutate_value(rng, yaml.safe_load(text))
        path.write_bytes(yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass"))
    return ["init", "--config", path], act


def wiring(rng, _here, _) -> tuple[list, str]:
    word = mutate_word(rng, rng.choice(("ladder@4-7", "desync-4x", "dtp-2@1,3-5", "ladder-3", "partial", "fal+")))
    return ["simulate", "--wirings", "standard", f"{word}"], repr(word)[:60]


def arguments(rng, _here, _) -> tuple[list, str]:
    options = {"--tp": "8", "--batch": "4", "--prompt": "100", "--new-tokens": "10", "--hardware": "h100"}
    options |= {"--link": "24us+370GB/sx2", "--model": "llama-3-8b-4l", "--implementation": "serving"}
    key = rng.choice(list(options))
    options[key] = mutate_word(rng, options[key])
    return ["simulate", *(f"{k}={v}" for k, v in options.items())], f"{key} {options[key]!r}"[:60]


def numbers(rng, here: Path, _) -> tuple[list, str]:
    option = rng.choice(("--lr", "--warmup", "--betas", "--steps", "--clip", "--eps", "--min-lr", "--seed", "--tp"))
    word = rng.choice(("inf", "nan", "1e999", "-1", "٣", "", "1_0", "9" * 30, "x"))
    words = [here / "m", "--chat", here, "--work", here / "w", "--record", here / "r.json"]
    return ["adapt", here / "none", *words, f"{option}={word}"], f"{option}={word}"


def points(rng, here: Path, _) -> tuple[list, str]:
    rows = ["model,wiring,tp,batch,prompt,new_tokens,hardware,link"]
    rows += [f"llama-3-8b,{name},8,4,100,50,h100,nvlink" for name in ("standard", "ladder", "ladder@3-9")]
    table = [row.split(",") for row in rows]
    line, column = rng.randrange(len(table)), rng.randrange(8)
    table[line][column] = mutate_word(rng, table[line][column])
    data, act = "\n".join(map(",".join, table)).encode(), f"{line}.{column} = {table[line][column]!r}"[:60]
    if rng.random() < 0.3:
        data, act = mutate_bytes(rng, data)
    (here / "p.csv").write_bytes(data)
    return ["simulate", "--points", here / "p.csv", "--out", here / "out.csv"], act


def calibration(rng, here: Path, _) -> tuple[list, str]:
    path = Path(shutil.copy(ROOT / "ladder" / "simulate" / "calibration.json", here / "c.json"))
    act = mutate_json(rng, path)
    return ["simulate", "--calibration", path, "--wirings", "standard", "ladder"], act


def link(rng, here: Path, _) -> tuple[list, str]:
    row = {"name": "mine", "words": "mine", "latency_us": {"2": 10.0, "8": 20.0}, "bus_bandwidth": 1e10}
    row |= {"latency_from": "measured: here", "bandwidth_from": "measured: here", "in_flight": 1}
    path = here / "link.json"
    path.write_text(json.dumps({"link": row}))
    return ["simulate", "--link", path], mutate_json(rng, path)


def device(rng, here: Path, _) -> tuple[list, str]:
    row = {"name": "mine", "words": "mine", "memory_bytes": 8e10, "bandwidth": 3e12, "flops": 1e15, "source": "here"}
    path = here / "device.json"
    path.write_text(json.dumps({"device": row}))
    return ["simulate", "--hardware", path], mutate_json(rng, path)


def record(rng, here: Path, _) -> tuple[Callable, str]:
    from ladder.analysis.frames import tidy
    from ladder.records import read_all

    every = sorted((ROOT / "reports" / "measured").rglob("*.json"))
    (here / "records").mkdir()
    path = Path(shutil.copy(rng.choice(every), here / "records"))
    act = mutate_json(rng, path)
    return lambda: tidy(read_all([here / "records"])), act


def bench(rng, here: Path, _) -> tuple[list, str]:
    every = sorted((ROOT / "reports" / "measured").rglob("*.json"))
    timed = [path for path in every if '"emulate"' in path.read_text()]
    path = Path(shutil.copy(rng.choice(timed), here))
    act = mutate_json(rng, path)
    return ["calibrate", path], act


def chat(rng, here: Path, _) -> tuple[list, str]:
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning."}]
    rows = [{"messages": [*said, {"role": "user", "content": str(n)}, said[1]]} for n in range(40)]
    rows[20], act = mutate_value(rng, rows[20])
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    if rng.random() < 0.3:
        data, act = mutate_bytes(rng, data)
    (here / "x.jsonl").write_bytes(data)
    words = ["--validation", "0.3", "--out", here / "chat", "--record", here / "r.json"]
    return ["chat", "--kind", "files", "--path", here / "x.jsonl", *words], act


def shape(rng, here: Path, checkpoint: Path) -> tuple[list, str]:
    path = Path(shutil.copy(checkpoint / "config.json", here))
    return ["simulate", "--model", path, "--tp", "2", "--wirings", "standard", "ladder"], mutate_json(rng, path)


def of_checkpoint(file: str) -> Callable:
    def kind(rng, here: Path, checkpoint: Path) -> tuple[list, str]:
        source = here / "model"
        # Without a card, whose digests would refuse every change before it is looked at.
        shutil.copytree(
            checkpoint, source, ignore=None if file == "ladder.json" else shutil.ignore_patterns("ladder.json")
        )
        act = mutate_header(rng, source) if file == "safetensors" else mutate_json(rng, source / file)
        return ["convert", source, here / "out", "--wiring", "ladder"], act

    return kind


def mutate_header(rng, folder: Path) -> str:
    """Mutate the header of a safetensors file: eight bytes of its length, JSON, then the numbers."""
    path = sorted(folder.glob("*.safetensors"))[0]
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.3:
        header, act = mutate_bytes(rng, header)
    else:
        value, act = mutate_value(rng, json.loads(header))
        header = json.dumps(value).encode()
    length = rng.choice((len(header), len(header), len(header), 2**63, 0, len(data)))
    path.write_bytes(length.to_bytes(8, "little") + header + rest)
    return f"{path.name}: {act}, length {length}"


KINDS: dict[str, Callable] = {
    f.__name__: f for f in (config, wiring, arguments, numbers, points, calibration, link, device, record, bench, chat)
}
KINDS |= {"shape": shape, "config.json": of_checkpoint("config.json"), "ladder.json": of_checkpoint("ladder.json")}
KINDS |= {"index": of_checkpoint("model.safetensors.index.json"), "header": of_checkpoint("safetensors")}
KINDS |= {"tokenizer.json": of_checkpoint("tokenizer.json")}
KINDS |= {"tokenizer_config.json": of_checkpoint("tokenizer_config.json")}
