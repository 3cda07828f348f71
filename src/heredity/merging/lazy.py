"""The result of a merge as an input of another one: computed as it is read, never written."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from heredity.checkpoint import Checkpoint
from heredity.header import TensorInfo
from heredity.readers import Reader

if TYPE_CHECKING:
    from heredity.merging.engine import Merge


class MergedCheckpoint(Checkpoint):
    """A prepared merge that reads like a checkpoint of float32 weights.

    Attributes:
        merge: what is carried out when a tensor is read.
    """

    def __init__(self, merge: "Merge", name: str, names: Mapping[str, str] | None = None) -> None:
        tensors = merge.plan.tensors
        names = {n: n for n in tensors} if names is None else names
        path = Path(f"<{name}>")
        infos = {new: _as_float32(tensors[own], own, path, new) for new, own in names.items()}
        super().__init__(path, infos, {**merge.target.donor.config, **merge.target.config}, name=name)
        self.merge, self._names = merge, dict(names)

    def __reduce__(self) -> tuple[Any, ...]:
        return MergedCheckpoint, (self.merge, self.name, self._names)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the merge reads."""
        found = {file for group in self.merge.plan.groups for c in group.inputs for file in c.files}
        return tuple(sorted(found))

    def own_name(self, name: str) -> str:
        """Return the name that a tensor of this view has in the merge."""
        return self._names[name]

    @contextmanager
    def reading(self, name: str) -> Iterator[Reader]:
        """Open one tensor of the result."""
        yield _Computed(self.merge, self._names[name], self.info(name).size)

    def renamed(self, names: Mapping[str, str]) -> "MergedCheckpoint":
        """Return a view with the tensors of `names` (new name → own name) and no others."""
        return MergedCheckpoint(self.merge, self.name, {new: self._names[own] for new, own in names.items()})


class _Computed:
    """Reads a tensor from its beginning to its end; a step back starts over."""

    dtype, item_bytes = "F32", 4

    def __init__(self, merge: "Merge", name: str, size: int) -> None:
        self.size = size
        self._merge, self._name = merge, name
        self._position, self._held = 0, np.empty(0, np.float32)
        self._blocks = merge.blocks(name)

    def read_raw(self, start: int, stop: int, buffer: ndarray) -> int:
        """Fill the head of `buffer` with float32 elements [start, stop)."""
        self.read(start, stop, buffer[: 4 * (stop - start)].view(np.float32))
        return 4 * (stop - start)

    def read(self, start: int, stop: int, out: ndarray | None = None) -> ndarray:
        """Return elements [start, stop)."""
        if not 0 <= start <= stop <= self.size:
            raise IndexError(f"elements {start}…{stop} of {self.size}")
        if start < self._position:
            self._blocks, self._position, self._held = (
                self._merge.blocks(self._name),
                0,
                np.empty(0, np.float32),
            )
        out = np.empty(stop - start, np.float32) if out is None else out
        done = 0
        while done < stop - start:
            end = self._position + len(self._held)
            wanted = start + done
            if wanted >= end:
                self._position, self._held = end, np.array(next(self._blocks))
                continue
            part = self._held[wanted - self._position : stop - self._position]
            out[done : done + len(part)] = part
            done += len(part)
        return out


def _as_float32(info: TensorInfo, own: str, path: Path, name: str) -> TensorInfo:
    size = int(np.prod(info.shape, dtype=np.int64))
    return replace(info, name=own, dtype="F32", file=path / name, start=0, stop=4 * size)
