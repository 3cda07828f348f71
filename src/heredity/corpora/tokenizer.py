"""Train a byte-level BPE tokenizer, in a folder that `AutoTokenizer` loads.  Source: Sennrich 2016."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from heredity.atomic import replacing_folder, write_text
from heredity.corpora.files import refuse_other_files
from heredity.errors import ConfigError, CorpusError, ExtraMissingError

BOS, EOS = "<s>", "</s>"  # identifiers 0 and 1
_ALPHABET = 256
_CHUNK_CHARACTERS = 1 << 16  # the trainer takes long texts in pieces, cut at line ends


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, out: Path) -> Path:
    """Train on texts and write tokenizer.json, tokenizer_config.json and special_tokens_map.json into `out`.

    The same texts give the same bytes. Every byte is in the vocabulary, so any text can be encoded.

    Returns:
        Path of tokenizer.json.

    Raises:
        ConfigError: `vocab_size` cannot hold the bytes, or the texts are too few for so many tokens; or `out`
            has other files.
        CorpusError: there is no text.
    """
    if vocab_size < _ALPHABET + 2:
        raise ConfigError(
            f"vocab_size {vocab_size} is too small", f"the bytes and special tokens alone are {_ALPHABET + 2}"
        )
    out, tokenizers = Path(out), _tokenizers()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    counted = _Counted(texts)
    tokenizer.train_from_iterator(counted, trainer)
    if not counted.characters:
        raise CorpusError(
            f"{out}: no text to train a tokenizer on", "check the corpora and the training split"
        )
    if tokenizer.get_vocab_size() < vocab_size:
        raise ConfigError(
            f"vocab_size {vocab_size} is too large: {counted.characters:,} characters of text"
            f" give {tokenizer.get_vocab_size()} tokens",
            "ask for fewer tokens, or add text",
        )
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True) + "\n",
        "tokenizer_config.json": _json(_CONFIG),
        "special_tokens_map.json": _json({"bos_token": BOS, "eos_token": EOS}),
    }
    refuse_other_files(out, tuple(files))
    with replacing_folder(out) as temporary:
        for name, text in files.items():
            write_text(temporary / name, text)
    return out / "tokenizer.json"


def open_tokenizer(file: Path) -> Any:
    """Open a tokenizer.json as a `tokenizers.Tokenizer`.

    Raises:
        CorpusError: missing or unreadable, or without an end-of-text token.
    """
    try:
        text = file.read_text(encoding="utf-8")
        parsed = json.loads(text)
    except OSError as error:
        raise CorpusError(f"{file}: cannot be read ({error.strerror})", "train the tokenizer first") from None
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("model"), dict):
        raise CorpusError(f"{file}: not a tokenizer", "train it again")
    tokenizer = _tokenizers().Tokenizer.from_str(text)
    end_of_text(tokenizer, file)
    tokenizer.encode_special_tokens = True  # "</s>" in a text is four characters, not the end of it
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def end_of_text(tokenizer: Any, file: Path) -> int:
    """Return the token that ends a document: `</s>`, else what the folder's settings name, else the separator.

    Raises:
        CorpusError: the tokenizer has none.
    """
    beside = file.with_name("tokenizer_config.json")
    try:
        settings = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
    except ValueError:
        raise CorpusError(f"{beside}: not JSON", "save the tokenizer again") from None
    names = [EOS]
    for role in ("eos_token", "sep_token"):
        value = settings.get(role)
        names.append(str(value.get("content", "") if isinstance(value, dict) else value))
    for name in (*names, "[SEP]", "<|endoftext|>"):
        found = tokenizer.token_to_id(name)
        if found is not None:
            return int(found)
    raise CorpusError(f"{file}: has no {EOS} token to end a document with", "use a tokenizer that has one")


def sha256_of(file: Path) -> str:
    """Return the sha256 of a tokenizer file: what a token stream is recognised by."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


_CONFIG = {
    "add_bos_token": False,
    "add_eos_token": False,
    "add_prefix_space": False,
    "bos_token": BOS,
    "clean_up_tokenization_spaces": False,
    "eos_token": EOS,
    "tokenizer_class": "PreTrainedTokenizerFast",
}


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError as error:
        if error.name != "tokenizers":
            raise
        raise ExtraMissingError("a tokenizer", "models") from None
    return tokenizers


class _Counted:
    """Passes texts on in pieces that end with a line, and counts their characters."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self.characters = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.characters += len(text)
            start = 0
            while len(text) - start > _CHUNK_CHARACTERS:
                stop = text.rfind("\n", start, start + _CHUNK_CHARACTERS) + 1 or start + _CHUNK_CHARACTERS
                yield text[start:stop]
                start = stop
            yield text[start:]
