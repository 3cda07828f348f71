"""A member that predicts no next token has no effects, and the rest of its description all the same."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch")

from transformers import BertConfig, BertModel

from heredity.corpora.tokens import TokenStream
from heredity.features.codes import Codes, CodesMeta
from heredity.features.sae._variant import Sparse
from heredity.run import Run
from heredity.studies.features import meaning

CONTEXT, TOKENS, VOCABULARY = 16, 640, 20
SITE = "encoder.layer.0.output.dense:input"


@pytest.fixture
def encoder(monkeypatch):
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    monkeypatch.setattr(meaning, "load_member", lambda run, name, *, device: BertModel(config))
    monkeypatch.setattr(meaning, "tokenizer", lambda folder: range(VOCABULARY))


def test_an_encoder_is_described_without_effects(encoder, tmp_path):
    names = np.random.default_rng(0).integers(0, VOCABULARY, TOKENS).astype(np.uint16)
    documents = pl.DataFrame(
        {"document": [0], "key": ["a"], "domain": ["text"], "start": [0], "stop": [TOKENS]}
    )
    stream = TokenStream(names, documents, context=CONTEXT, domains=("text",), tokenizer_sha256="none")
    fires = np.column_stack([names == 3, names == 4])
    token, latent = np.nonzero(fires)
    indptr = np.concatenate([[0], np.cumsum(fires.sum(axis=1))])
    meta = CodesMeta(
        member="m", seed=0, site=SITE, stream_digest=stream.digest, context=CONTEXT, n_tokens=TOKENS, d_sae=2
    )
    codes = Codes.of(meta, Sparse(indptr, latent.astype(np.int32), np.ones(len(token), np.float32)))
    settings = SimpleNamespace(
        sae=SimpleNamespace(site=SITE), threads=1, explainers=({"name": "rules", "nulls": 1},)
    )
    run = Run.open(tmp_path / "run", command="test", config={}, seed=0)
    said: list[str] = []
    meaning.describe_meaning(
        run, settings, SimpleNamespace(shared=stream, tokenizer="none"), {"m": codes},
        {"m": np.ones((2, 8), np.float32)}, {"m": [0, 1]}, {"m": [0, 1]}, lambda i: f" w{i}",
        device="cpu", say=said.append,
    )  # fmt: skip
    assert said == [f"no next-token effects: site {SITE}: BertModel predicts no next token"]
    assert not run.has_table("effects")
    assert run.table("latent_statistics")["top_tokens"].to_list() == [[" w3"], [" w4"]]
    assert run.table("explanations")["rule"].to_list() == ["' w3'", "' w4'"]
    assert run.table("explanation_summary")["above_every_null"].to_list() == [1.0]
