"""Which tensors of several checkpoints are the same: names, prefixes, tied heads, joined vocabularies.

Status of a tensor in a member: shared · renamed (a prefix differs) · tied (read from the embedding) · joined
(rows matched by token string) · missing · extra · shape · head and buffer (left out by default).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heredity.anatomy import is_buffer, is_head, kind_of
from heredity.checkpoint import Checkpoint
from heredity.errors import MismatchError
from heredity.kernels.decode import CODES
from heredity.vocabulary import common_rows

_PREFIXES = ("model.language_model.", "base_model.model.", "language_model.model.", "language_model.")
_OLD_NORM = (
    re.compile(r"(LayerNorm|layer_norm|ln)\.gamma$"),
    re.compile(r"(LayerNorm|layer_norm|ln)\.beta$"),
)
_BAD = ("missing", "extra", "shape")


@dataclass(frozen=True)
class Source:
    """Where one model keeps a common tensor: its own name for it, and the rows to take (None: all)."""

    name: str
    rows: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Common:
    """A tensor that all models have: the reference's name for it, the common shape, every model's source."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[Source, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Row:
    """One line of the coverage table."""

    tensor: str
    member: str
    status: str
    reference_shape: tuple[int, ...] | None
    member_shape: tuple[int, ...] | None
    note: str = ""


@dataclass(frozen=True)
class Coverage:
    """Common tensors in order of name, and the table of everything that is not plainly shared, and why."""

    tensors: tuple[Common, ...]
    rows: tuple[Row, ...]

    def bad(self) -> tuple[Row, ...]:
        """Return the lines that stop a comparison unless it may be partial."""
        return tuple(row for row in self.rows if row.status in _BAD)

    def check(self, *, allow_partial: bool) -> None:
        """Raise if models do not cover each other.

        Raises:
            MismatchError: naming the first tensor, both shapes, and how many more; or nothing is shared at
                all.
        """
        bad = self.bad()
        if bad and not (allow_partial and self.tensors):
            row = bad[0]
            theirs, own = list(row.reference_shape or ()), list(row.member_shape or ())
            shapes = {
                "missing": f"is missing in {row.member}",
                "extra": f"is only in {row.member}",
                "shape": f"is {theirs} in the reference and {own} in {row.member}",
            }[row.status]
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            hint = (
                "--allow-partial compares what is shared"
                if self.tensors
                else "these models have nothing in common"
            )
            raise MismatchError(
                f"tensor {row.tensor} {shapes}{more}{': ' + row.note if row.note else ''}", hint
            )
        if not self.tensors:
            raise MismatchError("these models share no tensor", "check that they have one architecture")


def cover(
    reference: Checkpoint, members: Mapping[str, Checkpoint], *, include_head: bool = False
) -> Coverage:
    """Match the tensors of members to the reference's.

    Args:
        reference: gives the names and the order of rows.
        members: name → checkpoint.
        include_head: count output heads too.
    """
    others = list(members.values())
    for checkpoint in (reference, *others):
        refuse_quantised(checkpoint)
    tied_everywhere = all(_is_tied(c) for c in [reference, *others])
    explicit = any("lm_head.weight" in c.tensors for c in [reference, *others])
    wanted = _names(reference, explicit)
    maps = [match_names(list(wanted), _names(c, explicit)) for c in others]
    common: list[Common] = []
    rows: list[Row] = []
    for name in sorted(wanted):
        own_info = reference.info(wanted[name])
        if is_buffer(name, own_info.shape) or own_info.dtype not in CODES:
            rows.append(Row(name, reference.name, "buffer", own_info.shape, None))
        elif is_head(name) and (not include_head or (tied_everywhere and name == "lm_head.weight")):
            rows.append(Row(name, reference.name, "head", own_info.shape, None))
        else:
            found, said = _match(name, wanted[name], reference, members, maps, explicit)
            rows += said
            if found is not None:
                common.append(found)
    for (member, checkpoint), names in zip(members.items(), maps, strict=True):
        taken = set(names.values())
        for own in sorted(_names(checkpoint, explicit)):
            info = checkpoint.tensors.get(own)
            if info is None or own in taken or is_head(own) or is_buffer(own, info.shape):
                continue
            if info.dtype in CODES:
                rows.append(Row(own, member, "extra", None, info.shape))
    return Coverage(tuple(common), tuple(rows))


def refuse_quantised(checkpoint: Checkpoint) -> None:
    """Refuse weights whose stored numbers are not their values: packed integers, fp8 with scales beside them.

    Raises:
        MismatchError: naming the file and the tensor.
    """
    packed = checkpoint.config.get("quantization_config") is not None
    for name, info in checkpoint.tensors.items():
        scaled = [
            n for n in (f"{name}_scale", f"{name}_scale_inv", f"{name}_scale_2") if n in checkpoint.tensors
        ]
        integers = packed and info.dtype in ("I8", "U8", "I32") and not is_buffer(name, info.shape)
        if integers or scaled:
            why = f"is multiplied by {scaled[0]}" if scaled else f"is packed as {info.dtype}"
            raise MismatchError(
                f"{info.file}: tensor {name} {why}: its stored numbers are not its weights",
                "give the checkpoint before quantisation, or dequantise it first",
            )


def match_names(reference: Sequence[str], own: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Return reference name → own name, for the one change of prefix that matches most names.

    >>> match_names(["model.norm.weight"], ["norm.weight"])
    {'model.norm.weight': 'norm.weight'}
    """
    names = {_modern(name): name for name in own}
    wanted = {_modern(name): name for name in reference}
    best: dict[str, str] = {}
    for theirs in (
        "",
        *_prefixes(names),
    ):  # no change of prefix is tried first, and kept unless another finds more
        bare = {name.removeprefix(theirs): original for name, original in names.items()}
        for ours in ("", *_prefixes(wanted)):
            found = {o: bare[w.removeprefix(ours)] for w, o in wanted.items() if w.removeprefix(ours) in bare}
            if len(found) > len(best):
                best = found
    return best


def _match(
    name: str,
    own: str,
    reference: Checkpoint,
    members: Mapping[str, Checkpoint],
    maps: Sequence[Mapping[str, str]],
    explicit: bool,
) -> tuple[Common | None, list[Row]]:
    shape = reference.info(own).shape
    sources, rows = [Source(own)], []
    joined = False
    for (member, checkpoint), names in zip(members.items(), maps, strict=True):
        if name not in names:
            rows.append(Row(name, member, "missing", shape, None))
            continue
        theirs = _names(checkpoint, explicit)[names[name]]
        info = checkpoint.info(theirs)
        sources.append(Source(theirs))
        if theirs != names[name]:
            rows.append(Row(name, member, "tied", shape, info.shape, f"read from {theirs}"))
        elif theirs != name:
            rows.append(Row(name, member, "renamed", shape, info.shape, theirs))
        if info.dtype not in CODES:
            rows.append(
                Row(
                    name,
                    member,
                    "shape",
                    shape,
                    info.shape,
                    f"dtype {info.dtype} is not a number format of weights",
                )
            )
            sources.pop()
        elif info.shape != shape:
            if _has_vocabulary(name, shape, info.shape):
                joined = True
            else:
                rows.append(Row(name, member, "shape", shape, info.shape))
                sources.pop()
    if len(sources) <= len(members):
        return None, rows
    if _has_vocabulary(name, shape, shape):
        taken = common_rows([reference, *members.values()], must_join=joined)
        if taken is None and joined:
            bad = [(m, c.info(s.name).shape) for (m, c), s in zip(members.items(), sources[1:], strict=True)]
            note = "vocabularies differ and a tokenizer file is missing, so rows cannot be matched by token"
            return None, rows + [Row(name, m, "shape", shape, s, note) for m, s in bad if s != shape]
        if taken is not None:
            rows += [Row(name, m, "joined", shape, c.info(s.name).shape, f"{len(taken[0])} common tokens")
                     for (m, c), s in zip(members.items(), sources[1:], strict=True)]  # fmt: skip
            sources = [Source(s.name, r) for s, r in zip(sources, taken, strict=True)]
            shape = (len(taken[0]), *shape[1:])
    return Common(name, shape, tuple(sources)), rows


def _has_vocabulary(name: str, shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    if not shape or len(shape) != len(other) or shape[1:] != other[1:]:
        return False
    token_embedding = kind_of(name) == "embedding" and not re.search(r"position|token_type|wpe", name)
    return (token_embedding and len(shape) == 2) or bool(
        re.search(r"(lm_head|embed_out|cls\.predictions)\.", name) and "transform" not in name
    )


def _names(checkpoint: Checkpoint, explicit_head: bool) -> dict[str, str]:
    """Return the names a checkpoint answers to: a tied head answers with the embedding if others have one."""
    names = {name: name for name in checkpoint.tensors}
    if explicit_head and "lm_head.weight" not in names and _is_tied(checkpoint):
        embeddings = [
            n for n in names if re.search(r"(embed_tokens|wte|word_embeddings|embed_in)\.weight$", n)
        ]
        if embeddings:
            names["lm_head.weight"] = embeddings[0]
    return names


def _is_tied(checkpoint: Checkpoint) -> bool:
    tied = checkpoint.config.get("tie_word_embeddings")
    if tied is None:
        return "lm_head.weight" not in checkpoint.tensors
    return bool(tied)


def _modern(name: str) -> str:
    name = _OLD_NORM[0].sub(r"\1.weight", name)
    return _OLD_NORM[1].sub(r"\1.bias", name)


def _prefixes(names: Mapping[str, str]) -> list[str]:
    firsts = [name.split(".", 1)[0] + "." for name in names if "." in name]
    known = [p for p in _PREFIXES if any(name.startswith(p) for name in names)]
    return [*dict.fromkeys(firsts), *known][:12]
