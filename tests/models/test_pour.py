"""A point poured into a live model is the point: ends give the members, means give the mean, nothing touches a file."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from heredity.checkpoint import Checkpoint  # noqa: E402
from heredity.errors import MismatchError  # noqa: E402
from heredity.merging import Slerp, merge  # noqa: E402
from heredity.models.load import initialise, load, quiet_transformers  # noqa: E402
from heredity.models.pour import pour  # noqa: E402
from heredity.point import Point  # noqa: E402

LLAMA = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}


def family(folder: Path, config: dict[str, object], dtype: str = "float32") -> dict[str, Checkpoint]:
    opened = {}
    for seed, name in enumerate(("a", "b", "c")):
        model = initialise(config, seed=seed).to(getattr(torch, dtype))
        with quiet_transformers():
            model.save_pretrained(folder / name)
        opened[name] = Checkpoint.open(folder / name)
    return opened


CASES = [
    ({**LLAMA, "tie_word_embeddings": False}, "float32"),
    ({**LLAMA, "tie_word_embeddings": True}, "bfloat16"),
    (GPT2, "float16"),
]


@pytest.mark.parametrize(("config", "dtype"), CASES, ids=["llama", "tied bf16", "gpt2 fp16"])
def test_ends_are_the_members_and_the_middle_is_the_mean(
    tmp_path: Path, config: dict[str, object], dtype: str
) -> None:
    members = family(tmp_path, config, dtype)
    live = initialise(config, seed=99)
    for name, row in (("a", [1, 0, 0]), ("c", [0, 0, 1])):
        pour(Point(tuple(members), row), members, live)
        for key, value in load(tmp_path / name).state_dict().items():
            assert torch.equal(value, live.state_dict()[key]), key
    pour(Point(tuple(members), [1 / 3] * 3), members, live)
    states = [load(tmp_path / name).state_dict() for name in members]
    for key, value in live.state_dict().items():
        mean = sum(state[key].double() for state in states) / 3
        torch.testing.assert_close(value.double(), mean, rtol=1e-6, atol=1e-6)


def test_a_poured_merge_is_the_written_merge(tmp_path: Path) -> None:
    members = family(tmp_path, {**LLAMA, "tie_word_embeddings": False})
    prepared = merge(Slerp(t=0.3), [tmp_path / "a", tmp_path / "b"])
    prepared.save(tmp_path / "out")
    live = initialise({**LLAMA, "tie_word_embeddings": False}, seed=99)
    prepared.load(live)
    for key, value in load(tmp_path / "out").state_dict().items():
        assert torch.equal(value, live.state_dict()[key]), key
    a, b = (members[m].read("lm_head.weight").astype(np.float64) for m in "ab")
    angle = np.arccos((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
    want = (np.sin(0.7 * angle) * a + np.sin(0.3 * angle) * b) / np.sin(angle)
    np.testing.assert_allclose(live.state_dict()["lm_head.weight"].numpy(), want, rtol=1e-5, atol=1e-6)


def test_a_model_in_another_dtype_is_filled_by_rounding(tmp_path: Path) -> None:
    members = family(tmp_path, GPT2)
    live = initialise(GPT2, seed=99).to(torch.bfloat16)
    pour(Point(("a",), [1.0]), members, live)
    want = load(tmp_path / "a").to(torch.bfloat16).state_dict()
    assert all(torch.equal(want[key], value) for key, value in live.state_dict().items())


def test_another_architecture_is_refused_by_name_and_shape(tmp_path: Path) -> None:
    members = family(tmp_path, GPT2)
    wider = initialise({**GPT2, "n_embd": 32}, seed=0)
    with pytest.raises(MismatchError, match=r"wte\.weight is \[40, 16\], the live model has \[40, 32\]"):
        pour(Point(("a",), [1.0]), members, wider)
    deeper = initialise({**GPT2, "n_layer": 3}, seed=0)
    with pytest.raises(MismatchError, match=r"no tensor transformer\.h\.2"):
        pour(Point(("a",), [1.0]), members, deeper)
