"""A Gram matrix on disk: one safetensors file with the state of its inputs; a journal while it is made."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heredity.atomic import writing
from heredity.checkpoint import Checkpoint
from heredity.digests import FileState, states
from heredity.errors import CheckpointError, naming_full_disk
from heredity.gram import ElementCounts, Gram, TensorGram
from heredity.header import read_header
from heredity.writer import Planned, Shard, header_bytes

SCHEMA = 1
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
    ) -> None:
        self._path, self._members, self._reference = path, members, reference
        self._models = dict(zip((reference, *members), models, strict=True))
        self._inputs: Inputs = {"options": dict(options), "files": {}}
        if path is not None:
            self._inputs["files"] = self._states()

    def finished(self) -> Gram | None:
        """Return the Gram that is already there for these inputs (with more members, perhaps), or None."""
        if self._path is None or not self._path.exists():
            return None
        gram, inputs = load(self._path)
        if (
            inputs is None
            or inputs["options"] != self._inputs["options"]
            or gram.reference != self._reference
        ):
            return None
        if not all(m in gram.members for m in self._members) or not all(
            self._unchanged(name, inputs) for name in (self._reference, *self._members)
        ):
            return None
        return gram if gram.members == self._members else gram.select(self._members)

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
            n: [{**s, "sha256": ""} for s in files] for n, files in self._inputs["files"].items()
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _journal(self) -> Path:
        assert self._path is not None
        return self._path.with_name(f".{self._path.name}.journal")


def _same(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> bool:
    pairs = zip(before, now, strict=False)
    return len(before) == len(now) and all(FileState(**a).same_as(FileState(**b)) for a, b in pairs)
