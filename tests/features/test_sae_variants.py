"""Training of every variant: planted dictionaries, revival, interruption, warm starts."""

import msgspec
import numpy as np
import pytest
import torch
from sae_examples import EXAMPLES, bits, some
from test_sae_training import FEATURES, SHORT, WIDTH, planted_dictionary, write_store

from heredity.errors import MismatchError
from heredity.features.initialise import random_parameters, warm_parameters
from heredity.features.optimise import Adam
from heredity.features.sae import L1, BatchTopK, Gated, JumpReLU, TopK
from heredity.features.sae._batch import smallest_kept
from heredity.features.sae._variant import Extended
from heredity.features.train import Training, train
from heredity.seeds import generator

__all__ = ["planted_dictionary"]  # a fixture
SMALL = {
    "batchtopk": BatchTopK(d_sae=64, k=3, revive=8),
    "gated": Gated(d_sae=64, l1=1.0),
    "jumprelu": JumpReLU(d_sae=64, l0=1.0, revive=8),
    "l1": L1(d_sae=64, l1=0.1),
    "topk": TopK(d_sae=64, k=3, revive=8),
}


def test_every_variant_file_is_trained_here():
    assert sorted([*SMALL, "crosscoder"]) == sorted(EXAMPLES)  # test_crosscoding.py trains that one


@pytest.mark.parametrize(
    ("variant", "l0", "fvu"),
    [
        (BatchTopK(d_sae=128, k=3, revive=16), 3.0, 0.03),
        (JumpReLU(d_sae=128, l0=1.0, revive=16), 3.2, 0.04),
        (Gated(d_sae=128, l1=3.0, warmup=0.3), 3.5, 0.06),
    ],
)
def test_a_planted_dictionary_is_recovered(planted_dictionary, variant, l0, fvu):
    store, codes, directions = planted_dictionary
    rows = []
    training = Training(tokens=300_000, batch_tokens=500, rate=4e-3, dead_after_tokens=10_000)
    sae = train(variant, store, training, seed=0, callback=rows.append, progress=False)
    np.testing.assert_allclose(sae.W_dec.norm(dim=1), 1, atol=1e-5)
    found = sae.codes(store.read(0, store.n_tokens)).dense(128)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.nan_to_num(np.corrcoef(codes.T, found.T)[:FEATURES, FEATURES:])
    assert (r.max(axis=1) >= 0.9).mean() >= 0.9
    cosine = (directions * sae.W_dec.numpy()[r.argmax(axis=1)]).sum(axis=1)
    assert (cosine >= 0.9).mean() >= 0.9
    assert rows[-1]["fvu"] < fvu
    assert (found > 0).sum(axis=1).mean() == pytest.approx(l0, rel=0.25)


@pytest.mark.parametrize("name", ["batchtopk", "jumprelu"])
def test_latents_that_never_win_are_revived(planted_dictionary, name):
    store, _, _ = planted_dictionary
    x = torch.from_numpy(store.read(0, 4_000))
    x /= x.norm(dim=1).mean() / 8
    back = {}
    for revive in (0, 16):
        variant = msgspec.structs.replace(SMALL[name], d_sae=96, revive=revive)
        p = random_parameters(WIDTH, 96, np.zeros(WIDTH), 0)
        p.extra = variant.begin()
        p.encoder[:48] *= 0.02  # far too quiet to fire
        adam, gradients, since = Adam.start(p), p.zeros(), np.where(np.arange(96) < 48, 9_999, 0)
        for step in range(150):
            seen = variant.add_gradients(p, x[step % 8 :: 8], gradients, progress=1.0, dead=since > 2_000)
            adam.update(p, gradients, 3e-3)
            since = np.where(seen.fired, 0, since + 500)
        back[revive] = int((since[:48] <= 2_000).sum())
    assert back[16] >= 16
    assert back[0] <= back[16] // 2


def test_latents_behind_closed_gates_are_resampled(planted_dictionary):
    store, _, _ = planted_dictionary
    start = some(Gated(d_sae=64, l1=0.5), WIDTH)
    start.extra["b_gate"][:32] = -1e3
    dead = {}
    for every in (5_000, 10**9):
        training = Training(
            tokens=20_000, batch_tokens=500, rate=3e-3, dead_after_tokens=4_000, resample_every_tokens=every
        )
        last = {}
        train(start.variant, store, training, seed=0, start=start, callback=last.update, progress=False)
        dead[every] = last["dead"]
    assert dead[10**9] >= 32
    assert dead[5_000] <= 8


@pytest.mark.parametrize("name", ["batchtopk", "gated", "jumprelu"])
def test_killed_and_resumed_is_the_same_as_never_stopped(planted_dictionary, tmp_path, name):
    store, _, _ = planted_dictionary
    whole = train(SMALL[name], store, SHORT, seed=3, progress=False)

    def stop(row):
        if row["step"] == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL[name], store, SHORT, seed=3, checkpoint=tmp_path / "c", callback=stop, progress=False)
    steps = []
    again = train(
        SMALL[name], store, SHORT, seed=3, checkpoint=tmp_path / "c", progress=False,
        callback=lambda r: steps.append(r["step"]),
    )  # fmt: skip
    assert steps[0] == 22
    assert bits(again) == bits(whole)
    assert bits(train(SMALL[name], store, SHORT, seed=4, progress=False)) != bits(whole)


STILL = Training(tokens=500, batch_tokens=500, rate=1e-12)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_warm_start_is_the_same_sae_in_other_units(planted_dictionary, tmp_path, name):
    parent = train(SMALL[name], planted_dictionary[0], SHORT, seed=3, progress=False)
    louder = write_store(tmp_path / "louder", planted_dictionary[0].read(0, 3_200) * 16, "lua")
    child = train(SMALL[name], louder, STILL, seed=3, start=parent, progress=False)
    for field in ("W_enc", "W_dec", "b_enc", "b_dec"):
        np.testing.assert_allclose(getattr(child, field), getattr(parent, field), rtol=1e-5, atol=1e-6)
    for own, value in parent.extra.items():
        moved = (
            0.3 if own == "threshold" and name == "batchtopk" else 1e-5
        )  # its mean has seen a louder batch
        np.testing.assert_allclose(
            child.extra[own], value, rtol=moved * 10, atol=moved * float(value.abs().max())
        )
    assert child.metadata["init"].keys() == {"member", "seed", "digest"}
    assert child.metadata["init"]["member"] == "base"
    assert "init" not in parent.metadata


def test_a_child_keeps_its_parents_indices(planted_dictionary, tmp_path):
    store, _, _ = planted_dictionary
    variant, draw = TopK(d_sae=128, k=3, revive=16), generator(5, "turn")
    training = Training(tokens=100_000, batch_tokens=500, rate=3e-3, dead_after_tokens=10_000)
    parent = train(variant, store, training, seed=0, progress=False)
    turn = np.eye(WIDTH) + 0.03 * draw.standard_normal(
        (WIDTH, WIDTH)
    )  # a fine-tune: every feature turns a bit
    child_store = write_store(tmp_path / "lua", (store.read(0, 9_600) @ turn).astype(np.float32), "lua")
    short = msgspec.structs.replace(training, tokens=30_000)
    cosine = {}
    for start in (parent, None):
        child = train(variant, child_store, short, seed=1, start=start, progress=False)
        used = np.bincount(child.codes(child_store.read(0, 9_600)).indices, minlength=128) > 20
        cosine[start is None] = float((child.W_dec * parent.W_dec).sum(dim=1).numpy()[used].mean())
    assert cosine[False] > 0.9
    assert cosine[True] < 0.3


def test_warm_starts_that_do_not_fit_are_refused(planted_dictionary, tmp_path):
    store, _, _ = planted_dictionary
    parent = train(SMALL["topk"], store, STILL, seed=0, progress=False)
    with pytest.raises(MismatchError, match="SAE of base: it is TopK 64 → 64, this one L1 64 → 64"):
        train(SMALL["l1"], store, STILL, seed=0, start=parent, progress=False)
    with pytest.raises(MismatchError, match="this one TopK 64 → 32"):
        train(TopK(d_sae=32, k=3), store, STILL, seed=0, start=parent, progress=False)
    broken = msgspec.structs.replace(parent, W_dec=parent.W_dec * (torch.arange(64) != 5)[:, None])
    with pytest.raises(MismatchError, match="latent 5 is 0"):
        train(SMALL["topk"], store, STILL, seed=0, start=broken, progress=False)
    settings = {"seed": 0, "checkpoint": tmp_path / "c", "progress": False}
    train(SMALL["topk"], store, SHORT, start=parent, **settings)
    other = train(SMALL["topk"], store, STILL, seed=1, progress=False)
    with pytest.raises(MismatchError, match="other settings"):
        train(SMALL["topk"], store, SHORT, start=other, **settings)


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"crosscoder", "topk"}))
def test_decoder_norms_of_others_are_taken_into_the_codes(planted_dictionary, name):
    store, _, _ = planted_dictionary
    sae, size = some(EXAMPLES[name], WIDTH), torch.linspace(0.5, 2, 60)
    other = msgspec.structs.replace(sae, W_dec=sae.W_dec * size[:, None])
    p = warm_parameters(other, EXAMPLES[name], store, 1.0)
    np.testing.assert_allclose(p.decoder.norm(dim=1), 1, atol=1e-5)
    variant = EXAMPLES[name]
    extra = variant.finish(p.extra, 1.0) if isinstance(variant, Extended) else {}
    again = msgspec.structs.replace(
        sae, W_enc=p.encoder.T, W_dec=p.decoder, b_enc=p.b_enc, b_dec=p.b_dec,
        extra=sae.extra | {n: v for n, v in extra.items() if name != "batchtopk"},
    )  # fmt: skip
    x = torch.from_numpy(store.read(0, 50))
    if name == "batchtopk":  # one threshold for all latents: their mean
        np.testing.assert_allclose(p.extra[0], (sae.extra["threshold"] * size).mean(), rtol=1e-5)
        again = msgspec.structs.replace(again, extra={"threshold": sae.extra["threshold"] * size})
    np.testing.assert_allclose(again.reconstruct(x)[0], other.reconstruct(x)[0], rtol=1e-4, atol=1e-3)


def test_the_smallest_kept_does_not_depend_on_the_guess():
    pre = generator(0, "pre").standard_normal((50, 40)).astype(np.float32)
    want = np.sort(pre.reshape(-1))[::-1]
    for n in (1, 150, 400):
        assert {smallest_kept(pre, n, guess) for guess in (-1, 0.1, 1.0, 9.0)} == {want[n - 1]}
    positive = pre[pre > 0].min()
    assert {smallest_kept(pre, 1999, guess) for guess in (-1, 0.1, 9.0)} == {positive}
    assert smallest_kept(-np.abs(pre), 5, 1.0) == 0


def test_batchtopk_spends_its_latents_over_the_batch():
    variant = BatchTopK(d_sae=60, k=4, revive=0)
    sae = some(variant)
    p = random_parameters(24, 60, np.zeros(24), 0)
    p.extra = variant.begin()
    x = torch.from_numpy(generator(1, "x").standard_normal((300, 24)).astype(np.float32))
    x[:150] *= 3  # these need more
    means = []
    for dense in (False, True, False):
        seen = variant.add_gradients(p, x, p.zeros(), progress=1.0, dense=dense)
        assert seen.n_codes == 4 * 300
        means.append(float(p.extra[0, 0]))
    assert means[0] == means[1] == pytest.approx(means[2])  # the same batch thrice
    variant.add_gradients(p, x * 2, p.zeros(), progress=1.0)
    assert float(p.extra[0, 0]) == pytest.approx(means[0] * 1.05, rel=0.01)
    threshold = variant.finish(p.extra, 4.0)["threshold"]
    assert threshold.shape == (60,)
    codes = msgspec.structs.replace(sae, extra={"threshold": torch.full((60,), 0.9)}).codes(x.numpy())
    per_token = np.diff(codes.indptr)
    assert per_token[:150].mean() > 2 * per_token[150:].mean()


def test_charges_rise():
    x = torch.from_numpy(generator(1, "x").standard_normal((300, 24)).astype(np.float32))
    for variant in (JumpReLU(d_sae=60, l0=2.0, warmup=0.5), Gated(d_sae=60, l1=2.0, warmup=0.5)):
        p = random_parameters(24, 60, np.zeros(24), 0)
        p.extra = variant.begin()
        losses = [variant.add_gradients(p, x, p.zeros(), progress=at).loss for at in (0.0, 0.25, 0.5, 1.0)]
        assert losses[0] < losses[1] < losses[2] == losses[3]
        assert losses[1] - losses[0] == pytest.approx((losses[2] - losses[0]) / 2, rel=1e-4)
