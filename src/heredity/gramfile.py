"""A Gram matrix on disk: one safetensors file with the state of its inputs; a journal while it is made."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heredity.atomic import writing
from heredity.checkpoint import Checkpoint
from heredity.coverage import Coverage, Source
from heredity.digests import FileState, states
from heredity.errors import CheckpointError, naming_full_disk
from heredity.gram import ElementCounts, Gram, TensorGram
from heredity.header import read_header
from heredity.writer import Planned, Shard, header_bytes

SCHEMA = 2
_PARTS = ("products", "sums", "unchanged", "both", "agree")
Inputs = dict[str, Any]


def save(gram: Gram, path: Path, inputs: Inputs | None = None) -> Path:
    """Write a Gram as one file, whole or not at all."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in gram.tensors.items():
        arrays[f"products/{name}"], arrays[f"sums/{name}"] = tensor.products, tensor.sums
    for name, counts in gram.elements.items():
        for part in _PARTS[2:]:
            arrays[f"{part}/{name}"] = getattr(counts, part)
    facts = {
        "schema": SCHEMA, "reference": gram.reference, "members": gram.members, "dtypes": gram.dtypes,
        "left_out": gram.left_out, "inputs": inputs,
        "tensors": {name: [list(t.shape), t.size] for name, t in gram.tensors.items()},
    }  # fmt: skip
    planned = [
        Planned(name, "F64" if a.dtype == np.float64 else "I64", a.shape) for name, a in arrays.items()
    ]
    head = header_bytes(Shard(path.name, tuple(planned)), {"heredity_gram": json.dumps(facts)})
    with writing(path) as file:
        file.write(head)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())
    return path


def load(path: Path) -> tuple[Gram, Inputs | None]:
    """Read a Gram and the state of the inputs it was made of.

    Raises:
        CheckpointError: missing, damaged, or not a Gram.
    """
    infos, metadata = read_header(path)
    try:
        facts = json.loads(metadata["heredity_gram"])
        if facts["schema"] != SCHEMA:
            raise CheckpointError(
                f"{path}: schema {facts['schema']}, not {SCHEMA}", "measure the family again"
            )
        data = path.read_bytes()
        arrays = {
            name: np.frombuffer(data, np.float64 if i.dtype == "F64" else np.int64, i.size, i.start).reshape(
                i.shape
            )
            for name, i in infos.items()
        }
        members = tuple(facts["members"])
        tensors = {
            name: TensorGram(
                name=name, shape=tuple(shape), size=size, members=members,
                products=arrays[f"products/{name}"], sums=arrays[f"sums/{name}"],
            )
            for name, (shape, size) in facts["tensors"].items()
        }  # fmt: skip
        elements = {
            name: ElementCounts(**{part: arrays[f"{part}/{name}"] for part in _PARTS[2:]})
            for name in tensors
            if f"both/{name}" in arrays
        }
        gram = Gram(
            reference=facts["reference"], members=members, tensors=tensors, elements=elements,
            dtypes=facts["dtypes"], left_out=facts["left_out"],
        )  # fmt: skip
        return gram, facts["inputs"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a Gram matrix ({error!r})", "delete it and measure the family again"
        ) from None


@dataclass(frozen=True)
class Known:
    """What a stored Gram tells of some of the members, whose files are as they were.

    Attributes:
        gram: of those members.
        tensors: the tensors that these members take from the same places now as then.
    """

    gram: Gram
    tensors: frozenset[str]

    @property
    def members(self) -> frozenset[str]:
        """Who is known."""
        return frozenset(self.gram.members)

    def part(self, name: str) -> tuple[TensorGram, ElementCounts | None] | None:
        """Return one tensor's Gram among the known members, or None."""
        return (self.gram.tensors[name], self.gram.elements.get(name)) if name in self.tensors else None


class Keeper:
    """Keeps a Gram beside the family: finished, or tensor by tensor while it is being made.

    With no path it keeps nothing.
    """

    def __init__(
        self,
        path: Path | None,
        reference: str,
        members: tuple[str, ...],
        models: Sequence[Checkpoint],
        options: Mapping[str, Any],
        coverage: Coverage,
    ) -> None:
        self._path, self._members, self._reference, self._coverage = path, members, reference, coverage
        self._models = dict(zip((reference, *members), models, strict=True))
        self._inputs: Inputs = {"options": dict(options), "files": {}, "sources": self._sources()}
        if path is not None:
            self._inputs["files"] = self._states()

    def finished(self) -> Gram | None:
        """Return the Gram that is already there for these members and inputs, or None."""
        gram, inputs = self._stored()
        if gram is None or sorted(gram.members) != sorted(self._members):
            return None
        if not all(self._unchanged(name, inputs) for name in self._models):
            return None
        return gram if gram.members == self._members else gram.select(self._members)

    def known(self) -> Known | None:
        """Return what the Gram that is there tells of members whose inputs are as they were, or None."""
        gram, inputs = self._stored()
        if gram is None or "sources" not in inputs or not self._unchanged(self._reference, inputs):
            return None
        members = [m for m in self._members if m in gram.members and self._unchanged(m, inputs)]
        if not members:
            return None
        then, now = inputs["sources"], self._inputs["sources"]
        same = [
            t.name
            for t in self._coverage.tensors
            if t.name in gram.tensors
            and gram.tensors[t.name].shape == t.shape
            and all(
                then.get(t.name, {}).get(m) == now.get(t.name, {}).get(m) for m in (self._reference, *members)
            )
        ]
        return Known(gram.select(members), frozenset(same))

    def resumed(self) -> dict[str, tuple[TensorGram, ElementCounts | None]]:
        """Return the tensors that an interrupted run of the same job measured, and start the journal."""
        if self._path is None:
            return {}
        journal, key = self._journal(), self._key()
        found: dict[str, tuple[TensorGram, ElementCounts | None]] = {}
        lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
        if lines and lines[0] == key + "\n":
            for line in lines[1:]:
                if line.endswith("\n"):  # the last line may have been cut short
                    entry = json.loads(line)
                    found[entry["name"]] = self._entry(entry)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with writing(journal) as file:
            file.write((key + "\n").encode())
            file.write("".join(line for line in lines[1:] if found and line.endswith("\n")).encode())
        return found

    def keep(self, name: str, gram: TensorGram, counts: ElementCounts | None) -> None:
        """Add a measured tensor to the journal."""
        if self._path is None:
            return
        arrays = {"products": gram.products, "sums": gram.sums}
        if counts is not None:
            arrays |= {part: getattr(counts, part) for part in _PARTS[2:]}
        entry = {"name": name, "shape": gram.shape, "size": gram.size}
        entry |= {part: [list(a.shape), base64.b64encode(a.tobytes()).decode()] for part, a in arrays.items()}
        journal = self._journal()
        with naming_full_disk(journal), journal.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def finish(self, gram: Gram) -> None:
        """Write the whole and drop the journal.

        Raises:
            CheckpointError: an input changed while it was measured.
        """
        if self._path is None:
            return
        now = self._states()
        for name, before in self._inputs["files"].items():
            if not _same(before, now[name]):
                raise CheckpointError(
                    f"{self._models[name].path}: changed while it was measured", "run again"
                )
        save(gram, self._path, self._inputs)
        self._journal().unlink(missing_ok=True)

    def _stored(self) -> tuple[Gram, Inputs] | tuple[None, Inputs]:
        if self._path is None or not self._path.exists():
            return None, {}
        gram, inputs = load(self._path)
        if (
            inputs is None
            or inputs["options"] != self._inputs["options"]
            or gram.reference != self._reference
        ):
            return None, {}
        return gram, inputs

    def _sources(self) -> dict[str, dict[str, str]]:
        """Return tensor → model → where it takes the tensor from, unless it is the whole one of that name."""
        found: dict[str, dict[str, str]] = {}
        for tensor in self._coverage.tensors:
            for model, source in zip((self._reference, *self._members), tensor.sources, strict=True):
                place = _place(source)
                if place != tensor.name:
                    found.setdefault(tensor.name, {})[model] = place
        return found

    def _unchanged(self, name: str, inputs: Inputs) -> bool:
        return _same(inputs["files"].get(name, []), self._inputs["files"][name])

    def _states(self) -> dict[str, list[dict[str, Any]]]:
        return {name: [vars(s) for s in states(model)] for name, model in self._models.items()}

    def _entry(self, entry: Mapping[str, Any]) -> tuple[TensorGram, ElementCounts | None]:
        def array(part: str, dtype: type) -> NDArray[Any]:
            shape, text = entry[part]
            return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)

        gram = TensorGram(
            name=entry["name"], shape=tuple(entry["shape"]), size=entry["size"], members=self._members,
            products=array("products", np.float64), sums=array("sums", np.float64),
        )  # fmt: skip
        if "both" not in entry:
            return gram, None
        return gram, ElementCounts(**{part: array(part, np.int64) for part in _PARTS[2:]})

    def _key(self) -> str:
        facts = {"schema": SCHEMA, "reference": self._reference, "members": self._members, **self._inputs}
        facts["files"] = {
            n: [{**s, "digest": ""} for s in files] for n, files in self._inputs["files"].items()
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _journal(self) -> Path:
        assert self._path is not None
        return self._path.with_name(f".{self._path.name}.journal")


def _place(source: Source) -> str:
    if source.rows is None:
        return source.name
    return f"{source.name}[{hashlib.sha256(np.ascontiguousarray(source.rows).tobytes()).hexdigest()}]"


def _same(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> bool:
    pairs = zip(before, now, strict=False)
    return len(before) == len(now) and all(FileState(**a).same_as(FileState(**b)) for a, b in pairs)
