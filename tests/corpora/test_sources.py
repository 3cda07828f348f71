"""Every source gives documents with stable keys, and says what is wrong in one line."""

import json
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conftest import Pack
from heredity.corpora.documents import CorpusSpec, load, schemes
from heredity.errors import ConfigError, CorpusError, ExtraMissingError


def read(source: str, root: Path, archives: dict[str, str] | None = None, **options: Any) -> dict[str, str]:
    spec = CorpusSpec(domain="d", source=source, **options)
    return {d.key: d.text for d in load(spec, archives=archives or {}, seed=0, root=root)}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def test_sources_are_the_files_of_their_folder() -> None:
    assert schemes() == ["archive", "hf", "jsonl", "parquet", "python", "text"]


@pytest.mark.parametrize("source", ["ftp:x", "text", "text:", ":x", "_private:x"])
def test_an_unknown_scheme_names_the_known_ones(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError, match="unknown corpus source") as caught:
        read(source, tmp_path)
    assert "archive:…, hf:…, jsonl:…" in caught.value.hint


# --- text ---


def test_text_keys_start_at_the_fixed_folder(tmp_path: Path) -> None:
    for name in ("books/b.txt", "books/a.txt", "books/deep/c.txt", "books/d.md", "other.txt"):
        write(tmp_path / name, name)
    assert list(read("text:books/*.txt", tmp_path)) == ["d/a.txt", "d/b.txt"]
    assert list(read("text:books/**/*.txt", tmp_path)) == ["d/a.txt", "d/b.txt", "d/deep/c.txt"]
    assert list(read("text:books", tmp_path)) == ["d/a.txt", "d/b.txt", "d/d.md", "d/deep/c.txt"]
    assert list(read("text:other.txt", tmp_path)) == ["d/other.txt"]
    assert list(read("text:books/**/*", tmp_path, exclude="**/c.*")) == ["d/a.txt", "d/b.txt", "d/d.md"]
    assert list(read("text:books", tmp_path, exclude=("*.md", "deep/**"))) == ["d/a.txt", "d/b.txt"]


def test_text_in_a_root_with_wildcards_in_its_name(tmp_path: Path) -> None:
    root = tmp_path / "a[1]*"
    write(root / "x.txt", "x")
    assert read("text:*.txt", root) == {"d/x.txt": "x"}
    assert read(f"text:{root.as_posix().replace('[', '[[]')}/*.txt", tmp_path)


def test_line_ends_and_byte_order_marks_go_and_blank_texts_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    (tmp_path / "b.txt").write_bytes(b" \n")
    assert read("text:*.txt", tmp_path) == {"d/a.txt": "one\ntwo\nthree\n"}


def test_nothing_matches_or_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"\*\.txt: no file matches"):
        read("text:*.txt", tmp_path)
    write(tmp_path / "a.txt", "   ")
    with pytest.raises(CorpusError, match="no text for domain 'd'"):
        read("text:*.txt", tmp_path)


def test_undecodable_text_is_named_with_its_position(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(CorpusError, match=r"a\.txt: not UTF-8 text \(byte 3\)"):
        read("text:*.txt", tmp_path)


# --- jsonl, records ---


def test_jsonl_documents_are_named_by_file_and_line(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"text": "one"}\n\n{"text": "two\\u2028"}\n')
    assert read("jsonl:*.jsonl", tmp_path) == {"d/a.jsonl:1": "one", "d/a.jsonl:3": "two\u2028"}


def test_jsonl_groups_join_their_records_in_order(tmp_path: Path) -> None:
    verses = [{"body": f"{b}{c}{v}", "book": b, "chapter": c} for b in "AB" for v in (1, 2) for c in (1, 2)]
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, verses)))
    texts = read("jsonl:a.jsonl", tmp_path, text="body", group=("book", "chapter"))
    assert texts == {
        "d/A/1": "A11\nA12\n",
        "d/A/2": "A21\nA22\n",
        "d/B/1": "B11\nB12\n",
        "d/B/2": "B21\nB22\n",
    }


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        ('{"text": "a"}\n{"text": \n', {}, r"a\.jsonl:2: not JSON"),
        ('{"text": "a"}\n["text"]', {}, r"a\.jsonl:2: not a JSON object"),
        ('{"text": "a"}\n{"body": "b", "x": 1}', {}, r"a\.jsonl:2: no field 'text'"),
        ('{"text": "a"}', {"group": ("book",)}, r"a\.jsonl:1: no field 'book'"),
        ('{"text": 3}', {}, r"a\.jsonl:1: field 'text' is not text"),
        ("\n", {}, "no text for domain"),
    ],
)
def test_jsonl_errors_name_file_and_line(
    tmp_path: Path, lines: str, options: dict[str, Any], message: str
) -> None:
    write(tmp_path / "a.jsonl", lines)
    with pytest.raises(CorpusError, match=message):
        read("jsonl:a.jsonl", tmp_path, **options)


def test_two_records_of_one_name_are_an_error_not_a_loss(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / "x.jsonl", '{"text": "one", "name": "same"}')
    texts = read("jsonl:**/x.jsonl", tmp_path, group=("name",))
    assert texts == {"d/same": "one\none\n"}  # a group may span files


# --- parquet ---


def test_parquet_reads_only_its_columns(tmp_path: Path) -> None:
    pl.DataFrame({"body": ["one", "two"], "n": [1, 2], "blob": [b"x", b"y"]}).write_parquet(
        tmp_path / "a.parquet"
    )
    assert read("parquet:a.parquet", tmp_path, text="body") == {
        "d/a.parquet:1": "one",
        "d/a.parquet:2": "two",
    }
    assert read("parquet:a.parquet", tmp_path, text="body", group=("n",)) == {"d/1": "one\n", "d/2": "two\n"}
    with pytest.raises(CorpusError, match=r"a\.parquet: no column 'text'") as caught:
        read("parquet:a.parquet", tmp_path)
    assert "blob, body, n" in caught.value.hint


def test_a_file_that_is_not_parquet(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", "PAR1 but not really")
    with pytest.raises(CorpusError, match=r"a\.parquet: cannot be read as Parquet"):
        read("parquet:a.parquet", tmp_path)


# --- archive ---


def test_archive_members_are_documents(tmp_path: Path, pack: Pack) -> None:
    pins = {
        "p-1.0.tar.gz": pack(
            "p-1.0.tar.gz", {"p-1.0/t/b_gut.txt": b"bee", "p-1.0/t/a_gut.txt": b"ay\r\n", "p-1.0/x": b"\xff"}
        )
    }
    assert read("archive:p-1.0.tar.gz#t/*_gut.txt", tmp_path, pins) == {
        "d/a_gut.txt": "ay\n",
        "d/b_gut.txt": "bee",
    }
    assert list(read("archive:p-1.0.tar.gz#t/*", tmp_path, pins, exclude="b*")) == ["d/a_gut.txt"]
    with pytest.raises(CorpusError, match=r"no member matches 'u/\*'"):
        read("archive:p-1.0.tar.gz#u/*", tmp_path, pins)
    with pytest.raises(CorpusError, match=r"p-1\.0\.tar\.gz#x: not UTF-8 text"):
        read("archive:p-1.0.tar.gz#x", tmp_path, pins)


def test_a_jsonl_member_is_read_as_records(tmp_path: Path, pack: Pack) -> None:
    verse = b'{"text": "%s", "book": "Genesis", "chapter": 1}'
    lines = b"\n".join(verse % text for text in (b"In the beginning", b"And"))
    pins = {"b.zip": pack("b.zip", {"b/data/k.jsonl": lines, "b/data/bad.jsonl": b"{}\nnope"})}
    texts = read("archive:b.zip#data/k.jsonl", tmp_path, pins, group=("book", "chapter"))
    assert texts == {"d/Genesis/1": "In the beginning\nAnd\n"}
    with pytest.raises(CorpusError, match=r"b\.zip#data/bad\.jsonl:1: no field 'text'"):
        read("archive:b.zip#data/bad.jsonl", tmp_path, pins)


def test_an_archive_must_be_pinned_and_must_match(tmp_path: Path, pack: Pack) -> None:
    pack("p.zip", {"p/a": b"a"})
    with pytest.raises(ConfigError, match=r"p\.zip: no sha256 is pinned"):
        read("archive:p.zip#*", tmp_path)
    with pytest.raises(CorpusError, match="pinned is 0000"):
        read("archive:p.zip#*", tmp_path, {"p.zip": "0000"})
    with pytest.raises(ConfigError, match="no glob of members"):
        read("archive:p.zip", tmp_path, {"p.zip": "0000"})
    with pytest.raises(CorpusError, match="HF_HUB_OFFLINE"):
        read("archive:missing.zip#*", tmp_path, {"missing.zip": "0000"})


# --- python ---


def test_the_standard_library_is_code_without_tests(tmp_path: Path) -> None:
    texts = read("python:stdlib", tmp_path, exclude="encodings/**")
    assert "class JSONDecoder" in texts["d/json/decoder.py"]
    assert len(texts) > 200
    assert not [
        k for k in texts if "/test/" in k or "/tests/" in k or "site-packages" in k or "encodings/" in k
    ]
    with pytest.raises(ConfigError, match="python:other"):
        read("python:other", tmp_path)


def test_a_library_with_bad_files_is_read_around_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib"
    write(library / "good.py", "x = 1\n")
    (library / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")
    (library / "broken.py").write_bytes(b"x = '\xe9'\n")
    (library / "codec.py").write_bytes(b"# -*- coding: no-such-codec -*-\n")
    (library / "linked.py").symlink_to(write(tmp_path / "outside.py", "secret = 1\n"))
    for name in ("test/a.py", "x/tests/a.py", "site-packages/a.py", "_sysconfigdata__linux.py"):
        write(library / name, "x = 1\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(library))
    assert list(read("python:stdlib", tmp_path)) == ["d/good.py", "d/latin.py"]


# --- hf ---


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "stories"
    write(folder / "README.md", "---\nlicense: cc0-1.0\n---\n")
    for name, texts in (
        ("train-00000-of-00002", ["a", "b"]),
        ("train-00001-of-00002", ["c"]),
        ("validation-00000-of-00001", ["v"]),
    ):
        (folder / "data").mkdir(exist_ok=True)
        pl.DataFrame({"text": texts}).write_parquet(folder / "data" / f"{name}.parquet")
    return folder


def test_a_local_folder_in_the_hubs_layout(hub_folder: Path) -> None:
    texts = read("hf:stories", hub_folder.parent)
    assert list(texts.values()) == ["a", "b", "c"]
    assert next(iter(texts)) == "d/data/train-00000-of-00002.parquet:1"
    assert list(read(f"hf:{hub_folder}", Path("/"), partition="validation").values()) == ["v"]
    with pytest.raises(CorpusError, match="partition 'test'"):
        read("hf:stories", hub_folder.parent, partition="test")


def test_folders_and_subsets_of_a_local_data_set(tmp_path: Path) -> None:
    for language in ("lua", "python"):
        write(tmp_path / "stack" / "data" / language / "part-0.jsonl", json.dumps({"content": language}))
    assert list(read("hf:stack", tmp_path, text="content", folder="data/lua").values()) == ["lua"]
    assert list(read("hf:stack", tmp_path, text="content", subset="python").values()) == ["python"]
    assert len(read("hf:stack", tmp_path, text="content")) == 2
    with pytest.raises(CorpusError, match="lies outside"):
        read("hf:stack", tmp_path, folder="../..")


def test_a_local_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        read("hf:./nowhere", tmp_path)


def test_a_hub_data_set_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ExtraMissingError, match="hf:org/stories needs the extra 'datasets'"):
        read("hf:org/stories", tmp_path)


def test_a_hub_data_set_is_streamed_until_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, subset: str | None, **options: Any) -> Iterator[dict[str, str]]:
        asked.append((name, subset, options))
        for number in range(10**9):
            asked.append(number)
            yield {"text": f"story {number:04}"}

    fake = types.ModuleType("datasets")
    monkeypatch.setattr(fake, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    texts = read("hf:org/stories", tmp_path, max_bytes=100, revision="abc", folder="data/x", subset="s")
    assert asked[0] == (
        "org/stories", "s", {"split": "train", "data_dir": "data/x", "revision": "abc", "streaming": True},
    )  # fmt: skip
    assert len(asked) - 1 == 10
    assert texts["d/train:1"] == "story 0000"
    assert sum(map(len, texts.values())) <= 100


def test_a_hub_data_set_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("offline\nlong story")

    fake = types.ModuleType("datasets")
    monkeypatch.setattr(fake, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    with pytest.raises(CorpusError, match=r"hf:org/stories: cannot be read \(offline\)$"):
        read("hf:org/stories", tmp_path)


# --- all ---


def test_the_cap_takes_documents_in_keyed_order_and_not_from_one_end(tmp_path: Path) -> None:
    for number in range(50):
        write(tmp_path / f"{number:02}.txt", "x" * 10)
    spec = CorpusSpec(domain="d", source="text:*.txt", max_bytes=105)
    first = [d.key for d in load(spec, archives={}, seed=0, root=tmp_path)]
    other = [d.key for d in load(spec, archives={}, seed=1, root=tmp_path)]
    assert len(first) == len(other) == 10
    assert first == sorted(first)
    assert first != other
    assert first != [f"d/{n:02}.txt" for n in range(10)]
    whole = CorpusSpec(domain="d", source="text:*.txt", max_bytes=10**6)
    assert len(load(whole, archives={}, seed=0, root=tmp_path)) == 50
