"""Train a byte-level BPE on the training split of a corpus, or take an existing tokenizer by path or name.

A trained tokenizer has <|endoftext|> (bos, eos and pad: it separates documents), <|im_start|> and <|im_end|>, and the
chatml template of this package. An existing one keeps what it has; --chat-template gives it another template: a file,
or one of this package (chatml, llama3).

Writes OUT, a Hugging Face tokenizer directory, and the record.

  ladder tokenizer --corpus build/corpus --vocab 2048 --out build/tokenizer --record build/tokenizer.json
  ladder tokenizer --corpus build/corpus --from bigcode/starcoder --out build/tokenizer --record build/tokenizer.json
"""

import argparse
import json
import shutil
import tempfile
from importlib import resources
from pathlib import Path

from ladder.data.documents import documents, manifest
from ladder.errors import UserError, explained
from ladder.files import atomic_set, json_text
from ladder.job import add_arguments as add_job_arguments
from ladder.job import job
from ladder.outputs import OutputFolder, path_or_name
from ladder.reading import read_json, read_text

END, SAY, SAID = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "chat_template.jinja"
LARGEST = 256 << 20  # bytes of a tokenizer.json; of those published none has 64 MiB
SMALLEST = 256 + len(SPECIAL)  # every byte is a token


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, help="directory of `ladder corpus`, to train on")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--vocab", type=int, help="train a tokenizer with at most this many tokens")
    source.add_argument(
        "--from", dest="source", type=path_or_name, help="take this tokenizer: a directory or a name on the hub"
    )
    parser.add_argument(
        "--chat-template", type=path_or_name, help="chatml, llama3, or a jinja file (default: chatml if trained)"
    )
    parser.add_argument(
        "--out",
        action=OutputFolder,
        writes=("tokenizer*", TEMPLATE, "special_tokens_map.json"),
        required=True,
        help="directory to write",
    )
    add_job_arguments(parser)


def main(args: argparse.Namespace) -> None:
    template = chat_template(args.chat_template) if args.chat_template else None
    if args.source is None:
        if args.vocab < SMALLEST:
            raise UserError(f"--vocab {args.vocab} is too small; {SMALLEST} tokens are needed for bytes and markers")
        if args.corpus is None:
            raise UserError("--vocab needs --corpus with the documents to train a tokenizer on")
        manifest(args.corpus, ["train"])
    with job(args, "corpus", "tokenizer") as this:
        if args.source is None:
            texts = (document["text"] for document in documents(args.corpus, "train"))
            size = train(texts, args.vocab, args.out, template or chat_template("chatml"))
        else:
            size = take(args.source, args.out, template)
        this.finish([this.row(metric="vocabulary", value=size, unit="tokens", origin="measured")])


def chat_template(name: str) -> str:
    """The template of this package called ``name``, or the content of the file ``name``."""
    ours = {path.name.removesuffix(".jinja"): path for path in (resources.files("ladder.data") / "templates").iterdir()}
    path = ours.get(name, Path(name))
    if not path.is_file():
        raise UserError(f"--chat-template {name}: no such file, nor a template of this package ({', '.join(ours)})")
    return read_text(path).removesuffix("\n") if isinstance(path, Path) else path.read_text("utf-8").removesuffix("\n")


def train(texts, vocab: int, out: Path, template: str) -> int:
    """Write a tokenizer directory trained on ``texts``; return its number of tokens (a small text gives fewer)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    roles = {"bos_token": END, "eos_token": END, "pad_token": END, "additional_special_tokens": [SAY, SAID]}
    tidy = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    with atomic_set(out / "tokenizer.json") as parts:
        tokenizer.save(str(parts["tokenizer.json"]))
        parts["tokenizer_config.json"].write_text(json_text(tidy | roles), encoding="utf-8")
        parts[TEMPLATE].write_text(template, encoding="utf-8")
    return tokenizer.get_vocab_size()


def take(source: str, out: Path, template: str | None) -> int:
    """Copy the tokenizer ``source``; return its number of tokens. Raises UserError when it cannot be used here."""
    tokenizer = load_auto(source, f"--from {source}: no tokenizer there that can be used")
    if not tokenizer.is_fast or tokenizer.eos_token is None:
        lack = "no tokenizer.json" if not tokenizer.is_fast else "no end-of-text token"
        raise UserError(f"--from {source}: the tokenizer has {lack}; choose one that has it")
    tokenizer.init_kwargs.pop("auto_map", None)  # code that would be run with the copy
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        if template is not None:
            (Path(folder) / TEMPLATE).write_text(template, encoding="utf-8")
        with atomic_set(out / "tokenizer.json") as parts:
            for file in sorted(Path(folder).iterdir()):
                shutil.copyfile(file, parts[file.name])
    return len(tokenizer)


def load_auto(source: str | Path, where: str | None = None, config=None):
    """transformers' tokenizer of a directory, or of a name on the hub. Code that comes with one is never run.

    config: of the model, where transformers does not know the one in ``source``. Raises UserError beginning with
    ``where`` for one that cannot be used.
    """
    from transformers import AutoTokenizer

    directory = Path(source)
    if directory.is_dir():
        core(directory)
    with explained(where or f"{source}: its tokenizer cannot be used"):
        return AutoTokenizer.from_pretrained(source, config=config, trust_remote_code=False)


def load(directory: str | Path):
    """(the `tokenizers` Tokenizer of a directory, its eos id), without importing transformers.

    Special tokens that stand in a text are encoded as ordinary text, so no document can end another.
    """
    directory = Path(directory)
    tokenizer = core(directory)
    tokenizer.encode_special_tokens = True
    eos = None
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the latter counts
        token = read_json(directory / name).get("eos_token") if (directory / name).is_file() else None
        eos = (token.get("content") if isinstance(token, dict) else token) or eos  # older: with the token's flags
    if not isinstance(eos, str) or tokenizer.token_to_id(eos) is None:
        raise UserError(f"{directory / 'tokenizer_config.json'}: eos_token {json.dumps(eos)} is not in the vocabulary")
    return tokenizer, tokenizer.token_to_id(eos)


def core(directory: Path):
    """The `tokenizers` Tokenizer of a directory. Raises UserError if it has none that can be read."""
    from tokenizers import Tokenizer

    file = Path(directory) / "tokenizer.json"
    if not file.is_file():
        others = [name for name in ("tokenizer.model", "spiece.model") if file.with_name(name).is_file()]
        has = f" ({others[0]} alone cannot be read: load it with transformers and save it)" if others else ""
        raise UserError(f"{file}: no such file{has}; make it with `ladder tokenizer`, or copy that of its model")
    read_json(file, largest=LARGEST)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if file.with_name(name).is_file():
            read_json(file.with_name(name), largest=LARGEST)
    with explained(f"{file}: cannot be read; copy it again"):
        return Tokenizer.from_file(str(file))
