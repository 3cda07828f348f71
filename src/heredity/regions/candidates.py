"""Where a fine-tune could start: the base, the members, and means of them: all, of clusters, of kin."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from heredity.errors import ConfigError
from heredity.family import Family
from heredity.geometry.clusters import cluster
from heredity.geometry.similarity import centre, cosine
from heredity.regions.ground import Ground
from heredity.regions.place import Place, at
from heredity.regions.walk import centroid


class Candidate(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A place to start from.

    Attributes:
        place: where it is; its name is the candidate's.
        kind: base, member, centroid, cluster, kin, or leave-one-out.
        cluster: number of its cluster, −1 where it belongs to none.
    """

    place: Place
    kind: str
    cluster: int = -1


def candidates(ground: Ground, members: Sequence[str], own: Sequence[str] = ()) -> list[Candidate]:
    """Return all places that are tried, first of all the base and the centroid.

    Args:
        ground: the family.
        members: that may be used.
        own: those of them that were fine-tuned on the task itself; their centroid's complement is a candidate too.

    Raises:
        ConfigError: fewer than two members.
    """
    if len(members) < 2:
        raise ConfigError(f"{len(members)} members to start from", "a choice needs two members or more")
    groups = clusters_of(ground, members)
    found = []
    if ground.has_base:
        found.append(Candidate(place=ground.member(ground.base), kind="base"))
    found.append(Candidate(place=centroid(members, "centroid of all"), kind="centroid"))
    found.append(Candidate(place=at("kin-weighted mean", members, kin_weights(ground, members)), kind="kin"))
    others = [name for name in members if name not in own]
    if own and len(others) > 1:
        found.append(Candidate(place=centroid(others, "centroid without its own"), kind="leave-one-out"))
    for number in sorted(set(groups.values())):
        inside = [name for name in members if groups[name] == number]
        if 1 < len(inside) < len(members):
            place = centroid(inside, f"centroid of cluster {number}")
            found.append(Candidate(place=place, kind="cluster", cluster=number))
    alone = [Candidate(place=ground.member(name), kind="member", cluster=groups[name]) for name in members]
    return [*found, *alone]


def clusters_of(ground: Ground, members: Sequence[str]) -> dict[str, int]:
    """Cluster members by the cosine of their task vectors, as many groups as the eigengap says."""
    if len(members) < 4:
        return dict.fromkeys(members, 0)
    found = cluster(kinship(ground, members))
    return dict(zip(members, found.labels.tolist(), strict=True))


def kinship(ground: Ground, members: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the cosines of task vectors from the base, or from the members' mean where there is no base."""
    products = ground.products(members)
    return cosine(products if ground.has_base else centre(products))


def kin_weights(ground: Ground, members: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return shares by how akin each member is to the others: its mean cosine with them, where that is positive."""
    similarity = kinship(ground, members)
    np.fill_diagonal(similarity, 0.0)
    shares: np.ndarray[Any, np.dtype[np.float64]] = np.maximum(similarity.sum(axis=1), 0.0)
    return shares / shares.sum() if shares.sum() > 0 else np.full(len(members), 1 / len(members))


def representatives(found: Sequence[Candidate]) -> list[Candidate]:
    """Return one candidate for each cluster: its centroid, or its only member."""
    chosen: dict[int, Candidate] = {}
    for candidate in found:
        if candidate.kind == "cluster":
            chosen[candidate.cluster] = candidate
    for candidate in found:
        if candidate.kind == "member":
            chosen.setdefault(candidate.cluster, candidate)
    return [chosen[number] for number in sorted(chosen)]


def usable(family: Family, left_out: Sequence[str]) -> list[str]:
    """Return the members without those that are named, or of which a label has a value that is named.

    Raises:
        ConfigError: a name that no member and no label has, or fewer than two members are left.
    """
    known: Mapping[str, set[str]] = {
        m.name: {m.name, *map(str, m.labels.values())}
        for m in family.members
        if family.base is None or m.name != family.base.name
    }
    for name in left_out:
        if not any(name in names for names in known.values()):
            raise ConfigError(
                f"--leave-out {name}: no member and no label is called so", f"members: {', '.join(known)}"
            )
    found = [member for member, names in known.items() if not names & set(left_out)]
    if len(found) < 2:
        raise ConfigError(f"{len(found)} members to start from", "a choice needs two members or more")
    return found
