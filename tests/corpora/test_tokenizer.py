"""The tokenizer: the same bytes from the same text, every text round-trips, transformers loads it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_corpora import corpus, prose

from heredity.corpora.tokenizer import BOS, EOS, open_tokenizer, train_tokenizer
from heredity.errors import ConfigError, CorpusError, ExtraMissingError

TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from made_corpora import corpus
from heredity.corpora.tokenizer import train_tokenizer
train_tokenizer((d.text for d in corpus(12)), vocab_size=400, out=Path(sys.argv[1]))
"""


def test_two_processes_with_other_hash_seeds_train_the_same_bytes(tmp_path: Path) -> None:
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": str(1 + int(seed))}
        command = [sys.executable, "-c", TRAIN, str(tmp_path / seed), str(Path(__file__).parent)]
        subprocess.run(command, env=environment, check=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=200))
def test_every_text_survives(tokenizer_file: Path, text: str) -> None:
    tokenizer = open_tokenizer(tokenizer_file)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_come_first_and_cannot_be_written_in_a_text(tokenizer_file: Path) -> None:
    tokenizer = open_tokenizer(tokenizer_file)
    assert [tokenizer.token_to_id(t) for t in (BOS, EOS)] == [0, 1]
    assert tokenizer.get_vocab_size() == 400
    ids = tokenizer.encode(f"a {EOS} b {BOS}", add_special_tokens=False).ids
    assert min(ids) > 1


def test_transformers_loads_the_folder(tokenizer_file: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(tokenizer_file.parent)
    assert (loaded.bos_token, loaded.eos_token, loaded.eos_token_id, len(loaded)) == (BOS, EOS, 1, 400)
    text = prose(3) + "é 中 \t  x\n"
    ids = loaded(text)["input_ids"]
    assert ids == open_tokenizer(tokenizer_file).encode(text, add_special_tokens=False).ids
    assert loaded.decode(ids) == text
    loaded.save_pretrained(tmp_path / "again")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again")(text)["input_ids"] == ids


def test_long_texts_are_taken_in_pieces_without_a_change(tmp_path: Path) -> None:
    lines = [d.text for d in corpus(40, words=4000)]
    whole = train_tokenizer(["".join(lines)], vocab_size=400, out=tmp_path / "whole")
    parts = train_tokenizer(lines, vocab_size=400, out=tmp_path / "parts")
    assert len("".join(lines)) > 1 << 17
    assert whole.read_bytes() == parts.read_bytes()


def test_bad_sizes_and_empty_text_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vocab_size 257 is too small"):
        train_tokenizer(["text"], vocab_size=257, out=tmp_path / "t")
    with pytest.raises(ConfigError, match="vocab_size 5000 is too large: 4 characters of text give 2"):
        train_tokenizer(["text"], vocab_size=5000, out=tmp_path / "t")
    for texts in ([], [""]):
        with pytest.raises(CorpusError, match="no text to train"):
            train_tokenizer(texts, vocab_size=300, out=tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_folder_with_files_of_others_is_not_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "t" / "model.safetensors"
    precious.parent.mkdir()
    precious.write_bytes(b"weights")
    with pytest.raises(ConfigError, match=r"holds 'model\.safetensors', which would be lost"):
        train_tokenizer([prose(1)], vocab_size=300, out=tmp_path / "t")
    assert precious.read_bytes() == b"weights"
    with pytest.raises(ConfigError, match="is not a folder"):
        train_tokenizer([prose(1)], vocab_size=300, out=precious)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": 3}', "\xff"])
def test_a_file_that_is_not_a_tokenizer(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="latin-1")
    with pytest.raises(CorpusError, match=r"tokenizer\.json: not a tokenizer"):
        open_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(CorpusError, match="cannot be read"):
        open_tokenizer(tmp_path / "none.json")


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer_file: Path, tmp_path: Path) -> None:
    changed = tokenizer_file.read_text().replace(EOS, "<end>")
    (tmp_path / "tokenizer.json").write_text(changed)
    with pytest.raises(CorpusError, match="has no </s> token"):
        open_tokenizer(tmp_path / "tokenizer.json")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ExtraMissingError, match="a tokenizer needs the extra 'models'"):
        train_tokenizer([prose(1)], vocab_size=300, out=tmp_path / "t")
