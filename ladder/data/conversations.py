"""Where conversations come from: made of a corpus, or read from files and from the hub."""

import argparse
import contextlib
import heapq
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ladder.data import sources
from ladder.data.documents import documents, fraction, manifest
from ladder.errors import UserError
from ladder.files import atomic_set, json_text, sha256

SPLITS = ("train", "validation")
LIMIT = 1650  # conversations made of a corpus, over both splits
VALIDATION = 0.09  # of them
SHORTEST = 60  # characters of an answer worth learning
OPENING = 200  # characters of a text to continue, about
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
QUESTIONS = (
    "What does the documentation say about {}?",
    "Explain {}.",
    "What should I know about {}?",
    "Describe {} in a few sentences.",
)


def gather(args: argparse.Namespace) -> tuple[Iterator[tuple[str, dict]], dict]:
    """(split, {"messages"}) pairs as the arguments of ``ladder chat`` ask, and what the manifest says of their source.

    Raises UserError before anything is read where an argument is missing.
    """
    if args.limit is not None and args.limit < 2:
        raise UserError(f"--limit {args.limit} leaves nothing to train or to validate on; give at least 2")
    if args.kind == "corpus":
        if not args.corpus:
            raise UserError("--kind corpus needs --corpus with a directory of `ladder corpus`")
        about = manifest(args.corpus, SPLITS)
        keep = {key: about[key] for key in ("source", "licence")}
        if args.characters < SHORTEST:
            raise UserError(f"--characters {args.characters} leaves no room for an answer; give at least {SHORTEST}")
        made = from_corpus(args.corpus, args.limit or LIMIT, args.characters)
        return made, {"kind": args.kind, **keep, "corpus": sha256(args.corpus / "manifest.json")}
    if not 0 < args.validation < 1:
        raise UserError(f"--validation {args.validation} is not a share; give a number between 0 and 1")
    if args.kind == "files":
        if not args.path:
            raise UserError("--kind files needs --path with the files or directories to read")
        files = [path for path, _ in sources.local_files(args.path)]
        if text := [path for path in files if path.suffix in sources.TEXT]:
            raise UserError(f"{text[0]}: plain text holds no conversations; give .jsonl or .parquet")
        rows = itertools.chain.from_iterable(map(sources.local_rows, files))
        about = {"source": ", ".join(path.name for path in args.path), "licence": "as given by the owner"}
    else:
        if not args.name:
            raise UserError("--kind huggingface needs --name with the dataset, e.g. BAAI/Infinity-Instruct")
        rows = sources.hub_rows(args.name, args.config_name, args.split)
        names = [args.name, args.config_name, args.split]
        about = {"source": "/".join(filter(None, names)), "licence": sources.hub_licence(args.name)}
    return from_rows(itertools.islice(rows, args.limit), args.validation), {"kind": args.kind, **about}


def write(out: Path, conversations: Iterable[tuple[str, dict]], about: dict) -> dict[str, int]:
    """Write OUT/SPLIT.jsonl and the manifest; return the number of conversations of each split."""
    counts = dict.fromkeys(SPLITS, 0)
    with atomic_set(Path(out) / "manifest.json") as parts:
        with contextlib.ExitStack() as stack:
            files = {s: stack.enter_context(parts[f"{s}.jsonl"].open("w", encoding="utf-8")) for s in SPLITS}
            for split, conversation in conversations:
                files[split].write(json.dumps(conversation, ensure_ascii=False) + "\n")
                counts[split] += 1
        for split, count in counts.items():
            if not count:
                raise UserError(f"{about['source']}: no conversations for {split!r}; give more data or a larger share")
        digests = {f"{split}.jsonl": sha256(parts[f"{split}.jsonl"]) for split in SPLITS}
        content = {**about, "conversations": counts, "sha256": digests}
        parts["manifest.json"].write_text(json_text(content), encoding="utf-8")
    return counts


def from_rows(rows: Iterable[tuple[str, dict]], validation: float) -> Iterator[tuple[str, dict]]:
    """Checked conversations, each with the split that the hash of its content gives."""
    for where, row in rows:
        messages = read_messages(where, row)
        drawn = fraction(json.dumps(messages, ensure_ascii=False, sort_keys=True))
        yield "validation" if drawn < validation else "train", {"messages": messages}


def read_messages(where: str, row: dict) -> list[dict]:
    """The messages of a row, [{"role", "content"}]. Raises UserError naming the row ``where`` something is wrong."""
    if not isinstance(row, dict):
        raise UserError(f'{where}: not an object; write {{"messages": [{{"role": ..., "content": ...}}, ...]}}')
    if "messages" in row:
        turns, speaker, words = row["messages"], "role", "content"
    else:
        turns, speaker, words = row.get("conversations"), "from", "value"
    if not isinstance(turns, list) or not turns:
        raise UserError(f'{where}: no messages; write {{"messages": [{{"role": ..., "content": ...}}, ...]}}')
    messages = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get(words), str) or speaker not in turn:
            raise UserError(f"{where}: a message without {speaker!r} and a text in {words!r}: {str(turn)[:80]}")
        if turn[speaker] not in SPEAKERS:
            raise UserError(f"{where}: unknown {speaker} {turn[speaker]!r}; known: {', '.join(sorted(SPEAKERS))}")
        messages.append({"role": SPEAKERS[turn[speaker]], "content": turn[words]})
    if not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
        raise UserError(f"{where}: no words of the assistant to learn from; drop the row or complete it")
    return messages


def from_corpus(corpus: Path, limit: int, longest: int) -> Iterator[tuple[str, dict]]:
    """At most ``limit`` conversations about the documents of a corpus, drawn by hash, in the order of the documents.

    An answer has at most ``longest`` characters.
    """
    held_out = max(1, round(limit * VALIDATION))
    for split, count in (("train", limit - held_out), ("validation", held_out)):
        made = (pair for document in documents(corpus, split) for pair in about_document(document, longest))
        drawn = heapq.nsmallest(count, enumerate(made), key=lambda item: fraction("".join(item[1])))
        for _, (question, answer) in sorted(drawn):
            said = zip(("user", "assistant"), (question, answer), strict=True)
            yield split, {"messages": [{"role": role, "content": content} for role, content in said]}


def about_document(document: dict, longest: int) -> Iterator[tuple[str, str]]:
    """(question, answer) for each section of a document; the answer is the document's own text."""
    for heading, text in sections(document["text"]):
        drawn = fraction(document["id"] + text)
        if heading and drawn < 0.75:
            question = QUESTIONS[int(drawn * 1000) % len(QUESTIONS)].format(quoted(heading))
            answer = cut(text, longest)
        else:
            opening = cut(text, OPENING)
            question = f"Continue this text:\n\n{opening}"
            answer = cut(text[len(opening) :].strip(), longest)
        if len(answer) >= SHORTEST:
            yield question, answer


def sections(text: str) -> Iterator[tuple[str | None, str]]:
    """(heading, text below it) for each ``# heading`` of a document, as in Markdown."""
    parts = re.split(r"(?m)^#{1,6} +(.+)$", text)
    yield from ((head, body.strip()) for head, body in zip([None, *parts[1::2]], parts[::2], strict=True))


def quoted(heading: str) -> str:
    """``os.path.join`` in backquotes, other headings as they are."""
    return f"`{heading}`" if re.fullmatch(r"[\w.]+", heading) else heading.removesuffix(".")


def cut(text: str, longest: int) -> str:
    """The beginning of a text, at most ``longest`` characters, to the end of a sentence if there is one, or a word."""
    if len(text) <= longest:
        return text
    head = text[: longest + 1]
    ends = [match.end() for match in re.finditer(r"[.!?:](?=\s)", head)]
    words = re.match(r"(?s).*\S(?=\s)", head)
    return head[: ends[-1]] if ends else words[0] if words else head[:longest]
