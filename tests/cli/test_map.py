"""`heredity map` on tiny families on disk: every table, every warning, every refusal, and resuming."""

import json

import numpy as np
import polars as pl
import pytest

from heredity.cli._main import run
from heredity.cli._mapping import size_in_bytes
from heredity.errors import ConfigError
from heredity.family import Family, Member
from pico import make_family, shapes, write_model

QUICK = ("--permutations", "99", "-q")


def _family(root, weights, *, dtype="F32", labels=None, parents=None, bases=("base",)):
    """Write models of given weights and their family.toml; return its path."""
    members = []
    for name, tensors in weights.items():
        own = dtype if isinstance(dtype, str) else dtype.get(name, "F32")
        write_model(root / name, tensors, dtype=own)
        above = (parents or {}).get(name, () if name in bases else ("base",) if "base" in bases else ())
        relation = "base" if name in bases else "merge" if len(above) > 1 else "finetune"
        about = (labels or {}).get(name, {})
        members.append(Member(name=name, path=name, parents=above, relation=relation, labels=about))
    return Family("tiny", members, root).save(root / "family.toml")


def _weights(rng, scale=1.0):
    return {n: (scale * rng.normal(size=s)).astype(np.float32) for n, s in shapes("llama").items()}


def _plus(*parts):
    return {name: np.sum([part[name] for part in parts], axis=0).astype(np.float32) for name in parts[0]}


def _times(factor, weights):
    return {name: np.float32(factor) * tensor for name, tensor in weights.items()}


@pytest.fixture
def planted(tmp_path):
    """A base, three data sets × three seeds, and a linear merge of two of them."""
    rng = np.random.default_rng(0)
    base = _weights(rng)
    models, labels = {"base": base}, {}
    for data in ("code", "law", "poems"):
        shared = _weights(rng, 0.02)
        for seed in range(3):
            name = f"{data}-{seed}"
            models[name] = _plus(base, shared, _weights(rng, 0.02))
            labels[name] = {"data": data, "seed": seed}
    models["soup"] = _plus(_times(0.3, models["code-0"]), _times(0.7, models["law-1"]))
    return _family(tmp_path, models, labels=labels, parents={"soup": ("code-0", "law-1")})


def test_a_planted_family_is_mapped_whole(planted, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        run(["map", str(planted), "-o", str(out), "--by", "data", "--group", "kind", "--json", *QUICK]) == 0
    )
    printed = json.loads(capsys.readouterr().out)
    stored = json.loads((out / "map.json").read_text())
    assert printed["schema"] == stored["schema"] == 1
    assert printed["findings"] == stored["findings"]
    scores = {(row["method"], row["score"]): row for row in stored["scores"]}
    assert scores["spectral", "accuracy"]["value"] == 1.0
    assert scores["spectral", "accuracy"]["p_value"] == pytest.approx(0.01)
    assert scores["none", "separation"]["value"] > scores["none", "separation"]["null_p95"]
    descent = {row["member"]: row for row in stored["ancestry"]}
    assert descent["soup"]["kind"] == "merge"
    assert descent["soup"]["parents"] == ["code-0", "law-1"]
    assert descent["soup"]["coefficients"] == pytest.approx([0.3, 0.7], abs=1e-3)
    assert all(descent[f"poems-{seed}"]["parents"] == ["base"] for seed in range(3))
    assert all(row["related"] for row in stored["nearest"])
    assert stored["warnings"] == []
    tables = "members pairs layout layout_trust dendrogram ancestry nearest clusters scores hulls kinship"
    for table in f"{tables} warnings findings".split():
        assert pl.read_parquet(out / "tables" / f"{table}.parquet").width > 0
    pairs = pl.read_parquet(out / "tables" / "pairs.parquet")
    assert pairs["group"].unique(maintain_order=True).to_list()[0] == "all"
    assert "mlp" in pairs["group"].unique().to_list()
    assert pairs["sign_agreement"].is_between(0, 1).all()
    assert pairs.filter(pl.col("group") == "all").height == 10 * 9 // 2
    for tree in ("dendrogram.nwk", "tree.nwk"):
        text = (out / tree).read_text()
        assert text.endswith(";\n")
        assert text.count("poems-1") == 1
    assert "base:" in (out / "tree.nwk").read_text()
    page = (out / "report.html").read_text()
    assert "stress 0." in page
    assert "soup" in page
    assert json.loads((out / "run.json").read_text())["status"] == "done"


def test_a_run_is_refused_resumed_and_made_anew(planted, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["map", str(planted), "-o", str(out), *QUICK]
    assert run(command) == 0
    first = (out / "map.json").read_bytes()
    assert run(command) == 2
    assert "not empty" in capsys.readouterr().err
    assert run([*command, "--resume"]) == 0
    assert (out / "map.json").read_bytes() == first
    assert run([*command, "--resume", "--group", "all"]) == 2
    assert "another config" in capsys.readouterr().err
    assert run([*command, "--overwrite", "--group", "all"]) == 0
    assert run([*command, "--overwrite", "--resume"]) == 2


def test_jobs_change_no_bit(planted, tmp_path):
    maps = []
    for jobs in ("1", "3"):
        out = tmp_path / f"run{jobs}"
        assert run(["map", str(planted), "-o", str(out), "-j", jobs, *QUICK]) == 0
        maps.append((out / "map.json").read_bytes())
    assert maps[0] == maps[1]


def _mapped(family, out, *options):
    assert run(["map", str(family), "-o", str(out), *QUICK, *options]) == 0
    return json.loads((out / "map.json").read_text())


def test_mixed_dtypes_are_warned_about_and_centring_is_offered(tmp_path):
    rng = np.random.default_rng(1)
    base = _weights(rng)
    models = {"base": base} | {name: _plus(base, _weights(rng, 3e-4)) for name in "abcd"}
    family = _family(tmp_path, models, dtype=dict.fromkeys("abcd", "BF16"))
    plain = _mapped(family, tmp_path / "plain")
    (warning,) = [text for text in plain["warnings"] if "rounding" in text]
    assert "F32 and BF16" in warning
    assert "--centre" in warning
    assert plain["kinship"]["cosine"] > 0.4  # strangers look like kin
    centred = _mapped(family, tmp_path / "centred", "--centre")
    assert centred["kinship"]["cosine"] == pytest.approx(-1 / 3, abs=0.05)
    assert any("has taken that away" in text for text in centred["warnings"])
    large = {"base": base} | {name: _plus(base, _weights(rng, 0.1)) for name in "abcd"}
    family = _family(tmp_path / "large", large, dtype=dict.fromkeys("abcd", "BF16"))
    assert _mapped(family, tmp_path / "large-run")["warnings"] == []


def test_copies_strangers_and_false_parents_are_named(tmp_path):
    rng = np.random.default_rng(2)
    base = _weights(rng)
    first = _plus(base, _weights(rng, 0.03))
    child = _plus(first, _weights(rng, 0.03))
    models = {"base": base, "a": first, "copy": first, "child": child, "stranger": _weights(rng)}
    found = _mapped(_family(tmp_path, models), tmp_path / "run")
    said = "\n".join(found["warnings"])
    assert "copy has the same weights as a" in said
    assert "stranger is not related to base" in said
    assert "child is said to come from base; its weights say a" in said
    kinds = {row["member"]: row["kind"] for row in found["ancestry"]}
    assert kinds["copy"] == "copy"
    assert kinds["stranger"] == "kin"
    assert "child goes on from a, not from base." in found["findings"]


def test_without_a_base_and_with_two(tmp_path):
    rng = np.random.default_rng(3)
    bases = {"base": _weights(rng), "other": _weights(rng)}
    models = dict(bases)
    for base, weights in bases.items():
        models |= {f"{base}-{i}": _plus(weights, _weights(rng, 0.02)) for i in range(3)}
    labels = {name: {"base": name.split("-")[0]} for name in models}
    parents = {name: (name.split("-")[0],) for name in models if "-" in name}
    both = _mapped(
        _family(tmp_path / "two", models, bases=tuple(bases), labels=labels, parents=parents),
        tmp_path / "two-run", "--by", "base",
    )  # fmt: skip
    accuracy = next(row for row in both["scores"] if row["score"] == "accuracy")
    assert accuracy["value"] == 1.0
    assert {row["member"]: row["base"] for row in both["nearest"]} == {
        n: n.split("-")[0] for n in models if "-" in n
    }
    assert {row["member"]: row["parents"] for row in both["ancestry"] if row["kind"] == "finetune"} == {
        name: [name.split("-")[0]] for name in models if "-" in name
    }
    assert any("more than one base" in text for text in both["warnings"])
    orphans = {name: models[name] for name in ("base-0", "base-1", "base-2")}
    none = _mapped(_family(tmp_path / "none", orphans, bases=()), tmp_path / "none-run")
    assert none["reference"] == "centroid"
    assert any("no base is known" in text for text in none["warnings"])
    assert {row["kind"] for row in none["ancestry"]} == {"kin"}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_small_families_are_mapped_with_a_warning(tmp_path, count):
    rng = np.random.default_rng(4)
    base = _weights(rng)
    models = {"base": base} | {f"m{i}": _plus(base, _weights(rng, 0.02)) for i in range(count)}
    found = _mapped(_family(tmp_path, models), tmp_path / "run")
    assert any("too few for clusters" in text for text in found["warnings"])
    assert "A map of tiny" in (tmp_path / "run" / "report.html").read_text()


def test_what_cannot_be_mapped_is_refused_before_anything_is_written(planted, tmp_path, capsys):
    out = tmp_path / "run"

    def refused(*arguments):
        code = run(["map", *arguments, "-o", str(out), *QUICK])
        said = capsys.readouterr().err
        assert "hint: " in said
        assert not out.exists()
        return code, said

    assert refused(str(tmp_path / "nowhere.toml"))[0] == 2
    code, said = refused(str(planted), "--by", "genre")
    assert code == 2
    assert "label 'genre'" in said
    assert "labels: data, seed" in said
    assert refused(str(planted), "--base", "nobody")[0] == 2
    code, said = refused(str(planted), "--max-memory", "lots")
    assert code == 2
    assert "'lots' is not a size" in said
    alone = _family(tmp_path / "alone", {"base": _weights(np.random.default_rng(0))})
    code, said = refused(str(alone))
    assert code == 2
    assert "has one member (base)" in said


def test_bad_weights_stop_the_map_with_their_names(tmp_path, capsys):
    rng = np.random.default_rng(5)
    base = _weights(rng)
    broken = _plus(base, _weights(rng, 0.02))
    broken["model.norm.weight"][3] = np.nan
    models = {"base": base, "good": _plus(base, _weights(rng, 0.02)), "broken": broken}
    family = _family(tmp_path, models)
    assert run(["map", str(family), "-o", str(tmp_path / "run"), *QUICK]) == 1
    said = capsys.readouterr().err
    assert "model.norm.weight" in said
    assert "broken" in said
    assert not (tmp_path / "run" / "map.json").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    found = _mapped(family, tmp_path / "rest", "--allow-nonfinite")
    assert any("not compared: model.norm.weight" in text for text in found["warnings"])


def test_models_that_do_not_fit_together_are_exit_three(tmp_path, capsys):
    rng = np.random.default_rng(6)
    base = _weights(rng)
    other = _plus(base, _weights(rng, 0.02))
    other["model.layers.0.mlp.up_proj.weight"] = np.zeros((5, 8), np.float32)
    models = {"base": base, "good": _plus(base, _weights(rng, 0.02)), "other": other}
    family = _family(tmp_path, models)
    assert run(["map", str(family), "-o", str(tmp_path / "run"), *QUICK]) == 3
    said = capsys.readouterr().err
    assert "model.layers.0.mlp.up_proj.weight" in said
    assert "[5, 8]" in said
    found = _mapped(family, tmp_path / "partial", "--allow-partial")
    assert any("not compared" in text for text in found["warnings"])


def test_a_head_counts_only_when_asked_for(tmp_path):
    family = make_family(tmp_path, members=("a", "b"))
    toml = Family.of(family.paths, base="base", name="heads").save(tmp_path / "family.toml")
    sizes = []
    for number, options in enumerate(((), ("--include-head",))):
        _mapped(toml, tmp_path / f"run{number}", *options)
        members = pl.read_parquet(tmp_path / f"run{number}" / "tables" / "members.parquet")
        sizes.append(members["elements"][0])
    assert sizes[1] - sizes[0] == family.values["base"]["lm_head.weight"].size


def test_sizes_of_memory():
    assert size_in_bytes("512MB") == 512 << 20
    assert size_in_bytes("1.5g") == 3 << 29
    assert size_in_bytes("4096") == 4096
    assert size_in_bytes("2 GiB") == 2 << 30
    with pytest.raises(ConfigError, match="not a size"):
        size_in_bytes("-1MB")
