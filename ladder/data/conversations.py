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
from ladder.reading import clean

SPLITS = ("train", "validation")
LIMIT = 1650  # conversations made of a corpus, over both splits
VALIDATION = 0.09  # of them
SHORTEST = 60  # characters of an answer worth learning
OPENING = 200  # characters of a text to continue, about
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SPEAKERS |= {"developer": "system"}
# Rows of a question and its answer: (question, more of it, answer).
PAIRS = (("instruction", "input", "output"), ("instruction", "context", "response"), ("prompt", None, "completion"))
# What would be left out if it were passed over: of a row, and of a message.
ROW_EXTRAS = ("tools", "functions", "history", "images")
MESSAGE_EXTRAS = ("tool_calls", "function_call", "reasoning_content", "images", "audio")
FORM = 'write {"messages": [{"role": ..., "content": ...}, ...]}'
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
        if text := [path for path in files if sources.kind(path) in sources.TEXT]:
            raise UserError(f"{text[0]}: plain text holds no conversations; give {', '.join(sources.ROWS)}")
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
    """The messages of a row, [{"role", "content"}], with "weight": 0 where one is not to be learnt.

    Raises UserError naming the row ``where`` something is wrong, or would be lost.
    """
    if not isinstance(row, dict):
        raise UserError(f"{where}: not an object; {FORM}")
    if extra := next((key for key in ROW_EXTRAS if row.get(key)), None):
        raise UserError(f"{where}: {extra!r} would be lost: only what is said is learnt; drop it, or the row")
    turns = _turns(where, row)
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns = [{"role": "system", "content": row["system"]}, *turns]
    messages = [_message(where, turn) for turn in turns]
    learnt = [m for m in messages if m["role"] == "assistant" and m.get("weight") != 0]
    if not any(m["content"].strip() for m in learnt):
        raise UserError(f"{where}: no words of the assistant to learn from; drop the row or complete it")
    if not all(m["content"].strip() for m in learnt):
        raise UserError(f'{where}: an empty answer would be learnt; complete it, or give the message "weight": 0')
    return messages


def _turns(where: str, row: dict) -> list:
    key = next((key for key in ("messages", "conversations", "conversation") if row.get(key) is not None), None)
    if key is None:
        for question, more, answer in PAIRS:
            if isinstance(row.get(question), str) and isinstance(row.get(answer), str):
                asked = [row[question], row.get(more) or ""] if more else [row[question]]
                if all(isinstance(part, str) for part in asked):
                    text = "\n\n".join(part for part in asked if part.strip())
                    return [{"role": "user", "content": text}, {"role": "assistant", "content": row[answer]}]
    if key is None or not isinstance(row[key], list) or not row[key]:
        raise UserError(f"{where}: no messages; {FORM}")
    return row[key]


def _message(where: str, turn) -> dict:
    """A message of {"role", "content"} or {"from", "value"}; content may be a list of {"type": "text", "text"}."""
    turn = turn if isinstance(turn, dict) else {}
    speaker = "role" if "role" in turn else "from"
    words = turn.get("content", turn.get("value"))
    if extra := next((key for key in MESSAGE_EXTRAS if turn.get(key)), None):
        raise UserError(f"{where}: {extra!r} of a message would be lost: only text is learnt; drop the row")
    if isinstance(words, list):
        if not all(isinstance(p, dict) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in words):
            raise UserError(f"{where}: a message with a part that is no text; drop the row")
        words = "".join(part["text"] for part in words)
    if not isinstance(words, str) or speaker not in turn:
        raise UserError(f"{where}: a message without a speaker and a text: {str(turn)[:80]}; {FORM}")
    name, weight = turn[speaker], turn.get("weight")
    if not isinstance(name, str) or name not in SPEAKERS:
        raise UserError(f"{where}: unknown {speaker} {str(name)[:40]!r}; known: {', '.join(sorted(SPEAKERS))}")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise UserError(f"{where}: weight {str(weight)[:40]} of a message is neither 0 nor 1")
    skipped = {"weight": 0} if weight == 0 or turn.get("train") is False else {}
    return {"role": SPEAKERS[name], "content": clean(words)} | skipped


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
