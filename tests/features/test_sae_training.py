import sys

import msgspec
import numpy as np
import pytest
import torch
from planted import CONTEXT, stream

from heredity.errors import MismatchError, StoreError
from heredity.features.backward import AUX, Parameters, add_gradients
from heredity.features.initialise import geometric_median, input_scale, random_parameters
from heredity.features.optimise import Adam, descend
from heredity.features.sae import L1, TopK
from heredity.features.store import StoreMeta, StoreWriter
from heredity.features.train import Training, train
from heredity.seeds import generator


def write_store(path, rows, member="base"):
    meta = StoreMeta(
        member=member, model_digest="m", site="x:input", stream_digest=stream(documents=1).digest,
        context=CONTEXT,
        n_tokens=len(rows), d=rows.shape[1], dtype="float32", shard_tokens=CONTEXT * 100,
    )  # fmt: skip
    writer = StoreWriter(path, meta)
    for shard in writer.missing:
        writer.write(shard, rows[slice(*meta.rows_of(shard))])
    return writer.finish()


FEATURES, WIDTH = 96, 64


@pytest.fixture(scope="module")
def planted_dictionary(tmp_path_factory):
    """96 directions in 64 dimensions, 3 at a time, away from the origin and not of unit scale."""
    draw = generator(0, "dictionary")
    directions = draw.standard_normal((FEATURES, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    fires = np.argsort(draw.random((20_000, FEATURES)), axis=1)[:, :3]
    codes = np.zeros((20_000, FEATURES))
    np.put_along_axis(codes, fires, draw.uniform(0.7, 1.5, fires.shape), axis=1)
    rows = (5 * codes @ directions + draw.standard_normal(WIDTH)).astype(np.float32)
    return write_store(tmp_path_factory.mktemp("store") / "planted", rows), codes, directions


SHORT = Training(tokens=20_000, batch_tokens=500, rate=3e-3, dead_after_tokens=4_000, checkpoint_every=7)


COMMON = ("encoder", "decoder", "b_enc", "b_dec")


def autograd(variant, p, x, penalty, dead):
    """The loss as in the docstring of backward.py, differentiated by torch."""
    q = Parameters(*(getattr(p, name).clone().requires_grad_() for name in p.__struct_fields__))
    pre = (x - q.b_dec) @ q.encoder.T + q.b_enc
    codes = variant.activate_dense(pre)
    error = codes @ q.decoder + q.b_dec - x
    loss = (error.square().sum() + penalty * codes.sum()) / x.numel()
    if dead is not None and variant.aux_k:
        names = torch.from_numpy(np.flatnonzero(dead))
        top = pre[:, names].topk(min(variant.aux_k, len(names)), dim=-1)
        revived = torch.zeros_like(pre).scatter(-1, names[top.indices], top.values.relu())
        # Both sides of the residual are constants, and the encoder's input is x − b_dec here too.
        loss = loss + AUX * (revived @ q.decoder + error.detach()).square().sum() / x.numel()
    loss.backward()
    return float(loss.detach()), {name: getattr(q, name).grad for name in COMMON}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("variant", "penalty", "with_dead"),
    [
        (TopK(d_sae=96, k=5), 0.0, False),
        (TopK(d_sae=96, k=5, revive=7), 0.0, True),
        (L1(d_sae=96, l1=0.3), 0.3, False),
    ],
)
def test_gradients_equal_autograd(variant, penalty, with_dead, dense):
    p = random_parameters(24, 96, np.linspace(-1, 1, 24), 0)
    p.b_enc += torch.linspace(-0.5, 0.5, 96)
    x = torch.from_numpy(generator(1, "x").standard_normal((200, 24)).astype(np.float32)) * 2
    dead = np.arange(96) % 4 == 0 if with_dead else None
    got = p.zeros()
    seen = add_gradients(variant, p, x, got, penalty=penalty, dead=dead, dense=dense)
    loss, want = autograd(variant, p, x, penalty, dead)
    assert seen.loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in want.items():
        scale = float(gradient.abs().max())
        np.testing.assert_allclose(getattr(got, name), gradient, atol=1e-5 * scale, err_msg=name)


def test_fused_adam_equals_the_torch_path_and_keeps_rows_on_the_sphere():
    p = random_parameters(24, 50, np.zeros(24), 0)
    q = msgspec.structs.replace(p, **{n: getattr(p, n).clone() for n in p.__struct_fields__})
    one, two = Adam.start(p), Adam.start(q)
    for step in range(3):
        draw = generator(step, "gradient")
        g = Parameters(*(torch.from_numpy(draw.standard_normal(getattr(p, n).shape).astype(np.float32))
                         for n in p.__struct_fields__))  # fmt: skip
        h = msgspec.structs.replace(g, **{n: getattr(g, n).clone() for n in g.__struct_fields__})
        one.update(p, g, 0.01)
        two.step += 1
        for n in q.__struct_fields__:
            moments = getattr(two.mean, n), getattr(two.square, n)
            two._update_torch(getattr(q, n), getattr(h, n), *moments, 0.01, n == "decoder")
        assert not any(getattr(g, n).any() for n in g.__struct_fields__)
    for n in p.__struct_fields__:
        np.testing.assert_allclose(getattr(p, n), getattr(q, n), atol=1e-5)
    np.testing.assert_allclose(p.decoder.norm(dim=1), 1, atol=1e-6)


@pytest.mark.parametrize("variant", [TopK(d_sae=128, k=3, revive=16), L1(d_sae=128, l1=1.0)])
def test_a_planted_dictionary_is_recovered(planted_dictionary, variant):
    store, codes, directions = planted_dictionary
    rows = []
    training = Training(
        tokens=400_000, batch_tokens=500, rate=3e-3, dead_after_tokens=10_000, resample_every_tokens=40_000
    )
    sae = train(variant, store, training, seed=0, callback=rows.append, progress=False)
    np.testing.assert_allclose(sae.W_dec.norm(dim=1), 1, atol=1e-5)
    found = sae.codes(store.read(0, store.n_tokens)).dense(128)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.nan_to_num(np.corrcoef(codes.T, found.T)[:FEATURES, FEATURES:])
    assert (r.max(axis=1) >= 0.9).mean() >= 0.95
    cosine = (directions * sae.W_dec.numpy()[r.argmax(axis=1)]).sum(axis=1)
    assert (cosine >= 0.9).mean() >= 0.95
    assert rows[-1]["fvu"] < (0.03 if isinstance(variant, TopK) else 0.1)
    assert [row["step"] for row in rows] == list(range(1, training.steps + 1))


@pytest.mark.parametrize(("revive", "alive"), [(0, 0), (16, 24)])
def test_latents_that_never_win_are_revived(planted_dictionary, revive, alive):
    store, _, _ = planted_dictionary
    variant = TopK(d_sae=96, k=3, revive=revive)
    x = torch.from_numpy(store.read(0, 4_000))
    x /= x.norm(dim=1).mean() / 8
    p = random_parameters(WIDTH, 96, np.zeros(WIDTH), 0)
    p.encoder[:48] *= 0.02  # far too quiet to be among the top 3
    adam, gradients, since = Adam.start(p), p.zeros(), np.where(np.arange(96) < 48, 9_999, 0)
    for step in range(150):
        seen = add_gradients(variant, p, x[step % 8 :: 8], gradients, dead=since > 2_000)
        adam.update(p, gradients, 3e-3)
        since = np.where(seen.fired, 0, since + 500)
    back = int((since[:48] <= 2_000).sum())
    assert back >= alive
    assert back <= (0 if revive == 0 else 48)


def test_resampled_latents_take_the_direction_of_what_is_left_over(planted_dictionary):
    store, _, _ = planted_dictionary
    dead = {}
    for every in (5_000, 10**9):
        variant = L1(d_sae=256, l1=4.0)
        training = Training(
            tokens=60_000, batch_tokens=500, rate=5e-3, dead_after_tokens=4_000, resample_every_tokens=every
        )
        last = {}
        train(variant, store, training, seed=0, callback=last.update, progress=False)
        dead[every] = last["dead"]
    assert dead[5_000] < dead[10**9]


def bits(sae):
    return [
        getattr(sae, name).contiguous().numpy().tobytes() for name in ("W_enc", "W_dec", "b_enc", "b_dec")
    ]


@pytest.mark.parametrize("variant", [TopK(d_sae=64, k=3, revive=8), L1(d_sae=64, l1=0.1)])
def test_killed_and_resumed_is_the_same_as_never_stopped(planted_dictionary, tmp_path, variant):
    store, _, _ = planted_dictionary
    training = msgspec.structs.replace(SHORT, resample_every_tokens=2_500)
    whole = train(variant, store, training, seed=3, progress=False)

    def stop(row):
        if row["step"] == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(variant, store, training, seed=3, checkpoint=tmp_path / "c", callback=stop, progress=False)
    steps = []
    again = train(
        variant, store, training, seed=3, checkpoint=tmp_path / "c", progress=False,
        callback=lambda r: steps.append(r["step"]),
    )  # fmt: skip
    assert steps[0] == 22
    assert bits(again) == bits(whole)
    assert bits(train(variant, store, training, seed=4, progress=False)) != bits(whole)
    with pytest.raises(MismatchError, match="other settings"):
        train(variant, store, training, seed=4, checkpoint=tmp_path / "c", progress=False)


def test_the_input_scale_is_folded_back(tmp_path):
    rows = generator(0, "rows").standard_normal((2_000, 12)).astype(np.float32) + 0.5
    training = Training(tokens=10_000, batch_tokens=250, checkpoint_every=1000)
    one = train(TopK(d_sae=32, k=4), write_store(tmp_path / "a", rows), training, seed=0, progress=False)
    two = train(TopK(d_sae=32, k=4), write_store(tmp_path / "b", rows * 64), training, seed=0, progress=False)
    np.testing.assert_allclose(
        two.codes(rows * 64).dense(32), 64 * one.codes(rows).dense(32), rtol=1e-3, atol=1e-3
    )
    x = torch.from_numpy(rows)
    np.testing.assert_allclose(two.reconstruct(x * 64)[0], 64 * one.reconstruct(x)[0], rtol=1e-3, atol=1e-2)


def test_initial_values_are_what_they_say():
    draw = generator(0, "cloud")
    cloud = np.concatenate([draw.standard_normal((900, 5)), draw.standard_normal((100, 5)) * 50 + 300])
    median = geometric_median(cloud)
    pull = cloud - median
    assert (
        np.linalg.norm((pull / np.linalg.norm(pull, axis=1, keepdims=True)).sum(axis=0)) < 0.1
    )  # no net pull
    assert np.linalg.norm(median) < 0.2 * np.linalg.norm(cloud.mean(axis=0))
    scale = input_scale(cloud)
    assert np.square(cloud * scale).sum(axis=1).mean() == pytest.approx(5)
    with pytest.raises(StoreError, match="every activation is 0"):
        input_scale(np.zeros((3, 4)))


def test_a_loss_that_is_not_finite_names_the_step(tmp_path):
    rows = np.zeros((500, 6), np.float32)
    rows[:, 0] = 1
    rows[480:, 1] = np.inf
    with pytest.raises(StoreError, match="not finite"), np.errstate(all="ignore"):
        train(TopK(d_sae=8, k=2), write_store(tmp_path / "a", rows), SHORT, seed=0, progress=False)


def test_activations_that_are_not_finite_are_named(tmp_path):
    rows = generator(0, "rows").standard_normal((20_000, 6)).astype(np.float32)
    rows[4_000, 3] = np.nan
    with pytest.raises(StoreError, match=r"lua, x:input: .* not finite at step 0: shard 1, token 4000"):
        train(TopK(d_sae=8, k=2), write_store(tmp_path / "a", rows, "lua"), SHORT, seed=1, progress=False)
    late = generator(1, "sae sample").permutation(20_000)[-1]  # not in the sample that training starts from
    rows[4_000, 3], rows[late, 0] = 0, np.inf
    with (
        pytest.raises(StoreError, match=rf"not finite at step \d+: shard {late // 3200}, token {late}"),
        np.errstate(all="ignore"),
    ):
        train(TopK(d_sae=8, k=2), write_store(tmp_path / "b", rows, "lua"), SHORT, seed=1, progress=False)


@pytest.mark.parametrize(("dense", "dtype"), [(False, "float32"), (False, "bfloat16"), (True, "float32")])
def test_gradients_of_a_batch_of_several_chunks_equal_autograd(dense, dtype):
    p = random_parameters(24, 8200, np.linspace(-1, 1, 24), 0)
    x = torch.from_numpy(generator(1, "x").standard_normal((1_100, 24)).astype(np.float32)) * 2
    dead = np.arange(8200) % 3 == 0
    variant, got = TopK(d_sae=8200, k=5, revive=7), p.zeros()
    seen = add_gradients(variant, p, x, got, dead=dead, dense=dense, dtype=dtype)
    loss, want = autograd(variant, p, x, 0.0, dead)
    assert seen.loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in want.items():
        scale = float(gradient.abs().max())
        np.testing.assert_allclose(getattr(got, name), gradient, atol=1e-5 * scale, err_msg=name)


def test_a_dtype_found_by_trial_is_recorded_and_kept(planted_dictionary, tmp_path, monkeypatch):
    store, _, _ = planted_dictionary
    variant, auto = TopK(d_sae=64, k=3), msgspec.structs.replace(SHORT, dtype="auto")
    module = sys.modules[train.__module__]
    monkeypatch.setattr(module, "fastest_dtype", lambda *shape: "bfloat16")
    whole = train(variant, store, auto, seed=3, progress=False)
    assert whole.metadata["training"]["dtype"] == "bfloat16"

    def stop(row):
        if row["step"] == 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(variant, store, auto, seed=3, checkpoint=tmp_path / "c", callback=stop, progress=False)
    monkeypatch.setattr(module, "fastest_dtype", lambda *shape: "float32")  # another mood of the machine
    again = train(variant, store, auto, seed=3, checkpoint=tmp_path / "c", progress=False)
    assert again.metadata["training"]["dtype"] == "bfloat16"
    assert bits(again) == bits(whole)
    with pytest.raises(MismatchError, match="other settings"):
        train(variant, store, SHORT, seed=3, checkpoint=tmp_path / "c", progress=False)
    given = msgspec.structs.replace(SHORT, dtype="bfloat16")
    assert bits(train(variant, store, given, seed=3, progress=False)) == bits(whole)
    plain = train(variant, store, SHORT, seed=3, progress=False)
    assert plain.metadata["training"]["dtype"] == "float32"
    assert train(L1(d_sae=64, l1=0.1), store, auto, seed=3, progress=False).metadata["training"]["dtype"] == (
        "float32"
    )


@pytest.mark.parametrize(
    ("variant", "dense", "dtype"),
    [
        (TopK(d_sae=1500, k=5, revive=7), False, "float32"),
        (TopK(d_sae=1500, k=5, revive=7), False, "bfloat16"),
        (L1(d_sae=1500, l1=0.5), False, "float32"),
        (L1(d_sae=1500, l1=0.5), True, "float32"),
    ],
)
def test_descent_without_all_gradients_equals_autograd_and_adam(variant, dense, dtype):
    """Torch's own Adam, with the decoder's rows kept on the sphere by hand."""
    p = random_parameters(24, 1500, np.linspace(-1, 1, 24), 0)
    q = Parameters(*(getattr(p, name).clone() for name in p.__struct_fields__))
    adam, theirs = Adam.start(p), torch.optim.Adam([getattr(q, name) for name in COMMON], lr=1e-3)
    dead = np.arange(1500) % 3 == 0
    for step in range(3):
        x = torch.from_numpy(generator(step, "x").standard_normal((300, 24)).astype(np.float32)) * 2
        seen = descend(
            variant, p, x, adam, 1e-3, penalty=variant.penalty, dead=dead, dense=dense, dtype=dtype
        )
        loss, gradients = autograd(variant, q, x, variant.penalty, dead)
        for name in COMMON:
            getattr(q, name).grad = gradients[name]
        along = (q.decoder.grad * q.decoder).sum(dim=1, keepdim=True)
        q.decoder.grad -= along * q.decoder
        theirs.step()
        q.decoder /= q.decoder.norm(dim=1, keepdim=True)
        assert seen.loss == pytest.approx(loss, rel=1e-5)
        for name in COMMON:
            np.testing.assert_allclose(
                getattr(p, name), getattr(q, name), atol=1e-5, err_msg=f"{name}, step {step}"
            )
