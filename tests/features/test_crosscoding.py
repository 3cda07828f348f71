"""Crosscoders on planted families: shared and exclusive features are told apart, and false exclusives found."""

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from planted import CONTEXT, codes, dense, noisy, stream
from sae_examples import bits, some
from test_sae_training import write_store

from heredity.errors import ConfigError, MismatchError, StoreError
from heredity.features.crosscoder_verdicts import against_correlation, agreement, words_of
from heredity.features.crosscoding import (
    crosscoder_table,
    encode_members,
    latent_scaling,
    relative_norms,
    train_crosscoder,
)
from heredity.features.joint import JointStore
from heredity.features.resample import Documents, Resampler
from heredity.features.sae import L1, SAE, Crosscoder, load, save
from heredity.features.train import Training
from heredity.features.verdicts import Tracking, compare
from heredity.seeds import generator

WIDTH, SHARED, ONLY = 32, 30, 10
TRUTH = ["both"] * SHARED + ["only base"] * ONLY + ["only lua"] * ONLY


@pytest.fixture(scope="module")
def planted_family(tmp_path_factory):
    """Two members of different scale: 30 shared features, the same directions in both, and 10 of each alone."""
    draw, n = generator(0, "crosscoder"), len(TRUTH)
    directions = draw.standard_normal((n, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    fires = draw.random((15_000, n)) < 0.06
    heights = fires * draw.uniform(0.7, 1.5, fires.shape)
    folder = tmp_path_factory.mktemp("family")
    stores = []
    for member, size in (("base", 5.0), ("lua", 20.0)):
        has = np.array([word in ("both", f"only {member}") for word in TRUTH])
        rows = size * (heights * has) @ directions + draw.standard_normal(WIDTH)
        stores.append(write_store(folder / member, rows.astype(np.float32), member))
    return stores, heights


VARIANT = Crosscoder(d_sae=72, k=3, members=("base", "lua"), revive=16)
TRAINING = Training(tokens=250_000, batch_tokens=500, rate=4e-3, dead_after_tokens=10_000)


@pytest.fixture(scope="module")
def trained(planted_family):
    return train_crosscoder(VARIANT, planted_family[0], TRAINING, seed=0, progress=False)


def test_planted_features_are_told_apart(planted_family, trained):
    stores, heights = planted_family
    table = crosscoder_table(trained, stores)
    found = encode_members(trained, stores)
    values = np.zeros((found.n_tokens, found.d_sae))
    values[np.repeat(np.arange(found.n_tokens), np.diff(found.indptr)), found.latents] = found.values
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.nan_to_num(np.corrcoef(heights.T, values.T)[: len(TRUTH), len(TRUTH) :])
    best = r.argmax(axis=1)
    assert (r.max(axis=1) > 0.9).mean() > 0.9
    words = {("base", "lua"): "both", ("base",): "only base", ("lua",): "only lua"}
    said = [words.get(tuple(owners), "none") for owners in table["owners"].to_list()]
    right = np.array([said[j] == truth for j, truth in zip(best, TRUTH, strict=True)])
    assert right[r.max(axis=1) > 0.9].mean() > 0.95
    verdicts = table["verdict"].to_numpy()
    alone = verdicts[best[[truth != "both" for truth in TRUTH]]]
    assert (alone == "exclusive").mean() > 0.8
    assert set(table["by_norm"]) <= {"shared", "exclusive", "graded", "rare", "dead"}
    assert found.l0 == pytest.approx(VARIANT.k, rel=0.15)
    shared = table.filter(pl.col("verdict") == "shared")
    assert shared["nu_error"].null_count() == len(shared)  # no member lacks them


def test_members_weigh_the_same_whatever_their_scale(planted_family, trained):
    stores, _ = planted_family
    assert trained.metadata["member_scales"][0] > 3 * trained.metadata["member_scales"][1]
    x = np.concatenate([store.read(0, 2000) for store in stores], axis=1)
    again, found = trained.reconstruct(torch.from_numpy(x))
    for block in (slice(0, WIDTH), slice(WIDTH, 2 * WIDTH)):
        left = np.square(x[:, block] - again.numpy()[:, block]).sum()
        assert left < 0.1 * np.square(x[:, block] - x[:, block].mean(axis=0)).sum()
    np.testing.assert_array_equal(found.values, encode_members(trained, stores).values[: len(found.values)])
    assert (relative_norms(trained).max(axis=1) == 1).all()


def test_a_crosscoder_survives_the_disk_and_an_interruption(planted_family, trained, tmp_path):
    save(trained, tmp_path / "sae")
    again = load(tmp_path / "sae")
    assert bits(again) == bits(trained)
    assert again.variant == VARIANT
    assert again.metadata == msgspec.to_builtins(trained.metadata)
    training = msgspec.structs.replace(TRAINING, tokens=20_000, checkpoint_every=7)

    def stop(row):
        if row["step"] == 24:
            raise KeyboardInterrupt

    settings = {"seed": 3, "checkpoint": tmp_path / "c", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        train_crosscoder(VARIANT, planted_family[0], training, callback=stop, **settings)
    resumed = train_crosscoder(VARIANT, planted_family[0], training, **settings)
    whole = train_crosscoder(VARIANT, planted_family[0], training, seed=3, progress=False)
    assert bits(resumed) == bits(whole)


def by_hand(rows, *, tokens=4_000):
    """A crosscoder with the given decoders [members, latents, d], and stores in which they explain everything."""
    members, latents, d = np.shape(rows)
    draw = generator(1, "by hand")
    heights = (draw.random((tokens, latents)) < 0.2) * draw.uniform(1, 2, (tokens, latents))
    decoder = torch.tensor(np.concatenate(list(rows), axis=1), dtype=torch.float32)
    names = tuple("abc"[:members])
    sae = SAE(
        variant=Crosscoder(d_sae=latents, k=1, members=names),
        W_enc=torch.linalg.pinv(decoder),  # reads every latent exactly
        W_dec=decoder,
        b_enc=torch.zeros(latents),
        b_dec=torch.zeros(members * d),
        extra={"threshold": torch.full((latents,), 1e-3)},
        metadata={"member_scales": [1.0] * members},
    )
    return sae, heights


def test_latent_scaling_finds_false_exclusives(tmp_path):
    eye = np.eye(4, 6)
    a, b = eye.copy(), eye.copy()
    b[0] = 0  # latent 0 is a's alone
    sae, heights = by_hand([a, b])
    heights = heights.astype(np.float32)
    base = heights @ a
    for name, other, want in (
        ("true", heights @ b, "exclusive"),
        ("shrunk", heights @ b + heights[:, :1] * 0.7 * a[0], "shrunk"),  # b has it, its decoder does not
    ):
        stores = [
            write_store(tmp_path / name / "a", base.astype(np.float32), "a"),
            write_store(tmp_path / name / "b", other.astype(np.float32), "b"),
        ]
        one = msgspec.structs.replace(
            sae, W_enc=torch.cat([torch.from_numpy(a.T).float(), torch.zeros(6, 4)])
        )
        table = crosscoder_table(one, stores)
        assert table["by_norm"].to_list() == ["exclusive", "shared", "shared", "shared"]
        assert table["verdict"].to_list() == [want, "shared", "shared", "shared"]
        assert table["owners"].to_list()[0] == ["a"]
        assert words_of(table, ("a", "b"))[0] == ("parent only" if want == "exclusive" else "shrunk")
        assert words_of(table, ("b", "a"))[0] == ("child only" if want == "exclusive" else "shrunk")
        assert table["nu_error"][0] == pytest.approx(0.7 if want == "shrunk" else 0, abs=0.01)
        assert table["nu_error"][1] is None
        scaling = latent_scaling(one, stores)
        np.testing.assert_allclose(scaling.error[1:], 1, atol=1e-3)
        np.testing.assert_array_equal(scaling.firings, (heights > 0).sum(axis=0))


def test_latent_scaling_finds_what_another_latent_writes(tmp_path):
    eye = np.eye(3, 6)
    a, b = eye.copy(), eye.copy()
    b[0], a[1], b[1] = 0, 0, eye[0]  # latents 0 and 1 are one feature, written apart for each member
    sae, heights = by_hand([a, b])
    heights[:, 1] = heights[:, 0]
    heights = heights.astype(np.float32)
    stores = [
        write_store(tmp_path / "a", (heights @ a).astype(np.float32), "a"),
        write_store(tmp_path / "b", (heights @ b).astype(np.float32), "b"),
    ]
    encoder = torch.zeros(12, 3)
    encoder[0, 0], encoder[6, 1], encoder[2, 2] = 1, 1, 1
    table = crosscoder_table(msgspec.structs.replace(sae, W_enc=encoder), stores)
    assert table["by_norm"].to_list() == ["exclusive", "exclusive", "shared"]
    assert table["verdict"].to_list() == ["decoupled", "decoupled", "shared"]
    assert words_of(table, ("a", "b"))[:3].tolist() == ["decoupled", "decoupled", "both"]
    assert table["nu_reconstruction"][0] == pytest.approx(1, abs=1e-3)


def test_three_members_and_rare_and_dead_latents(tmp_path):
    eye = np.eye(5, 6)
    members = [eye.copy() for _ in range(3)]
    members[2][0] = 0  # a and b have latent 0, c lacks it
    members[1][1], members[2][1] = eye[1] * 0.5, eye[1] * 0.9  # between
    sae, heights = by_hand(members)
    heights[:, 3] = 0
    heights[:, 4] *= np.arange(len(heights)) < 60
    heights = heights.astype(np.float32)
    stores = [
        write_store(tmp_path / name, (heights @ rows).astype(np.float32), name)
        for name, rows in zip("abc", members, strict=True)
    ]
    encoder = torch.cat([torch.from_numpy(eye.T).float(), torch.zeros(12, 5)])
    table = crosscoder_table(msgspec.structs.replace(sae, W_enc=encoder), stores)
    assert table["by_norm"].to_list() == ["exclusive", "graded", "shared", "dead", "rare"]
    assert table["owners"].to_list()[:2] == [["a", "b"], ["a", "c"]]
    assert table["relative_norm"].to_list()[1] == pytest.approx({"a": 1, "b": 0.5, "c": 0.9})
    # An edge has a word of its own: what is graded over all three is shared by a and c, and b and c lack what is a's.
    assert words_of(table, ("a", "c"))[:3].tolist() == ["parent only", "both", "both"]
    assert words_of(table, ("b", "c"))[:3].tolist() == ["parent only", "graded", "both"]
    assert words_of(table, ("c", "a")).tolist() == ["child only", "both", "both", "dead", "rare", "unpaired"]
    nowhere = table.with_columns(relative_norm=pl.struct(a=pl.lit(1.0), b=pl.lit(0.1), c=pl.lit(0.2)))
    assert words_of(nowhere, ("b", "c"))[2] == "neither"
    with pytest.raises(MismatchError, match=r"over \['a', 'b', 'c'\], not over 'perl'"):
        words_of(table, ("a", "perl"))


def judged(words):
    """A crosscoder's table over base and lua, one latent per word."""
    norms = {"both": (1.0, 0.9), "parent only": (1.0, 0.1), "child only": (0.1, 1.0), "graded": (1.0, 0.5)}
    found = np.array([norms[word] for word in words])
    own = (found == 1.0).astype(float)  # the end that lacks a latent has nothing of it elsewhere
    by_end = [pl.DataFrame(values, schema=["base", "lua"]).to_struct() for values in (found, own, own)]
    names = ("relative_norm", "nu_errors", "nu_reconstructions")
    return pl.DataFrame({"verdict": ["judged"] * len(words), **dict(zip(names, by_end, strict=True))})


def planted_edge():
    """20 latents kept, 10 lost and 10 new, seen by two SAEs and by a crosscoder that has all of them."""
    tokens = stream()
    true = dense(tokens, 40, rate=0.05)
    parent = np.where(np.arange(40) < 30, noisy(true, 0.1, 1), 0)
    child = np.where((np.arange(40) < 20) | (np.arange(40) >= 30), noisy(true, 0.1, 2), 0)
    both = codes(noisy(true, 0.1, 3), tokens, "base+lua")
    ends = codes(parent, tokens, "base"), codes(child, tokens, "lua")
    table = judged(["both"] * 20 + ["parent only"] * 10 + ["child only"] * 10)
    settings = Tracking()
    resampler = Resampler(Documents.of(tokens), resamples=50, seed=0)
    totals = [resampler.totals(end) for end in ends]
    return table, both, ends, compare(*ends, *totals, resampler, settings), settings


def test_both_methods_are_set_side_by_side():
    table, both, ends, comparison, settings = planted_edge()
    meeting = against_correlation(table, both, ("base", "lua"), ends, comparison, settings)
    assert meeting.columns == ["member", "correlation", "crosscoder", "count", "share"]
    assert meeting.rows() == [
        ("base", "disappears", "parent only", 10, 1.0),
        ("base", "persists", "both", 20, 1.0),
        ("lua", "emerges", "child only", 10, 1.0),
        ("lua", "persists", "both", 20, 1.0),
    ]
    found = agreement(meeting)
    assert (found.n, found.agree, found.kappa) == (60, 1.0, 1.0)
    wrong = judged(["both"] * 18 + ["graded"] * 2 + ["both"] * 10 + ["child only"] * 10)
    meeting = against_correlation(wrong, both, ("base", "lua"), ends, comparison, settings)
    assert ("base", "disappears", "both", 10, 1.0) in meeting.rows()
    assert ("base", "persists", "graded", 2, 0.1) in meeting.rows()
    found = agreement(meeting)
    assert found.n == 56
    assert found.agree == pytest.approx(46 / 56)
    # Of base 18 persist and 10 disappear, and all have a shared partner; of lua 18 persist and 10 emerge.
    chance = (18 + (18 * 18 + 10 * 10) / 28) / 56
    assert found.chance == pytest.approx(chance)
    assert found.kappa == pytest.approx((46 / 56 - chance) / (1 - chance))
    one_word = agreement(meeting.filter(pl.col("member") == "base"))
    assert (one_word.agree, one_word.kappa) == (one_word.chance, None)
    nothing = agreement(meeting.filter(pl.col("crosscoder") == "graded"))
    assert (nothing.n, nothing.agree, nothing.kappa) == (0, None, None)
    with pytest.raises(MismatchError, match="39 latents"):
        against_correlation(table.head(39), both, ("base", "lua"), ends, comparison, settings)


def test_words_of_independent_methods_agree_by_chance_alone():
    """Which end a latent is of must not pass for agreement: a parent's latent is never "child only"."""
    rows = [
        (member, said, word, 25, 0.5)
        for member, gone, only in (("base", "disappears", "parent only"), ("lua", "emerges", "child only"))
        for said in ("persists", gone)
        for word in ("both", only)
    ]
    names = ["member", "correlation", "crosscoder", "count", "share"]
    found = agreement(pl.DataFrame(rows, schema=names, orient="row"))
    assert (found.n, found.agree, found.chance, found.kappa) == (200, 0.5, 0.5, 0)


def test_dead_latents_are_revived(planted_family, monkeypatch):
    """Half of the latents begin far too quiet to fire: they come back by explaining what the others leave."""
    from heredity.features import initialise

    drawn = initialise.random_parameters

    def quiet(*shape):
        p = drawn(*shape)
        p.encoder[:36] *= 0.02
        return p

    monkeypatch.setattr(initialise, "random_parameters", quiet)
    training = msgspec.structs.replace(TRAINING, tokens=100_000, dead_after_tokens=5_000)
    dead, back = {}, {}
    for revive in (0, 16):
        rows = []
        sae = train_crosscoder(
            msgspec.structs.replace(VARIANT, revive=revive), planted_family[0], training, seed=0,
            callback=rows.append, progress=False,
        )  # fmt: skip
        dead[revive] = [row["dead"] for row in rows]
        back[revive] = int((encode_members(sae, planted_family[0]).firings[:36] > 0).sum())
    assert max(dead[0]) == max(dead[16]) == dead[0][-1] == 36
    assert min(dead[16][20:60]) == 0  # all of them, soon after they count as dead
    assert back[0] == 0
    assert back[16] >= 18


def test_what_does_not_fit_is_refused(planted_family, trained, tmp_path):
    stores, _ = planted_family
    with pytest.raises(MismatchError, match=r"over \['base', 'lua'\], the stores are of \['lua', 'base'\]"):
        train_crosscoder(VARIANT, stores[::-1], TRAINING, seed=0, progress=False)
    with pytest.raises(MismatchError, match="the stores are of"):
        encode_members(trained, stores[:1])
    with pytest.raises(ConfigError, match="several"):
        Crosscoder(d_sae=8, k=1, members=("base",))
    with pytest.raises(MismatchError, match="L1 SAE is of one member"):
        relative_norms(some(L1(d_sae=60, l1=1.0)))
    short = write_store(tmp_path / "short", np.ones((2 * CONTEXT, WIDTH), np.float32), "lua")
    with pytest.raises(MismatchError, match="base and lua differ in n_tokens"):
        JointStore([stores[0], short], [1, 1])
    with pytest.raises(ConfigError, match="not of several members"):
        JointStore([stores[0], stores[0]], [1, 1])
    broken = stores[1].read(0, stores[1].n_tokens)
    broken[777, 3] = np.nan
    bad = write_store(tmp_path / "bad", broken, "lua")
    with pytest.raises(StoreError, match=r"lua, x:input: .* not finite at step 0: shard 0, token 777"):
        train_crosscoder(VARIANT, [stores[0], bad], TRAINING, seed=0, progress=False)
