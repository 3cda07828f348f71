"""Losses belong to the document of the predicted token; intervals come from resampling documents."""

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from heredity.corpora.tokens import TokenStream  # noqa: E402
from heredity.errors import StoreError  # noqa: E402
from heredity.models.evaluate import lm_scores  # noqa: E402
from heredity.models.load import initialise  # noqa: E402

PICO = {
    "model_type": "mistral", "vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.fixture
def stream() -> TokenStream:
    tokens = np.random.default_rng(0).integers(0, 20, 96).astype(np.uint16)
    documents = pl.DataFrame({
        "document": pl.Series([0, 1, 2], dtype=pl.Int32), "key": ["x/a", "x/b", "y/c"], "domain": ["x", "x", "y"],
        "start": [0, 20, 48], "stop": [20, 48, 96],
    })  # fmt: skip
    return TokenStream(tokens, documents, context=16, domains=("x", "y"), tokenizer_sha256="0")


def test_sums_equal_a_token_by_token_oracle(stream: TokenStream) -> None:
    model = initialise(PICO, seed=3).eval()
    scores = lm_scores(model, stream, batch_tokens=40)
    loss, correct, count = np.zeros(3), np.zeros(3, int), np.zeros(3, int)
    for block in range(6):
        tokens = torch.tensor(stream.tokens[block * 16 : block * 16 + 16].astype(int))
        with torch.no_grad():
            logs = model(input_ids=tokens[None]).logits[0].double().log_softmax(-1)
        for i in range(15):
            who = stream.document[block * 16 + i + 1]
            loss[who] -= float(logs[i, tokens[i + 1]])
            correct[who] += int(logs[i].argmax() == tokens[i + 1])
            count[who] += 1
    np.testing.assert_allclose(scores.loss, loss, rtol=1e-6)
    assert scores.correct.tolist() == correct.tolist()
    assert scores.n_tokens.tolist() == count.tolist()
    table = scores.table(seed=1)
    assert table["domain"].to_list() == ["x", "y"]
    assert table["n_documents"].to_list() == [2, 1]
    np.testing.assert_allclose(
        table["loss"].to_numpy(), [loss[:2].sum() / count[:2].sum(), loss[2] / count[2]]
    )
    x = table.row(0, named=True)
    low, high = sorted(loss[:2] / count[:2])
    assert low - 1e-6 <= x["loss_low"] <= x["loss"] <= x["loss_high"] <= high + 1e-6
    assert scores.table(seed=1).equals(table)


def test_a_model_that_is_broken_is_named(stream: TokenStream) -> None:
    model = initialise(PICO, seed=3)
    with torch.no_grad():
        model.get_output_embeddings().weight[0, 0] = float("inf")
    with pytest.raises(StoreError, match="the loss is not finite at context 0"):
        lm_scores(model, stream)
