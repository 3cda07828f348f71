"""Collected statistics equal oracles in float64; parts, pieces and interruptions change no byte; misuse is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from heredity.checkpoint import Checkpoint  # noqa: E402
from heredity.cli._main import run  # noqa: E402
from heredity.errors import CheckpointError, ConfigError, MismatchError, StoreError  # noqa: E402
from heredity.models import collect as collecting  # noqa: E402
from heredity.models.collect import collect  # noqa: E402
from heredity.models.contexts import Contexts, read_contexts  # noqa: E402
from heredity.models.load import initialise, load, quiet_transformers  # noqa: E402
from heredity.statistics import Statistics  # noqa: E402

LLAMA = {
    "model_type": "llama", "vocab_size": 12, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32, "initializer_range": 0.3,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "vocab_size": 12, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32,
    "initializer_range": 0.3,
}  # fmt: skip


def text(rows: int = 12, context: int = 6, seed: int = 0, top: int = 12) -> Contexts:
    return Contexts(
        np.random.default_rng(seed).integers(0, top, (rows, context)), f"{seed} {rows}", "made up"
    )


def saved(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    with quiet_transformers():
        initialise(config, seed=seed).save_pretrained(folder)
    return folder


def bert(folder: Path, seed: int = 0) -> Path:
    """A masked LM with a tokenizer of twelve words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=12, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", *"abcdefg"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "mask", "unk")}
    with quiet_transformers():
        BertForMaskedLM(config).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    return folder


def oracle_gram(folder: Path, module: str, contexts: Contexts, as_saved: bool = False) -> np.ndarray:
    """Mean of x xᵀ over tokens in float64, one sequence at a time."""
    model, rows = load(folder, as_saved=as_saved).double(), []
    model.get_submodule(module).register_forward_pre_hook(lambda _, given: rows.append(given[0][0].detach()))
    with torch.no_grad():
        for block in contexts.blocks:
            model(input_ids=torch.tensor(block)[None])
    x = torch.cat(rows).numpy()
    return x.T @ x / len(x)


LAYERS = [
    (LLAMA, "model.layers.1.self_attn.v_proj", False), (LLAMA, "model.layers.0.mlp.down_proj", False),
    (LLAMA, "lm_head", False), (GPT2, "transformer.h.1.attn.c_attn", True),
    (GPT2, "transformer.h.0.mlp.c_proj", True),
]  # fmt: skip


@pytest.mark.parametrize(("config", "module", "conv1d"), LAYERS)
def test_input_grams_equal_the_oracle(
    tmp_path: Path, config: dict[str, Any], module: str, conv1d: bool
) -> None:
    model, contexts = saved(tmp_path / "m", config), text()
    found = Statistics.open(collect(model, contexts, tmp_path / "s", input_gram=True, batch_tokens=20))
    np.testing.assert_allclose(
        found.input_gram(f"{module}.weight"), oracle_gram(model, module, contexts), rtol=1e-4, atol=1e-6
    )
    assert found.is_conv1d(f"{module}.weight") == conv1d
    stored = Checkpoint.open(model).tensors
    assert set(found.input_gram_tensors) <= set(stored)
    assert not any(kind in name for name in found.input_gram_tensors for kind in ("embed", "wte", "norm"))


def test_layers_that_read_one_tensor_are_stored_once(tmp_path: Path) -> None:
    model = saved(tmp_path / "m", LLAMA)
    file = collect(model, text(), tmp_path / "s", input_gram=True)
    found = Statistics.open(file)
    prefix = "model.layers.0."
    q, v, o = (found.input_gram(f"{prefix}self_attn.{x}_proj.weight") for x in "qvo")
    np.testing.assert_array_equal(q, v)
    assert np.abs(q - o).max() > 0.01
    assert len(found.input_gram_tensors) == 15
    assert file.stat().st_size < 4 * (7 * 64 + 2 * 144) + 3000  # four inputs a layer and the head's


def oracle_fisher(folder: Path, name: str, contexts: Contexts) -> np.ndarray:
    """Σ over sequences of (∂ Σ log p(token) / ∂w)² in float64, over the number of predicted tokens."""
    model, total, count = load(folder).double(), 0.0, 0
    for block in torch.tensor(contexts.blocks):
        logs = model(input_ids=block[None]).logits[0, :-1].log_softmax(-1)
        likelihood = logs[torch.arange(len(block) - 1), block[1:]].sum()
        (gradient,) = torch.autograd.grad(likelihood, [dict(model.named_parameters())[name]])
        total, count = total + gradient.numpy() ** 2, count + len(block) - 1
    return total / count


TENSORS = [
    (LLAMA, "model.embed_tokens.weight"), (LLAMA, "model.layers.0.self_attn.k_proj.weight"),
    (LLAMA, "model.norm.weight"), (GPT2, "transformer.h.1.mlp.c_fc.bias"), (GPT2, "transformer.wte.weight"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "name"), TENSORS)
def test_empirical_fisher_equals_the_oracle(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    model, contexts = saved(tmp_path / "m", config), text()
    found = Statistics.open(collect(model, contexts, tmp_path / "s", fisher=True, labels="data"))
    np.testing.assert_allclose(found.fisher(name), oracle_fisher(model, name, contexts), rtol=1e-3, atol=1e-9)
    assert set(found.fisher_tensors) == set(Checkpoint.open(model).tensors)


def test_drawn_labels_estimate_the_exact_fisher(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", {**LLAMA, "num_hidden_layers": 1})
    one = text(rows=1, context=4).blocks
    contexts = Contexts(np.repeat(one, 500, axis=0), "500 draws of the labels of one text", "made up")
    found = Statistics.open(collect(folder, contexts, tmp_path / "s", fisher=True))
    model = load(folder).double()
    name = "model.layers.0.mlp.up_proj.weight"
    weight, exact = dict(model.named_parameters())[name], 0.0
    logs = model(input_ids=torch.tensor(one)).logits[0, :-1].log_softmax(-1)
    for token in logs:  # the mean over tokens of E[g²], by enumeration of the labels
        for log in token:
            (gradient,) = torch.autograd.grad(log, [weight], retain_graph=True)
            exact = exact + float(log.detach().exp()) * gradient.numpy() ** 2 / len(logs)
    drawn = found.fisher(name)
    assert drawn.sum() == pytest.approx(exact.sum(), rel=0.15)
    assert np.corrcoef(drawn.ravel(), exact.ravel())[0, 1] > 0.97


def test_parts_and_batches_change_nothing(tmp_path: Path) -> None:
    model, contexts = saved(tmp_path / "m", LLAMA), text()
    whole, small = ({"max_bytes": 4_000_000_000}, {"max_bytes": 1500, "batch_tokens": 12})
    told: list[tuple[int, int]] = []
    files = [
        collect(
            model, contexts, tmp_path / str(i), input_gram=True, fisher=True,
            progress=lambda done, total: told.append((done, total)), **options,
        )
        for i, options in enumerate((whole, small))
    ]  # fmt: skip
    one, many = (Statistics.open(file) for file in files)
    assert one.input_gram_tensors == many.input_gram_tensors
    for name in one.input_gram_tensors:
        np.testing.assert_allclose(one.input_gram(name), many.input_gram(name), rtol=1e-5, atol=1e-6)
    for name in one.fisher_tensors:
        np.testing.assert_array_equal(one.fisher(name), many.fisher(name))
    assert told[-1][0] == told[-1][1] > 10 * contexts.blocks.size  # passes over the text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "m"]


def test_interrupted_it_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, contexts = saved(tmp_path / "m", LLAMA), text()
    settings: dict[str, Any] = {"input_gram": True, "fisher": True, "max_bytes": 6000, "batch_tokens": 12}
    straight = collect(model, contexts, tmp_path / "straight", **settings).read_bytes()
    monkeypatch.setattr(collecting, "SAVE_EVERY_SECONDS", -1.0)
    out, seen = tmp_path / "out", [0]

    def interrupt(done: int, total: int) -> None:
        seen[0] += 1
        if seen[0] % 7 == 0:
            raise KeyboardInterrupt

    for _ in range(100):
        try:
            collect(model, contexts, out, resume=True, progress=interrupt, **settings)
            break
        except KeyboardInterrupt:
            assert not out.exists()
    assert seen[0] > 30
    assert out.read_bytes() == straight
    assert collect(model, contexts, out, resume=True, **settings) == out
    with pytest.raises(ConfigError, match="exists"):
        collect(model, contexts, out, **settings)
    with pytest.raises(ConfigError, match="another model, text or setting"):
        collect(model, text(seed=1), out, resume=True, **settings)


def test_sums_of_another_run_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = saved(tmp_path / "m", LLAMA), tmp_path / "out"
    monkeypatch.setattr(collecting, "SAVE_EVERY_SECONDS", -1.0)

    def interrupt(done: int, total: int) -> None:
        if done > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(model, text(), out, fisher=True, progress=interrupt)
    with pytest.raises(ConfigError, match="sums of another"):
        collect(model, text(), out, fisher=True, labels="data", resume=True)
    assert collect(model, text(), out, fisher=True, labels="data").exists()


def test_a_masked_lm(tmp_path: Path) -> None:
    model = bert(tmp_path / "m")
    (tmp_path / "text.txt").write_text("a b c d e f g " * 20)
    contexts = read_contexts(str(tmp_path / "text.txt"), model, context=16, wrapped=True)
    assert contexts.blocks.shape == (10, 16)
    assert set(contexts.blocks[:, 0]) == {1}
    assert set(contexts.blocks[:, -1]) == {2}
    found = Statistics.open(collect(model, contexts, tmp_path / "s", input_gram=True, fisher=True))
    module = "bert.encoder.layer.0.attention.self.query"
    np.testing.assert_allclose(
        found.input_gram(f"{module}.weight"), oracle_gram(model, module, contexts, as_saved=True), rtol=1e-4
    )
    table = found.fisher("bert.embeddings.word_embeddings.weight")
    assert (table[3] > 0).all()  # the mask token's row was read
    assert found.fisher("cls.predictions.transform.dense.weight").min() > 0
    again = Statistics.open(collect(model, contexts, tmp_path / "t", fisher=True))
    np.testing.assert_array_equal(again.fisher("bert.embeddings.word_embeddings.weight"), table)


def test_texts_follow_each_other(tmp_path: Path) -> None:
    model = bert(tmp_path / "m")
    for name, words in {"1.txt": "a b c", "2.txt": "d e f g"}.items():
        (tmp_path / name).write_text(words)
    found = read_contexts(f"text:{tmp_path}/*.txt", model, context=3)
    assert found.blocks.tolist() == [[5, 6, 7], [8, 9, 10]]
    assert read_contexts(str(tmp_path / "1.txt"), model).blocks.tolist() == [[5, 6, 7]]
    assert read_contexts(str(tmp_path / "2.txt"), model, max_tokens=2).blocks.tolist() == [[8, 9]]
    with pytest.raises(ConfigError, match="only a token stream has domains"):
        read_contexts(str(tmp_path / "1.txt"), model, domains=["lua"])
    with pytest.raises(Exception, match="neither a token stream nor text"):
        read_contexts("nowhere", model)


def test_a_bare_model_finds_its_tensors(tmp_path: Path) -> None:
    """A checkpoint of the model without its head has names without a prefix."""
    from transformers import GPT2Model

    saved(tmp_path / "m", GPT2)
    with quiet_transformers():
        GPT2Model.from_pretrained(tmp_path / "m").save_pretrained(tmp_path / "bare")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    bare, whole = (
        Statistics.open(collect(tmp_path / n, text(), tmp_path / f"s-{n}", input_gram=True, fisher=True))
        for n in ("bare", "m")
    )
    assert "h.0.attn.c_attn.weight" in bare.input_gram_tensors
    np.testing.assert_array_equal(bare.fisher("wte.weight"), whole.fisher("transformer.wte.weight"))


def test_misuse_is_named(tmp_path: Path) -> None:
    model, out = saved(tmp_path / "m", LLAMA), tmp_path / "out"
    with pytest.raises(ConfigError, match="nothing to collect"):
        collect(model, text(), out)
    with pytest.raises(ConfigError, match=r"layers.0.mlp.down_proj.weight is 12 wide.*0.00 GB are allowed"):
        collect(model, text(), out, input_gram=True, max_bytes=1000)
    with pytest.raises(ConfigError, match=r"Fisher information of model.embed_tokens.weight \[12, 8\]"):
        collect(model, text(), out, fisher=True, max_bytes=1000)
    with pytest.raises(MismatchError, match="has token 19, the model's vocabulary ends at 11"):
        collect(model, text(top=20), out, fisher=True)
    with pytest.raises(MismatchError, match="sequences of 40 tokens, the model takes 32"):
        collect(model, text(context=40), out, fisher=True)
    broken = load(model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(torch.inf)
    with quiet_transformers():
        broken.save_pretrained(tmp_path / "broken")
    with pytest.raises(StoreError, match=r"input_gram of lm_head.weight is not finite"):
        collect(tmp_path / "broken", text(), out, input_gram=True)
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["LlamaModel"]}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="LlamaModel gives no log-likelihood"):
        collect(model, text(), out, fisher=True)
    with pytest.raises(CheckpointError, match="no config"):
        load(tmp_path, as_saved=True)
    assert not out.exists()


@pytest.mark.parametrize("config", [LLAMA, GPT2])
def test_from_the_command_line_to_a_merge(
    tmp_path: Path, config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from heredity.corpora.tokenizer import train_tokenizer

    for seed, name in enumerate(("a", "b")):
        saved(tmp_path / name, {**config, "vocab_size": 300}, seed=seed)
        words = "to be or not to be, that is the question " if name == "a" else "local x = function() end "
        (tmp_path / f"{name}.txt").write_text(words * 30)
        train_tokenizer([(words + str(i)) for i in range(300)], vocab_size=270, out=tmp_path / "tokenizer")
        for file in (tmp_path / "tokenizer").iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        stats = str(tmp_path / f"{name}.stats")
        asked = ["harvest", str(tmp_path / name), "--data", str(tmp_path / f"{name}.txt"), "-o", stats]
        assert run([*asked, "--input-gram", "--fisher", "--context", "16", "--json", "-q"]) == 0
        assert json.loads(capsys.readouterr().out)["schema"] == 1
    assert run([*asked, "-q"]) == 2
    assert "--input-gram and --fisher" in capsys.readouterr().err
    first, second = (Statistics.open(tmp_path / f"{name}.stats") for name in ("a", "b"))
    models = [Checkpoint.open(tmp_path / name) for name in ("a", "b")]
    for method in ("regmean", "fisher"):
        recipe = tmp_path / f"{method}.toml"
        recipe.write_text(
            f'[merge]\nmethod = "{method}"\nmodels = ["a", "b"]\nstatistics = ["a.stats", "b.stats"]\n'
        )
        assert run(["merge", str(recipe), str(tmp_path / method), "-q"]) == 0
        assert run(["verify", str(tmp_path / method)]) == 0
        load(tmp_path / method)
    name = "transformer.h.0.mlp.c_fc.weight" if config is GPT2 else "model.layers.1.mlp.up_proj.weight"
    fishers = [s.fisher(name).clip(1e-12) for s in (first, second)]
    weights = [m.read(name).astype(np.float64) for m in models]
    wanted = sum(f * w for f, w in zip(fishers, weights, strict=True)) / sum(fishers)
    np.testing.assert_allclose(Checkpoint.open(tmp_path / "fisher").read(name), wanted, rtol=1e-5)
    grams = [0.9 * g + 0.1 * np.diag(np.diag(g)) for g in (first.input_gram(name), second.input_gram(name))]
    turned = [w if config is GPT2 else w.T for w in weights]
    solved = np.linalg.solve(sum(grams), sum(g @ w for g, w in zip(grams, turned, strict=True)))
    got = Checkpoint.open(tmp_path / "regmean").read(name)
    np.testing.assert_allclose(got if config is GPT2 else got.T, solved, atol=2e-3)
    lacking = tmp_path / "lacking.toml"
    lacking.write_text('[merge]\nmethod="fisher"\nmodels=["a", "b"]\nstatistics=["a.stats", "c.stats"]')
    assert run(["plan", str(lacking)]) == 1
    assert "c.stats: no such statistics file" in capsys.readouterr().err
    swapped = tmp_path / "swapped.toml"
    swapped.write_text('[merge]\nmethod="fisher"\nmodels=["b", "a"]\nstatistics=["a.stats", "b.stats"]')
    capsys.readouterr()
    assert run(["merge", str(swapped), str(tmp_path / "swapped"), "-q"]) == 3
    assert "made of another model" in capsys.readouterr().err
