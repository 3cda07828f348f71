"""Corpora as a command line names them, and the token that ends a document."""

import json
from pathlib import Path

import pytest

from heredity.corpora.given import corpora
from heredity.corpora.tokenizer import end_of_text, open_tokenizer, train_tokenizer
from heredity.errors import ConfigError, CorpusError


@pytest.mark.parametrize(
    ("given", "domain", "source"),
    [
        ("news.jsonl", "news", "jsonl:{root}/news.jsonl"),
        ("table.parquet", "table", "parquet:{root}/table.parquet"),
        ("books", "books", "text:{root}/books"),
        ("tales=books", "tales", "text:{root}/books"),
        ("text:books/**/*.txt", "books", "text:books/**/*.txt"),
        ("code=python:stdlib", "code", "python:stdlib"),
        ("python:stdlib", "stdlib", "python:stdlib"),
        ("hf:org/stories@main", "stories", "hf:org/stories@main"),
        ("archive:a-1.0.tar.gz#texts/*.txt", "texts", "archive:a-1.0.tar.gz#texts/*.txt"),
    ],
)
def test_a_source_is_told_by_its_path_or_its_scheme(
    tmp_path: Path, given: str, domain: str, source: str
) -> None:
    (tmp_path / "books").mkdir()
    for name in ("news.jsonl", "table.parquet"):
        (tmp_path / name).write_text("")
    for name in ("news.jsonl", "table.parquet", "books"):
        if given in (name, f"tales={name}"):
            given = given.replace(name, str(tmp_path / name))
    (spec,), archives = corpora([given])
    assert (spec.domain, spec.source) == (domain, source.format(root=tmp_path))
    assert archives == {}


def test_a_file_of_corpora_has_all_fields_and_archives(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[corpora]]\ndomain = "a"\nsource = "jsonl:a.jsonl"\ngroup = ["book"]\n[archives]\n"x.whl" = "00"\n'
    )
    specs, archives = corpora([str(file), "b=python:stdlib"])
    assert [spec.domain for spec in specs] == ["a", "b"]
    assert specs[0].group == ("book",)
    assert archives == {"x.whl": "00"}
    file.write_text('[[corpora]]\ndomain = "a"\nsauce = "jsonl:a.jsonl"\n')
    with pytest.raises(ConfigError, match="unknown field 'sauce'"):
        corpora([str(file)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no text is given"),
        (["nowhere"], "nowhere: no such file"),
        (["a=nowhere"], "a=nowhere: no such file"),
        (["missing.toml"], "missing.toml: cannot be read"),
        (["python:stdlib", "stdlib=python:stdlib"], "two corpora are called 'stdlib'"),
    ],
)
def test_what_is_no_corpus_is_named(given: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        corpora(given)


def test_a_document_ends_with_what_the_tokenizer_ends_it_with(tmp_path: Path) -> None:
    file = train_tokenizer(["some text of a few words"] * 9, vocab_size=270, out=tmp_path / "own")
    assert end_of_text(open_tokenizer(file), file) == 1
    words = json.loads(file.read_text().replace("</s>", "[SEP]").replace("<s>", "[CLS]"))
    bert = tmp_path / "bert" / "tokenizer.json"
    bert.parent.mkdir()
    bert.write_text(json.dumps(words))
    assert end_of_text(open_tokenizer(bert), bert) == 1
    bert.with_name("tokenizer_config.json").write_text('{"eos_token": {"content": "[CLS]"}}')
    assert end_of_text(open_tokenizer(bert), bert) == 0
    bert.write_text(json.dumps(words).replace("[SEP]", "[X]").replace("[CLS]", "[Y]"))
    with pytest.raises(CorpusError, match="to end a document with"):
        open_tokenizer(bert)
