"""Make or read chat-format data for finetuning.

Kinds of chat data:
  corpus        questions about, and continuations of, the documents of a corpus; each split from its own documents
  files         local .jsonl or .parquet, or directories of them
  huggingface   a dataset of the hub, streamed

A row of the last two is {"messages": [{"role", "content"}, ...]}, {"conversations": [{"from", "value"}, ...]} with the
speakers human, gpt and system, or {"instruction", "input", "output"}, and must hold an assistant's answer; one with
"weight": 0 is read but not learnt. A row that would lose something (tool calls, images, tools) is refused.
--validation of them are held out by hash.

Writes OUT/{train,validation}.jsonl with {"messages"} a line, OUT/manifest.json and the record.

  ladder chat --kind corpus --corpus build/corpus --out build/chat --record build/chat.json
  ladder chat --kind huggingface --name BAAI/Infinity-Instruct --config-name 7M --out build/chat \\
      --record build/chat.json
"""

import argparse
import contextlib
import signal
import threading
from bisect import bisect_left, insort
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ladder.errors import UserError
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.outputs import OutputFolder

IGNORED = -100  # label of a token that carries no loss
RENDERING = 5  # seconds of a conversation, which takes milliseconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=("corpus", "files", "huggingface"), default="corpus")
    parser.add_argument("--corpus", type=Path, help="corpus: directory of `ladder corpus`")
    parser.add_argument("--path", type=Path, nargs="+", action="extend", help="files: what to read")
    parser.add_argument("--name", help="huggingface: the dataset")
    parser.add_argument("--config-name", help="huggingface: its configuration")
    parser.add_argument("--split", default="train", help="huggingface: which of its splits to read (default: train)")
    parser.add_argument("--limit", type=int, help="at most this many conversations (default: corpus 1650, others all)")
    parser.add_argument("--characters", type=int, default=600, help="corpus: of an answer, at most (default: 600)")
    parser.add_argument("--validation", type=float, default=0.02, help="files, huggingface: share (default: 0.02)")
    parser.add_argument(
        "--out",
        action=OutputFolder,
        writes=("train.jsonl", "validation.jsonl", "manifest.json"),
        required=True,
        help="directory to write",
    )
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    from ladder.data import conversations

    splits, about = conversations.gather(args)
    with job(args, "corpus", "chat") as this:
        counts = conversations.write(args.out, splits, about)
        rows = [
            this.row(metric=f"{split}_conversations", value=count, unit="conversations", origin="measured")
            for split, count in counts.items()
        ]
        this.finish(rows, artifacts=(args.out / "manifest.json",))


class Unsplit(UserError):
    """A chat template under which the assistant's words cannot be told from the rest."""


def encode(
    messages: list[dict], tokenizer, chat_template: str | None = None, marked=True
) -> tuple[list[int], list[int]]:
    """(token ids, labels) of a conversation under the tokenizer's chat template, or under ``chat_template``.

    Labels are the ids where the assistant speaks and -100 elsewhere, or all ids unless ``marked``. Its words are what
    an answer adds to the prompt for it, up to the token that ends the turn: so any template serves whose text stays as
    a conversation goes on.
    Raises :class:`Unsplit` for another, and UserError for a tokenizer without a template.
    """
    template = chat_template or tokenizer.chat_template
    name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
    if not template:
        raise UserError(f"{name}: no chat template; give it one with `ladder tokenizer --from ... --chat-template ...`")
    if isinstance(template, dict):  # several named ones
        template = tokenizer.get_chat_template()
    learnt = [n for n, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0 and marked]

    def written(conversations: list[list[dict]], prompt: bool) -> list[str]:
        chosen = {"chat_template": template, "tokenize": False, "add_generation_prompt": prompt}
        return tokenizer.apply_chat_template(conversations, **chosen)

    with limited(name):
        prompts = written([messages[:n] for n in learnt], True) if learnt else []
        *answered, text = written([*(messages[: n + 1] for n in learnt), messages], False)
    spans = []
    for n, before, after in zip(learnt, prompts, answered, strict=True):
        if not (after.startswith(before) and text.startswith(after)):
            raise Unsplit(
                f"{name}: its chat template writes what was said before differently once answer {n} is there, so "
                "the assistant's tokens cannot be told from the rest; use --method distill, which needs no such split, "
                "or another template (--chat-template chatml)"
            )
        turn = after.rstrip()
        if turn.endswith(messages[n]["content"].rstrip()):
            turn = after  # nothing but space ends it
        spans.append((len(before), len(turn)))
    if not marked:
        spans = [(0, len(text))]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    labels = [id_ if any(s < end and e > start for start, end in spans) else IGNORED for id_, (s, e) in places]
    return encoded["input_ids"], labels


@contextlib.contextmanager
def limited(name: str) -> Iterator[None]:
    """Render a conversation within RENDERING seconds of processor time: a template is a program, and may not end.

    Raises UserError where it takes longer or refuses the conversation.
    """
    import jinja2

    def stop(*_):
        raise UserError(f"{name}: its chat template takes over {RENDERING} s for one conversation; give another")

    timed = threading.current_thread() is threading.main_thread()  # no other may set a signal's handler
    before = signal.signal(signal.SIGVTALRM, stop) if timed else None
    try:
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, RENDERING)
        yield
    except (jinja2.TemplateError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: its chat template does not take this conversation ({reason})") from None
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)


def too_long(samples: list[tuple[list[int], list[int]]], length: int) -> int:
    """How many of the samples :func:`pack` would truncate."""
    return sum(len(ids) > length for ids, _ in samples)


def pack(samples: list[tuple[list[int], list[int]]], length: int, pad: int = 0) -> list[dict[str, np.ndarray]]:
    """Pack whole conversations into rows of exactly ``length`` tokens: longest first, each where it fits best.

    Each row is {"input_ids", "labels", "position_ids"}, int64 [length]. Positions begin at 0 for each conversation and
    for the padding, which tells attention where its blocks end; the first label of each is -100, so that no loss is
    taken across a border. A longer conversation is cut to ``length``, and left out if no answer remains. Deterministic.
    """
    cut = [(ids[:length], [IGNORED, *labels[1:length]]) for ids, labels in samples]
    kept = [n for n, (_, labels) in enumerate(cut) if any(label != IGNORED for label in labels)]
    members: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for n in sorted(kept, key=lambda n: -len(cut[n][0])):
        size = len(cut[n][0])
        place = bisect_left(room, (size, 0))
        if place == len(room):
            members.append([])
            free, row = length, len(members) - 1
        else:
            free, row = room.pop(place)
        members[row].append(n)
        insort(room, (free - size, row))
    # In the order of the samples again: rows of one length in a row would make uneven batches.
    return [_row([cut[n] for n in sorted(row)], length, pad) for row in sorted(members, key=min)]


def _row(samples: list[tuple[list[int], list[int]]], length: int, pad: int) -> dict[str, np.ndarray]:
    row = {"input_ids": np.full(length, pad), "labels": np.full(length, IGNORED), "position_ids": np.zeros(length, int)}
    end = 0
    for ids, labels in samples:
        start, end = end, end + len(ids)
        row["input_ids"][start:end] = ids
        row["labels"][start:end] = labels
        row["position_ids"][start:end] = np.arange(len(ids))
    row["position_ids"][end:] = np.arange(length - end)
    return {key: values.astype(np.int64) for key, values in row.items()}
