"""A family: a base, its fine-tunes, merges and adapters, and who descends from whom: family.toml."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from heredity.atomic import write_text
from heredity.checkpoint import Checkpoint
from heredity.errors import ConfigError
from heredity.tomlfile import to_toml

Relation = Literal["base", "finetune", "merge", "adapter"]


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model of a family.

    Attributes:
        name: short and unique.
        path: folder relative to the family file, absolute folder, or Hub id with @revision.
        parents: names of the members it was made from.
        relation: how it was made of them; by default "base" without parents, "merge" of several, else
            "finetune".
        labels: what is known of it: domain, task, seed …
    """

    name: str
    path: str
    parents: tuple[str, ...] = ()
    relation: Relation | None = None
    labels: dict[str, str | int | float] = {}

    def __post_init__(self) -> None:
        if self.relation is None:
            default = ("base", "finetune", "merge")[min(len(self.parents), 2)]
            msgspec.structs.force_setattr(self, "relation", default)


class _Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    family: _Named
    member: tuple[Member, ...]


class Family:
    """Members and their descent, a directed graph without cycles.

    Attributes:
        name: of the family.
        members: in the order of the file.
        root: folder that members' paths are relative to.
        file: the file it was read from or saved to, or None.

    >>> family = Family.of({"base": "base", "lua": "lua"}, base="base")
    >>> family.edges()
    [('base', 'lua')]
    """

    def __init__(self, name: str, members: Iterable[Member], root: Path | str = ".") -> None:
        self.name = name
        self.members = tuple(members)
        self.root = Path(root)
        self.file: Path | None = None
        self._open: dict[str, Checkpoint] = {}
        _check(self.members, name)

    @classmethod
    def load(cls, path: Path | str) -> "Family":
        """Read family.toml, or a folder that holds one.

        Raises:
            ConfigError: missing, not TOML, an unknown field, an unknown parent, a cycle, a name twice.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "family.toml"
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror})", "heredity family DIR… -o family.toml makes one"
            ) from None
        except ValueError as error:
            raise ConfigError(
                f"{path}: not TOML ({error})", "see the example in the docs of the family file"
            ) from None
        try:
            file = msgspec.convert(values, _File)
        except msgspec.ValidationError as error:
            raise ConfigError(
                f"{path}: {plain(error)}", "see the example in the docs of the family file"
            ) from None
        family = cls(file.family.name, file.member, path.parent)
        family.file = path
        return family

    @classmethod
    def of(
        cls, paths: Mapping[str, str | Path | Checkpoint], *, base: str | None = None, name: str = "family"
    ) -> "Family":
        """Make a family of names and paths; all but `base` are fine-tunes of it when it is given.

        Raises:
            ConfigError: `base` is not one of the names.
        """
        if base is not None and base not in paths:
            raise ConfigError(f"base {base!r} is not a member", f"members: {', '.join(paths)}")
        members = [
            Member(
                name=member,
                path=str(path.path if isinstance(path, Checkpoint) else path),
                parents=() if base is None or member == base else (base,),
                relation=None if base is not None else "finetune",
            )
            for member, path in paths.items()
        ]
        family = cls(name, members)
        family._open.update({member: path for member, path in paths.items() if isinstance(path, Checkpoint)})
        return family

    def save(self, path: Path | str) -> Path:
        """Write family.toml (or into a folder); members' paths are kept as they are."""
        path = Path(path)
        if path.is_dir() or path.suffix != ".toml":
            path = path / "family.toml"
        write_text(path, to_toml(self.plain()))
        self.file = path
        return path

    def plain(self) -> dict[str, Any]:
        """Return what the family file holds, as plain values."""
        members = [
            {key: value for key, value in msgspec.to_builtins(member).items() if value not in ([], {}, ())}
            for member in self.members
        ]
        return {"family": {"name": self.name}, "member": members}

    @property
    def gram_file(self) -> Path | None:
        """Where the family's Gram matrix is kept: beside its file, or nowhere if it has none."""
        return None if self.file is None else self.file.with_suffix(".gram.safetensors")

    @property
    def base(self) -> Member | None:
        """The base: the one member with relation "base", if there is exactly one."""
        bases = [member for member in self.members if member.relation == "base"]
        return bases[0] if len(bases) == 1 else None

    def member(self, name: str) -> Member:
        """Return a member.

        Raises:
            ConfigError: there is none of that name.
        """
        for member in self.members:
            if member.name == name:
                return member
        raise ConfigError(
            f"family {self.name} has no member {name!r}",
            f"members: {', '.join(m.name for m in self.members)}",
        )

    def edges(self) -> list[tuple[str, str]]:
        """Return (parent, child) pairs, in the order of the file."""
        return [(parent, member.name) for member in self.members for parent in member.parents]

    def checkpoint(self, name: str) -> Checkpoint:
        """Open a member (once); an adapter is opened as its first parent plus the adapter.

        Raises:
            ConfigError: no such member.
            CheckpointError: it cannot be opened.
        """
        if name not in self._open:
            self._open[name] = self._opened(self.member(name))
        return self._open[name]

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Open all members, by name."""
        return {member.name: self.checkpoint(member.name) for member in self.members}

    def _opened(self, member: Member) -> Checkpoint:
        local = self.root / member.path
        parent = self.member(member.parents[0]) if member.relation == "adapter" and member.parents else None
        base = None if parent is None else self.checkpoint(parent.name)
        return Checkpoint.open(local if local.exists() else member.path, base=base)


def plain(error: msgspec.ValidationError) -> str:
    """Say what msgspec found, in the house's words: "unknown field 'densty' - at $.member[0]"."""
    text = re.sub(r"^Object contains (unknown field) `(.*?)`", r"\1 '\2'", str(error))
    text = re.sub(r"^Object missing required field `(.*?)`", r"missing field '\1'", text)
    return text.replace("`", "").replace(" - at ", " - at ")


def _check(members: tuple[Member, ...], family: str) -> None:
    names = [member.name for member in members]
    if not names:
        raise ConfigError(f"family {family}: has no members", "add at least one [[member]]")
    known: dict[str, Any] = {}
    for member in members:
        if not member.name or member.name in known:
            raise ConfigError(f"family {family}: two members are named {member.name!r}", "names must differ")
        known[member.name] = member
    for member in members:
        for parent in member.parents:
            if parent not in known:
                raise ConfigError(
                    f"member {member.name}: parent {parent!r} is not a member", f"members: {', '.join(names)}"
                )
    done: set[str] = set()
    while len(done) < len(names):
        ready = [m.name for m in members if m.name not in done and all(p in done for p in m.parents)]
        if not ready:
            rest = ", ".join(name for name in names if name not in done)
            raise ConfigError(
                f"family {family}: members descend from themselves: {rest}", "mend their parents"
            )
        done.update(ready)
