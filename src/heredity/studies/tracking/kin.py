"""First stage: which models the family is made of, whether they can be compared, how far apart their weights are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from heredity.checkpoint import Checkpoint
from heredity.errors import CheckpointError, ConfigError, MismatchError
from heredity.family import Family, Member
from heredity.features.site import Site
from heredity.features.sites import Place, places, recommended
from heredity.models.architecture import skeleton
from heredity.run import Run

Say = Callable[[str], None]


def resolved(family: Family) -> Family:
    """Return the family with every member's path as an absolute local folder, Hub ids and archives fetched.

    Raises:
        ConfigError: the family has no edge, so that there is nothing to track.
        CheckpointError: a member cannot be opened.
    """
    if not family.edges():
        raise ConfigError(
            f"family {family.name}: no member has a parent",
            "name parents in the family file: track follows its edges",
        )
    members = [
        msgspec.structs.replace(member, path=str(_folder(family, member)))
        for member in family.members
    ]  # fmt: skip
    return Family(family.name, members, family.root)


def check_tokenizers(family: Family) -> str:
    """Check that all members read text alike; return the member whose tokenizer is used.

    Raises:
        MismatchError: two members' tokenizers differ; the message says in what.
        CheckpointError: no member has one.
    """
    found: dict[str, dict[str, Any]] = {}
    for member in family.members:
        file = Path(member.path) / "tokenizer.json"
        if file.is_file():
            found[member.name] = _reading(file)
    if not found:
        raise CheckpointError(
            f"family {family.name}: no member has a tokenizer.json", "copy the tokenizer's files to a member"
        )
    first, *others = found
    for other in others:
        difference = _difference(first, found[first], other, found[other])
        if difference:
            raise MismatchError(
                f"{first} and {other} have different tokenizers: {difference}",
                "features are compared on the same tokens: track members of one tokenizer",
            )
    return first


def check_site(family: Family, site: str | None) -> str:
    """Check that a site is in every member and equally wide; choose one where none is named.

    Raises:
        ConfigError: a member has no such module (the nearest names are offered), or no MLP was recognised.
        MismatchError: it is not one row per token, or of another width in another member.
    """
    widths: dict[str, int] = {}
    for member in family.members:
        if member.relation == "adapter":
            continue  # it has its parent's modules
        model = skeleton(member.path)
        found = places(model)
        site = site or recommended(found)
        place = Site.parse(site)
        module = place.find(model)
        own = next(name for name, each in model.named_modules() if each is module)
        row = next((p for p in found if p.module == own), None)
        widths[member.name] = _width(row, place, member.name)
    first, *others = widths
    for other in others:
        if widths[other] != widths[first]:
            raise MismatchError(
                f"site {site} is {widths[first]} wide in {first} and {widths[other]} in {other}",
                "track members of one architecture",
            )
    if site is None:
        raise ConfigError(f"family {family.name}: has adapters only", "add the model that they belong to")
    return site


def keep(run: Run, family: Family) -> None:
    """Write the family as the run sees it: RUN/family/family.toml."""
    folder = run.folder("family")
    folder.mkdir(exist_ok=True)
    family.save(folder / "family.toml")


def _folder(family: Family, member: Member) -> Path:
    local = family.root / member.path
    if member.relation == "adapter" and local.exists():
        return local.resolve()
    return Checkpoint.open(local if local.exists() else member.path).path.resolve()


def _width(row: Place | None, site: Site, member: str) -> int:
    width = None if row is None else (row.input if site.side == "input" else row.output)
    if width is None:
        raise MismatchError(
            f"site {site}: is not one row per token in {member}", "`heredity sites MODEL` lists the sites"
        )
    return width


def _reading(file: Path) -> dict[str, Any]:
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
        return {part: whole.get(part) for part in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: cannot be read as a tokenizer ({error!r})", "save it again") from None


def _difference(first: str, a: dict[str, Any], other: str, b: dict[str, Any]) -> str:
    """Say in what two tokenizers differ, or nothing."""
    if a == b:
        return ""
    words = [tokens["model"].get("vocab") for tokens in (a, b)]
    if not all(isinstance(vocabulary, dict) for vocabulary in words):
        words = [{str(entry[0]): row for row, entry in enumerate(vocabulary or [])} for vocabulary in words]
    if words[0] == words[1]:
        part = next(part for part in a if a[part] != b[part])
        return f"their vocabularies are equal, but not their {part}"
    unlike = [token for token in sorted(words[0]) if words[1].get(token) != words[0][token]]
    if not unlike:
        return f"{other} has {len(words[1]) - len(words[0])} tokens that {first} has not"
    second = words[1].get(unlike[0])
    there = f"{second} in {other}" if second is not None else f"not in {other}"
    return f"{len(unlike)} of {len(words[0])} tokens, first {unlike[0]!r}, {words[0][unlike[0]]} in {first} and {there}"
