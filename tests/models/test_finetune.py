"""Fine-tuning learns, repeats itself, trains what its method says, and refuses what it cannot do."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from heredity.checkpoint import Checkpoint  # noqa: E402
from heredity.corpora.labelled import read_task  # noqa: E402
from heredity.errors import CheckpointError, ConfigError, ExtraMissingError  # noqa: E402
from heredity.models.classifier import load_encoder  # noqa: E402
from heredity.models.finetune import finetune, read_finetuned  # noqa: E402
from heredity.models.load import threads  # noqa: E402
from heredity.models.tuning import FineTuning, Trained  # noqa: E402
from tiny_models import write_bert, write_lm, write_task  # noqa: E402

QUICK = FineTuning(learning_rate=1e-2, epochs=4, batch=8, max_tokens=16)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_task(tmp_path_factory.mktemp("data"))


def run(model: Path, films: str, out: Path, config: FineTuning = QUICK, **options: object) -> Trained:
    with threads(1):
        return finetune(model, read_task(films), out, config, **options)  # type: ignore[arg-type]


def tensors(folder: Path) -> dict[str, np.ndarray]:
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.block(name, 0, info.size) for name, info in checkpoint.tensors.items()}


def test_it_learns_and_repeats_itself_but_not_another_seed(bert: Path, films: str, tmp_path: Path) -> None:
    made = run(bert, films, tmp_path / "a")
    assert made.scores["test_accuracy"] > 0.9
    assert made.history["train_loss"][-1] < 0.5 * made.history["train_loss"][0]
    again = run(bert, films, tmp_path / "b")
    other = run(bert, films, tmp_path / "c", seed=1)
    assert again.scores == made.scores != other.scores
    for file in ("model.safetensors", "head.safetensors", "cartography.parquet", "predictions.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_result_that_is_there_is_read_and_another_one_is_refused(
    bert: Path, films: str, tmp_path: Path
) -> None:
    made = run(bert, films, tmp_path / "a")
    before = (tmp_path / "a" / "finetune.json").stat().st_mtime_ns
    read = run(bert, films, tmp_path / "a")
    assert read.scores == made.scores
    assert read.predictions.equals(made.predictions)
    assert (tmp_path / "a" / "finetune.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="other settings"):
        run(bert, films, tmp_path / "a", seed=3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="not a fine-tuned model"):
        run(bert, films, tmp_path / "full")
    with pytest.raises(CheckpointError, match=r"finetune\.json"):
        read_finetuned(tmp_path)


def test_the_result_has_the_names_of_its_base_and_loads(bert: Path, films: str, tmp_path: Path) -> None:
    run(bert, films, tmp_path / "a")
    assert list(Checkpoint.open(tmp_path / "a").tensors) == list(Checkpoint.open(bert).tensors)
    encoder = load_encoder(tmp_path / "a")
    assert encoder.config.num_hidden_layers == 2


@pytest.mark.parametrize("method", ["bitfit", "head"])
def test_a_method_changes_what_it_says(bert: Path, films: str, tmp_path: Path, method: str) -> None:
    run(bert, films, tmp_path / "a", FineTuning(method=method, learning_rate=1e-2, epochs=1, max_tokens=16))  # type: ignore[arg-type]
    before, after = tensors(bert), tensors(tmp_path / "a")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == ({n for n in before if n.endswith("bias")} if method == "bitfit" else set())


def test_layers_are_cut_and_embeddings_frozen(bert: Path, films: str, tmp_path: Path) -> None:
    run(bert, films, tmp_path / "a", FineTuning(layers=1, freeze_embeddings=True, epochs=1, max_tokens=16))
    before, after = tensors(bert), tensors(tmp_path / "a")
    assert set(after) == {name for name in before if "layer.1." not in name}
    assert json.loads((tmp_path / "a" / "config.json").read_text())["num_hidden_layers"] == 1
    same = {name for name in after if np.array_equal(before[name], after[name])}
    assert {n for n in after if n.startswith("embeddings.")} <= same
    assert not {n for n in after if "value.weight" in n} & same
    with pytest.raises(ConfigError, match="has 2 layers, not 3"):
        run(bert, films, tmp_path / "b", FineTuning(layers=3))


def test_early_stopping_goes_back_to_the_lowest_loss(bert: Path, films: str, tmp_path: Path) -> None:
    config = FineTuning(learning_rate=3e-2, epochs=12, batch=8, max_tokens=16, patience=1)
    made = run(bert, films, tmp_path / "a", config)
    lowest = made.history["validation_loss"].min()
    assert len(made.history) < 12
    assert made.scores["validation_loss"] == pytest.approx(lowest, abs=1e-6)


def test_cartography_has_a_row_for_each_example(bert: Path, films: str, tmp_path: Path) -> None:
    table = run(bert, films, tmp_path / "a").cartography
    assert table.columns == ["example", "place", "confidence", "variability", "correctness", "epochs"]
    assert len(table) == 54  # a tenth was held out
    assert table["epochs"].unique().to_list() == [4]
    assert table.select(pl.col("confidence", "correctness").is_between(0, 1).all()).row(0) == (True, True)
    assert table["variability"].max() <= 0.5
    assert table["correctness"].mean() > 0.6


def test_truncation_is_counted_and_a_context_is_not_exceeded(bert: Path, films: str, tmp_path: Path) -> None:
    made = run(bert, films, tmp_path / "a", FineTuning(epochs=1, max_tokens=7))
    cut = [note for note in made.notes if "were cut to 7 tokens" in note]
    assert len(cut) == 3
    too_long = sum(len(text.split()) > 5 for text in read_task(films).train.texts)  # two more are special
    assert json.loads((tmp_path / "a" / "finetune.json").read_text())["truncated"]["train"] == too_long
    with pytest.raises(ConfigError, match="more than the model's 24"):
        run(bert, films, tmp_path / "b", FineTuning(max_tokens=25))


def test_pairs_go_to_a_classifier_and_not_to_a_language_model(bert: Path, tmp_path: Path) -> None:
    pairs = write_task(tmp_path / "data", "pairs", pairs=True)
    made = run(bert, pairs, tmp_path / "a")
    assert made.scores["test_accuracy"] > 0.8
    lm = write_lm(tmp_path / "lm")
    with pytest.raises(ConfigError, match="no head for pairs"):
        run(lm, pairs, tmp_path / "b", kind="lm")
    headed = run(lm, pairs, tmp_path / "c", FineTuning(learning_rate=2e-2, epochs=6, batch=8, max_tokens=20))
    assert headed.scores["test_accuracy"] > 0.8


def test_a_language_model_learns_texts(bert: Path, films: str, tmp_path: Path) -> None:
    lm = write_lm(tmp_path / "lm")
    made = run(lm, films, tmp_path / "a", QUICK, kind="lm")
    assert made.scores["test_loss"] < 1.5 < np.log(20)
    assert list(Checkpoint.open(tmp_path / "a").tensors) == list(Checkpoint.open(lm).tensors)
    with pytest.raises(ConfigError, match="not a causal language model"):
        run(bert, films, tmp_path / "b", QUICK, kind="lm")
    with pytest.raises(ConfigError, match="no biases"):
        run(lm, films, tmp_path / "c", FineTuning(method="bitfit", max_tokens=16), kind="lm")


def test_lora_changes_linear_layers_and_keeps_the_adapter(bert: Path, films: str, tmp_path: Path) -> None:
    config = FineTuning(method="lora", learning_rate=2e-2, epochs=4, batch=8, max_tokens=16)
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ExtraMissingError, match="lora"):
            run(bert, films, tmp_path / "a", config)
        return
    made = run(bert, films, tmp_path / "a", config)
    assert made.scores["test_accuracy"] > 0.9
    before, after = tensors(bert), tensors(tmp_path / "a")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {n for n in before if n.endswith(".weight") and "layer." in n and "LayerNorm" not in n}
    adapted = Checkpoint.open(tmp_path / "a" / "adapter", base=Checkpoint.open(bert))
    name = "encoder.layer.0.attention.self.query.weight"
    np.testing.assert_allclose(adapted.block(name, 0, 256), after[name], atol=1e-6)
