"""Propose a family from folders: who was made from whom, as files beside the weights and weights say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from heredity.card import read_card
from heredity.checkpoint import ADAPTER_CONFIG
from heredity.coverage import cover
from heredity.errors import ConfigError
from heredity.family import Family, Member, Relation
from heredity.geometry.ancestry import ancestry
from heredity.gram import Gram
from heredity.jsonfile import read_table


@dataclass(frozen=True)
class Proposal:
    """A member, and where its parents were read: adapter, card, config, weights, given, or nowhere.

    Attributes:
        member: as it would be written to the family file.
        evidence: what names the parents.
        unknown: parents it names that are not among the folders.
    """

    member: Member
    evidence: str
    unknown: tuple[str, ...] = ()


def propose(folders: Sequence[Path], *, base: str | None = None) -> list[Proposal]:
    """Propose a member for every folder.

    Args:
        folders: of checkpoints and LoRA adapters.
        base: name of the base, if it is known: it gets no parents.

    Raises:
        ConfigError: a folder is missing, or `base` is none of them.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: not a folder", "give folders of checkpoints")
    names = _names(folders)
    if base is not None and base not in names:
        raise ConfigError(f"base {base!r} is none of the folders", f"names: {', '.join(names)}")
    return [_proposal(name, folder, names, base) for name, folder in names.items()]


def family_of(
    proposals: Sequence[Proposal], name: str, *, relative_to: Callable[[str], str] | None = None
) -> Family:
    """Make a family of proposals.

    Args:
        proposals: one for each member.
        name: of the family.
        relative_to: changes paths, for a file in another folder.
    """
    members = [proposal.member for proposal in proposals]
    if relative_to is not None:
        members = [msgspec.structs.replace(member, path=relative_to(member.path)) for member in members]
    given = [proposal.member.name for proposal in proposals if proposal.evidence == "given"]
    return Family(name, _with_base(members, given))


def filled_from_weights(
    proposals: Sequence[Proposal], family: Family, *, allow_partial: bool = False, jobs: int = 1
) -> list[Proposal]:
    """Read the weights once and propose parents for members whose parents nothing names.

    A copy of another member becomes its fine-tune. The base must be known: directions need it.

    Raises:
        ConfigError: the family has no base.
        MismatchError: members do not share their tensors.
    """
    if family.base is None:
        raise ConfigError(f"family {family.name}: no base is known", "name it with --base, or add cards")
    gram = Gram.compute(family, allow_partial=allow_partial, jobs=jobs)
    names = (gram.reference, *gram.members)
    products = np.stack([tensor.products for tensor in gram.tensors.values()])
    descent = {names[d.model]: d for d in ancestry(products, [gram.dtypes[name] for name in names])}
    found = []
    for proposal in proposals:
        entry = descent[proposal.member.name]
        if proposal.evidence or proposal.member.name == gram.reference or not entry.parents:
            found.append(proposal)
            continue
        parents = tuple(names[parent] for parent in entry.parents)
        relation: Relation = (
            "merge" if entry.kind in ("merge", "near merge") and len(parents) > 1 else "finetune"
        )
        member = msgspec.structs.replace(proposal.member, parents=parents, relation=relation)
        score = "" if np.isnan(entry.score) else f", score {entry.score:.2g}"
        found.append(replace(proposal, member=member, evidence=f"weights: {entry.kind}{score}"))
    return found


def uncovered(family: Family) -> list[dict[str, Any]]:
    """Return the tensors that members do not plainly share with the base (or the first member)."""
    checkpoints = family.checkpoints()
    reference = family.base.name if family.base is not None else family.members[0].name
    others = {name: checkpoint for name, checkpoint in checkpoints.items() if name != reference}
    rows = cover(checkpoints[reference], others).rows
    return [
        {"tensor": r.tensor, "member": r.member, "status": r.status, "note": r.note}
        for r in rows
        if r.status not in ("head", "buffer")
    ]


def _with_base(members: Sequence[Member], given: Sequence[str]) -> list[Member]:
    """Mark one base: the given one, else the only parentless member that is a parent."""
    rootless = [member for member in members if not member.parents]
    if len(rootless) < 2:
        return list(members)
    stated = [parent for member in members for parent in member.parents]
    likely = list(given) or [member.name for member in rootless if member.name in stated]
    return [
        msgspec.structs.replace(member, relation="finetune")
        if member in rootless and (member.name not in likely or len(likely) > 1)
        else member
        for member in members
    ]


def _proposal(name: str, folder: Path, names: Mapping[str, Path], base: str | None) -> Proposal:
    if name == base:
        return Proposal(Member(name=name, path=str(folder), relation="base"), "given")
    adapter = folder / ADAPTER_CONFIG
    card = read_card(folder)
    sources: list[tuple[str, tuple[str, ...]]] = []
    if adapter.is_file():
        sources.append(("adapter", (str(read_table(adapter).get("base_model_name_or_path") or ""),)))
    sources.append(("card", card.base_models))
    if (folder / "config.json").is_file():
        sources.append(("config", (str(read_table(folder / "config.json").get("_name_or_path") or ""),)))
    unknown: tuple[str, ...] = ()
    for evidence, stated in sources:
        found = [_match(text, folder, names) for text in stated if text]
        parents = tuple(dict.fromkeys(parent for parent in found if parent is not None and parent != name))
        unknown += tuple(
            text for text, parent in zip(filter(None, stated), found, strict=True) if parent is None
        )
        if parents:
            relation: Relation = (
                "adapter" if adapter.is_file() else "merge" if len(parents) > 1 else "finetune"
            )
            if card.relation == "merge":
                relation = "merge"
            return Proposal(
                Member(name=name, path=str(folder), parents=parents, relation=relation), evidence, unknown
            )
    return Proposal(Member(name=name, path=str(folder)), "", tuple(dict.fromkeys(unknown)))


def _match(text: str, folder: Path, names: Mapping[str, Path]) -> str | None:
    """Return the member that a stated parent means: its folder, its name, or the last part of a Hub id."""
    for name, path in names.items():
        if (folder / text).resolve() == path.resolve() or Path(text).resolve() == path.resolve():
            return name
    last = text.split("@")[0].rstrip("/").rsplit("/", 1)[-1].lower()
    matches = [name for name in names if name.lower() == last]
    return matches[0] if len(matches) == 1 else None


def _names(folders: Sequence[Path]) -> dict[str, Path]:
    """Name folders by their last part, or by their last two where that is taken."""
    short = [folder.resolve().name for folder in folders]
    names: dict[str, Path] = {}
    for folder, name in zip(folders, short, strict=True):
        unique = name if short.count(name) == 1 else f"{folder.resolve().parent.name}-{name}"
        if unique in names:
            raise ConfigError(f"{folder}: a second folder named {unique}", "give each folder once")
        names[unique] = folder
    return names
