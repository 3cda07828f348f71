"""Family files: what is written is read; what is wrong is said with its place."""

import pytest

from heredity import Family
from heredity.errors import ConfigError, HeredityError

GOOD = """
[family]
name = "baby"
[[member]]
name = "base"
path = "base"
[[member]]
name = "lua"
path = "lua"
parents = ["base"]
labels = { domain = "lua", seed = 0, rate = 0.5 }
[[member]]
name = "stories"
path = "stories"
parents = ["base"]
[[member]]
name = "mix"
path = "org/mix@main"
parents = ["lua", "stories"]
"""


def test_a_family_is_read_and_written(tmp_path):
    (tmp_path / "family.toml").write_text(GOOD)
    family = Family.load(tmp_path)
    assert family.name == "baby"
    assert [m.relation for m in family.members] == ["base", "finetune", "finetune", "merge"]
    assert family.base is not None
    assert family.base.name == "base"
    assert family.edges() == [("base", "lua"), ("base", "stories"), ("lua", "mix"), ("stories", "mix")]
    assert family.member("lua").labels == {"domain": "lua", "seed": 0, "rate": 0.5}
    again = Family.load(family.save(tmp_path / "copy"))
    assert again.members == family.members
    assert again.name == "baby"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('path = "base"', 'path = "base"\ndensty = 1'), r"unknown field 'densty' - at \$\.member\[0\]"),
        (('path = "base"\n', ""), r"missing field 'path' - at \$\.member\[0\]"),
        (('name = "baby"', "name = 3"), r"Expected str, got int - at \$\.family\.name"),
        (('parents = ["lua", "stories"]', 'relation = "child"'), r"child.*at \$\.member\[3\]\.relation"),
        (
            ('parents = ["base"]\nlabels', 'parents = ["bse"]\nlabels'),
            "member lua: parent 'bse' is not a member",
        ),
        (('parents = ["base"]\nlabels', 'parents = ["mix"]\nlabels'), "descend from themselves: lua, mix"),
        (('name = "stories"', 'name = "lua"'), "two members are named 'lua'"),
        (("[family]", "[family"), "not TOML"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, change, message):
    assert change[0] in GOOD
    (tmp_path / "family.toml").write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError, match=message) as caught:
        Family.load(tmp_path)
    assert caught.value.exit_code == 2


def test_members_open_relative_to_the_file(pico_family):
    pico = pico_family()
    text = "".join(f'[[member]]\nname = "{m}"\npath = "{m}"\n' for m in pico.paths)
    (pico.root / "family.toml").write_text('[family]\nname = "f"\n' + text)
    family = Family.load(pico.root / "family.toml")
    assert family.base is None  # four bases are no base
    assert family.checkpoint("a") is family.checkpoint("a")
    assert list(family.checkpoints()) == list(pico.paths)
    with pytest.raises(ConfigError, match="no member 'z'"):
        family.checkpoint("z")


def test_missing_files_and_members(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Family.load(tmp_path / "none.toml")
    with pytest.raises(HeredityError, match="has no members"):
        Family("f", [])
    with pytest.raises(ConfigError, match="base 'x' is not a member"):
        Family.of({"a": tmp_path}, base="x")
