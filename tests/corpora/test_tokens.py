"""The token stream: documents whole and in keyed order, blocks of one domain, the same bytes every time."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_corpora import corpus, prose

from heredity.corpora import tokens as tokens_module
from heredity.corpora.documents import Document
from heredity.corpora.split import split
from heredity.corpora.table import corpora_table
from heredity.corpora.tokenizer import open_tokenizer
from heredity.corpora.tokens import TokenStream, write_stream
from heredity.errors import ConfigError, CorpusError, DiskFullError, StoreError

CONTEXT = 16
DOCUMENTS = [*corpus(5, "plays"), *corpus(7, "code", words=100)]


def make(
    tokenizer_file: Path, out: Path, documents: list[Document] = DOCUMENTS, most: int | None = None
) -> TokenStream:
    return write_stream(documents, tokenizer_file, out, context=CONTEXT, max_tokens_per_domain=most)


def test_documents_are_whole_ended_and_in_one_domain(tokenizer_file: Path, tmp_path: Path) -> None:
    stream = make(tokenizer_file, tmp_path / "s")
    tokenizer = open_tokenizer(tokenizer_file)
    assert stream.domains == ("plays", "code")
    assert sorted(stream.document_keys) == sorted(d.key for d in DOCUMENTS)
    assert stream.document_keys != sorted(stream.document_keys, key=lambda k: (k[0] != "p", k))
    texts = {d.key: d.text for d in DOCUMENTS}
    last = {stream.of(d).document_keys[-1] for d in stream.domains}
    for number, key in enumerate(stream.document_keys):
        ids = np.asarray(stream.tokens[stream.document == number])
        if key in last:  # cut to a whole block
            assert texts[key].startswith(tokenizer.decode(ids[ids > 1], skip_special_tokens=False)[:-3])
        else:
            assert ids[-1] == 1
            assert tokenizer.decode(ids[:-1], skip_special_tokens=False) == texts[key]
    for name, number in (("plays", 0), ("code", 1)):
        expected = sum(len(tokenizer.encode(d.text).ids) + 1 for d in DOCUMENTS if d.domain == name)
        assert (stream.domain == number).sum() == expected // CONTEXT * CONTEXT


def test_shapes_and_views_agree(tokenizer_file: Path, tmp_path: Path) -> None:
    stream = make(tokenizer_file, tmp_path / "s")
    assert stream.tokens.dtype == np.dtype("<u2")
    assert isinstance(stream.tokens, np.memmap)
    assert stream.blocks().shape == (stream.n_blocks, CONTEXT)
    assert stream.n_tokens == stream.n_blocks * CONTEXT == len(stream.document) == len(stream.domain)
    assert stream.document.dtype == np.int32
    assert np.array_equal(stream.domain_of_block, stream.domain.reshape(-1, CONTEXT)[:, -1])
    code = stream.of("code")
    assert code.domains == ("code",)
    assert np.array_equal(code.tokens, stream.tokens[stream.domain == 1])
    assert code.documents["start"][0] == 0
    assert code.documents["stop"][-1] == code.n_tokens
    assert set(code.document_keys) == {d.key for d in DOCUMENTS if d.domain == "code"}
    assert np.array_equal(stream.of(("code", "plays")).tokens, stream.tokens)
    assert stream.of(stream.domains).digest == stream.digest != code.digest
    head = stream.head(3 * CONTEXT + 5)
    assert (head.n_blocks, head.domains) == (6, stream.domains)
    assert np.array_equal(head.tokens[: 3 * CONTEXT], stream.tokens[: 3 * CONTEXT])
    assert np.array_equal(head.of("code").tokens, code.tokens[: 3 * CONTEXT])
    assert head.documents["stop"].max() == head.n_tokens
    assert stream.head(10**9).digest == stream.digest
    assert "plays, code" in repr(stream)


def test_a_cap_keeps_whole_blocks_of_every_domain(tokenizer_file: Path, tmp_path: Path) -> None:
    stream = make(tokenizer_file, tmp_path / "s", most=10 * CONTEXT + 3)
    assert [stream.of(d).n_blocks for d in stream.domains] == [10, 10]
    whole = make(tokenizer_file, tmp_path / "whole")
    assert np.array_equal(stream.tokens, whole.head(10 * CONTEXT).tokens)
    assert stream.digest == whole.head(10 * CONTEXT).digest


def test_order_and_position_do_not_matter(tokenizer_file: Path, tmp_path: Path) -> None:
    first = make(tokenizer_file, tmp_path / "a")
    plays, code = ([d for d in DOCUMENTS if d.domain == name] for name in ("plays", "code"))
    assert make(tokenizer_file, tmp_path / "b", [*plays[::-1], *code[::-1]]).digest == first.digest
    assert make(tokenizer_file, tmp_path / "c", [*code, *plays]).domains == ("code", "plays")
    without = make(tokenizer_file, tmp_path / "d", [d for d in DOCUMENTS if d.key != code[3].key])
    kept = [k for k in first.document_keys if k != code[3].key]
    assert without.document_keys == kept


def test_it_is_tokenised_once(tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(tokenizer_file, tmp_path / "s")
    before = (tmp_path / "s" / "tokens.bin").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(tokens_module, "open_tokenizer", lambda _: pytest.fail("tokenised again"))
        assert make(tokenizer_file, tmp_path / "s").digest == first.digest
    assert (tmp_path / "s" / "tokens.bin").stat().st_mtime_ns == before
    changed = [Document(DOCUMENTS[0].key, "plays", prose(5)), *DOCUMENTS[1:]]
    assert make(tokenizer_file, tmp_path / "s", changed).digest != first.digest


def test_two_processes_write_the_same_bytes(tokenizer_file: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_tokens as t;"
        " t.make(Path(sys.argv[2]), Path(sys.argv[3]))"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": seed}
        arguments = [str(Path(__file__).parent), str(tokenizer_file), str(tmp_path / seed)]
        subprocess.run([sys.executable, "-c", program, *arguments], env=environment, check=True)
    for name in ("tokens.bin", "documents.parquet", "meta.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_large_vocabulary_takes_four_bytes(tokenizer_file: Path, tmp_path: Path) -> None:
    large = json.loads(tokenizer_file.read_text())
    vocabulary = large["model"]["vocab"]
    for number in range(len(vocabulary), (1 << 16) + 1):
        vocabulary[f"unused{number}"] = number
    (tmp_path / "tokenizer.json").write_text(json.dumps(large))
    stream = make(tmp_path / "tokenizer.json", tmp_path / "s")
    assert stream.tokens.dtype == np.dtype("<u4")
    assert np.array_equal(stream.tokens, make(tokenizer_file, tmp_path / "small").tokens)


def test_the_table_counts_the_tokens_of_each_stream(tokenizer_file: Path, tmp_path: Path) -> None:
    splits = split(corpus(20, "plays"), seed=0)
    streams = {name: make(tokenizer_file, tmp_path / name, splits.of(name)) for name in ("train", "test")}
    tokens = dict(corpora_table(splits, streams).select("split", "tokens").iter_rows())
    assert tokens == {"train": streams["train"].n_tokens, "validation": 0, "test": streams["test"].n_tokens}


@pytest.mark.parametrize("name", ["tokens.bin", "documents.parquet", "meta.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed"])
def test_a_damaged_folder_is_named(tokenizer_file: Path, tmp_path: Path, name: str, damage: str) -> None:
    make(tokenizer_file, tmp_path / "s")
    file = tmp_path / "s" / name
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        middle = len(data) // 2
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        file.write_bytes({"empty": b"", "cut": data[:-3], "changed": changed}[damage])
    with pytest.raises(
        StoreError, match=r"s(/\S+)?: (no such file|not a token stream|token stream of|the tokens are not)"
    ):
        TokenStream.open(tmp_path / "s")


@pytest.mark.parametrize(
    "meta",
    ["[]", "3", "{}", '{"format": 9, "dtype": "<u2", "context": 1, "domains": [], "tokenizer_sha256": ""}'],
)
def test_a_meta_file_of_another_kind(tokenizer_file: Path, tmp_path: Path, meta: str) -> None:
    make(tokenizer_file, tmp_path / "s")
    (tmp_path / "s" / "meta.json").write_text(meta)
    with pytest.raises(StoreError, match="token stream"):
        TokenStream.open(tmp_path / "s")


def test_bad_requests_are_said(tokenizer_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no documents to tokenise"):
        make(tokenizer_file, tmp_path / "s", [])
    with pytest.raises(CorpusError, match="domain 'x' has less than a block of 16 tokens"):
        make(tokenizer_file, tmp_path / "s", [*DOCUMENTS, Document("x/1", "x", "ba")])
    with pytest.raises(ConfigError, match="3 tokens per domain hold no block of 16"):
        make(tokenizer_file, tmp_path / "s", most=3)
    assert not (tmp_path / "s").exists()
    stream = make(tokenizer_file, tmp_path / "s")
    with pytest.raises(ConfigError, match="no domain 'lua'") as caught:
        stream.of("lua")
    assert "plays, code" in caught.value.hint
    with pytest.raises(ConfigError, match="no domain"):
        stream.of(())
    with pytest.raises(ConfigError, match="less than a block"):
        stream.head(CONTEXT - 1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(ConfigError, match=r"holds 'thesis\.txt'"):
        make(tokenizer_file, tmp_path / "other")


def test_a_full_disk_leaves_nothing(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("heredity.corpora.stream.write_text", full)
    with pytest.raises(DiskFullError, match="the disk is full"):
        make(tokenizer_file, tmp_path / "s")
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_spread_takes_a_piece_of_every_document(tokenizer_file: Path, tmp_path: Path) -> None:
    documents = [*corpus(6, "plays", words=600), *corpus(9, "code", words=40)]
    kept = write_stream(
        documents, tokenizer_file, tmp_path / "s", context=CONTEXT, max_tokens_per_domain=640, spread=True
    )
    packed = make(tokenizer_file, tmp_path / "p", documents, 640)
    plays = kept.of("plays")
    assert plays.n_tokens == packed.of("plays").n_tokens == 640
    assert len(plays.document_keys) == 6 > len(packed.of("plays").document_keys)
    lengths = np.bincount(plays.document)
    assert lengths.max() - lengths.min() <= 6  # the last one is cut to a whole block
    tokenizer, texts = open_tokenizer(tokenizer_file), {d.key: d.text for d in documents}
    for number, key in enumerate(plays.document_keys):
        ids = np.asarray(plays.tokens[plays.document == number])
        assert tokenizer.decode(ids[ids > 1], skip_special_tokens=False).strip("\ufffd") in texts[key]
    again = write_stream(
        documents[::-1][9:] + documents[6:], tokenizer_file, tmp_path / "t", context=CONTEXT, max_tokens_per_domain=640,
        spread=True,
    )  # fmt: skip
    assert np.array_equal(again.tokens, kept.tokens)
