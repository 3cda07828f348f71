import pytest
import torch
from planted import stream
from test_harvest import SITE, pico

from heredity.errors import MismatchError, StoreError
from heredity.features.crosscoder_quality import OnDemand, crosscoder_qualities
from heredity.features.evaluate import quality
from heredity.features.sae import L1, SAE, Crosscoder

WIDTH = 24


@pytest.fixture(scope="module")
def held_out():
    return {"base": pico(), "lua": pico(1)}, stream(documents=2, contexts=3)


def identity(kept=WIDTH):
    """A crosscoder that rebuilds base exactly, and the first `kept` coordinates of lua."""
    eye = torch.eye(2 * WIDTH)[: WIDTH + kept]
    rows = torch.cat([eye, -eye])
    return SAE(
        variant=Crosscoder(d_sae=len(rows), k=1, members=("base", "lua")),
        W_enc=rows.T.contiguous(), W_dec=rows, b_enc=torch.zeros(len(rows)), b_dec=torch.zeros(2 * WIDTH),
        extra={"threshold": torch.zeros(len(rows))}, metadata={"member_scales": [1.0, 1.0]},
    )  # fmt: skip


def test_a_perfect_crosscoder_costs_nothing(held_out):
    models, tokens = held_out
    found = crosscoder_qualities(identity(), models, tokens, SITE, batch_tokens=64)
    assert list(found) == ["base", "lua"]
    for one in found.values():
        assert one.fvu < 1e-10
        assert one.ce_recovered == pytest.approx(1, abs=1e-4)
        assert one.l0 == pytest.approx(2 * WIDTH, rel=0.01)
        assert (one.dead_share, one.n_tokens) == (0, tokens.n_tokens)


def test_members_are_measured_each_by_itself(held_out):
    models, tokens = held_out
    found = crosscoder_qualities(identity(kept=10), models, tokens, SITE)
    eye = torch.eye(WIDTH)[:10]
    alone = SAE(
        variant=L1(d_sae=20, l1=0.0), W_enc=torch.cat([eye, -eye]).T.contiguous(), W_dec=torch.cat([eye, -eye]),
        b_enc=torch.zeros(20), b_dec=torch.zeros(WIDTH),
    )  # fmt: skip
    want = quality(alone, models["lua"], tokens, SITE)
    assert found["base"].fvu < 1e-10
    for field in ("fvu", "ce_clean", "ce_sae", "ce_zero", "ce_recovered"):
        assert getattr(found["lua"], field) == pytest.approx(getattr(want, field), rel=1e-5), field


def test_one_model_at_a_time_and_going_on_give_the_same(held_out, tmp_path, monkeypatch):
    models, tokens = held_out
    want = crosscoder_qualities(identity(kept=10), models, tokens, SITE, ablation="mean")
    assert want["lua"].ablation == "mean"
    assert want["lua"].ce_zero != crosscoder_qualities(identity(kept=10), models, tokens, SITE)["lua"].ce_zero
    asked = []

    def load(name):
        asked.append(name)
        return models[name]

    work, again = tmp_path / "work", {"ablation": "mean", "work": tmp_path / "work"}

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("heredity.features.crosscoder_quality.encode_members", stop)
        with pytest.raises(KeyboardInterrupt):
            crosscoder_qualities(identity(kept=10), models, tokens, SITE, **again)
    assert (work / "member-1" / "meta.json").exists()
    lazy = OnDemand(["base", "lua"], load)
    assert crosscoder_qualities(identity(kept=10), lazy, tokens, SITE, **again) == want
    assert asked == ["base", "lua", "base", "lua"]  # once for the activations, once for the losses
    assert not work.exists()
    with pytest.raises(KeyError):
        lazy["perl"]


def test_what_does_not_fit_is_refused(held_out):
    models, tokens = held_out
    with pytest.raises(MismatchError, match="no model of 'lua'"):
        crosscoder_qualities(identity(), {"base": models["base"]}, tokens, SITE)
    with pytest.raises(MismatchError, match=r"are 32 wide together, the crosscoder's W_enc takes 48"):
        crosscoder_qualities(identity(), models, tokens, "model.layers.0.mlp:output")
    with pytest.raises(StoreError, match="shorter than one context"):
        crosscoder_qualities(identity(), models, stream(documents=0), SITE)
