"""Make lm-eval tasks from the held-out (test) documents of a corpus.

  heldout_perplexity   log-likelihood of whole documents: word_perplexity, byte_perplexity, bits_per_byte
  cloze                which of four texts goes on from here? The true continuation stands among three from other
                       documents, of similar length, at a place drawn by hash: acc, acc_norm (chance: 0.25)

Documents and questions are drawn by hash, so the same corpus gives the same tasks. A long document counts with its
first --characters. Questions are kept within --max-tokens of the tokenizer, so that nothing is cut off at evaluation.
There may be fewer documents and questions than asked for; the record says how many.

Writes OUT/{heldout_perplexity,cloze}.yaml with the OUT/{perplexity,cloze}.jsonl that they read, and the record.

  ladder tasks --corpus build/corpus --tokenizer build/tokenizer --documents 40 --questions 200 --out build/tasks \\
      --record build/tasks.json
"""

import argparse
import heapq
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from ladder.data.documents import documents, fraction, manifest
from ladder.data.tokenizer import load
from ladder.errors import UserError
from ladder.files import atomic_write, write_jsonl
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.outputs import OutputFolder

CONTEXT, CONTINUATION = 40, 12  # words
# Chinese, Japanese, Thai, Lao, Burmese and Khmer are written without spaces: each character counts as a word.
CHARACTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Nor has a number of a thousand digits, or base64: what goes on longer than any word is cut, so that it has parts.
WORD = re.compile(rf" ?[{CHARACTERS}]| ?[^\s{CHARACTERS}]{{1,400}}")
CHOICES = 4
PERPLEXITY = {
    "task": "heldout_perplexity",
    "dataset_path": "json",
    "output_type": "loglikelihood_rolling",
    "test_split": "test",
    "doc_to_text": "",
    "doc_to_target": "{{page}}",
    "metric_list": [
        {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        {"metric": "byte_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
    ],
    "metadata": {"version": 1.0},
}
CLOZE = {
    "task": "cloze",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
    "metadata": {"version": 1.0},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, required=True, help="directory of `ladder corpus`")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory of `ladder tokenizer`")
    parser.add_argument("--documents", type=int, default=40, help="for perplexity (default: 40)")
    parser.add_argument("--questions", type=int, default=200, help="for cloze (default: 200)")
    parser.add_argument("--context-words", type=int, default=CONTEXT, help=f"before a choice (default: {CONTEXT})")
    parser.add_argument("--characters", type=int, default=4000, help="of a document, at most (default: 4000)")
    parser.add_argument("--max-tokens", type=int, default=120, help="of a question with its answer (default: 120)")
    parser.add_argument(
        "--out",
        action=OutputFolder,
        writes=(f"{PERPLEXITY['task']}.yaml", f"{CLOZE['task']}.yaml", "perplexity.jsonl", "cloze.jsonl"),
        required=True,
        help="directory to write",
    )
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    for key in ("documents", "questions", "context_words", "characters", "max_tokens"):
        if getattr(args, key) < 1:
            raise UserError(
                f"--{key.replace('_', '-')} {getattr(args, key)} leaves nothing to evaluate; give at least 1"
            )
    manifest(args.corpus, ["test"])
    tokenizer, _ = load(args.tokenizer)
    with job(args, "corpus", "tasks") as this:
        held_out = list(documents(args.corpus, "test"))
        pages = perplexity(held_out, args.documents, args.characters)
        asked = cloze(held_out, args.questions, tokenizer, args.max_tokens, args.context_words)
        if not asked:
            words = args.context_words + CONTINUATION
            raise UserError(
                f"{args.corpus / 'test.jsonl'}: cloze needs passages of {words} words that fit in --max-tokens "
                f"{args.max_tokens}, in at least {CHOICES} documents (of {len(held_out)}); give more documents or "
                "tokens, or a tokenizer that was trained on such text"
            )
        write(args.out, PERPLEXITY, "perplexity.jsonl", pages)
        write(args.out, CLOZE, "cloze.jsonl", asked)
        rows = [
            this.row(
                task=PERPLEXITY["task"], metric="documents", value=len(pages), unit="documents", origin="measured"
            ),
            this.row(task=CLOZE["task"], metric="questions", value=len(asked), unit="questions", origin="measured"),
        ]
        this.finish(rows)


def write(out: Path, task: dict, name: str, rows: Iterable[dict]) -> None:
    """Write the rows and the task file, which names them relative to itself (ladder.evaluate.harness reads it so)."""
    write_jsonl(out / name, rows)
    task = task | {"dataset_kwargs": {"data_files": {"test": name}}}
    with atomic_write(out / f"{task['task']}.yaml") as part:
        part.write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")


def perplexity(held_out: list[dict], count: int, characters: int) -> list[dict]:
    """``count`` documents drawn by hash, {"id", "page"}; a page ends at a word within ``characters``."""
    drawn = heapq.nsmallest(count, held_out, key=lambda document: fraction("page" + document["text"]))
    return [{"id": d["id"], "page": _beginning(d["text"].strip(), characters)} for d in drawn]


def _beginning(text: str, longest: int) -> str:
    return text if len(text) <= longest else (text[:longest].rsplit(None, 1) or [""])[0] or text[:longest]


def cloze(held_out: list[dict], count: int, tokenizer, max_tokens: int, words: int = CONTEXT) -> list[dict]:
    """``count`` questions drawn by hash over all passages, {"id", "context", "choices", "answer"}.

    A context of ``words`` words that makes more than ``max_tokens`` with the longest choice loses words from its front,
    down to half of them; if that does not do, the passage is passed over.
    """

    def length(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    passages = [passage for document in held_out for passage in _passages(document, words)]
    passages.sort(key=lambda passage: fraction(passage["id"] + passage["context"]))
    asked = []
    for passage in passages:
        least = joined(words_of(passage["context"])[-max(1, words // 2) :])
        # A word at the beginning may make some tokens more than after a space.
        if length(least) + length(" " + passage["continuation"]) > max_tokens + 16:
            continue
        # Continuations of other documents, the nearest in length first; hashes decide between equals.
        others = (p for p in passages if p["document"] != passage["document"])
        size, true = len(passage["continuation"]), passage["continuation"]
        ranked = heapq.nsmallest(
            4 * CHOICES, others, key=lambda p: (abs(len(p["continuation"]) - size), fraction(passage["id"] + p["id"]))
        )
        wrong = list(dict.fromkeys(p["continuation"] for p in ranked if p["continuation"] != true))[: CHOICES - 1]
        if len(wrong) < CHOICES - 1:
            continue
        answer = int(fraction("answer" + passage["id"]) * CHOICES)
        choices = [*wrong[:answer], true, *wrong[answer:]]
        context = words_of(passage["context"])
        longest = max(length(" " + choice) for choice in choices)
        while (over := length(joined(context)) + longest - max_tokens) > 0 and len(context) > words // 2:
            context = context[min(max(1, over // 3), len(context) - words // 2) :]
        if over > 0:
            continue
        asked.append({"id": passage["id"], "context": joined(context), "choices": choices, "answer": answer})
        if len(asked) == count:
            break
    return asked


def _passages(document: dict, context: int) -> Iterator[dict]:
    """Consecutive passages of a document: ``context`` words and the CONTINUATION, all white space made single."""
    words = words_of(document["text"])
    size = context + CONTINUATION
    for start in range(0, len(words) - size + 1, size):
        yield {
            "id": f"{document['id']}@{start}",
            "document": document["id"],
            "context": joined(words[start : start + context]),
            "continuation": joined(words[start + context : start + size]),
        }


def words_of(text: str) -> list[str]:
    """The words of a text, each but the first with the space before it, if there was one."""
    return WORD.findall(" ".join(text.split()))


def joined(words: list[str]) -> str:
    return "".join(words).strip()
