"""The ground: a family over one live model, into which any place is poured and measured, once.

    ground = Ground.open(Family.load("family.toml"), metrics=[Generalised(task)], folder=Path("runs/region"))
    table = ground.measure([at("middle", ("a", "b"), [0.5, 0.5])])

Only the tensors that some member moved are poured: the model already holds the others. Scores are kept by
(place, data, metric), so that nothing is measured twice, not even by the next run in the same folder.
"""

import time
from collections.abc import Callable, Container, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from heredity.checkpoint import Checkpoint
from heredity.coverage import match_names
from heredity.digests import sha256_of
from heredity.errors import CheckpointError, ConfigError, MismatchError
from heredity.family import Family
from heredity.gram import Gram
from heredity.jsonfile import read_table
from heredity.models.classifier import load_encoder
from heredity.models.finetune import is_lm
from heredity.models.load import load, torch
from heredity.models.pour import pour
from heredity.point import Point
from heredity.regions.evaluations import Evaluations, Measured, Score
from heredity.regions.metrics import Metric, lost, measured
from heredity.regions.place import Direction, Place, at
from heredity.regions.workers import GroundPlan, Workers
from heredity.seeds import generator

Kind = Literal["encoder", "lm"]


class Ground:
    """A family, one live model of its architecture, and what was measured.

    Attributes:
        names: members, the base among them, in the family's order.
        base: name of the base; where there is none, the first member stands in and `has_base` is False.
        has_base: whether the family has a base.
        model: the live model; overwritten.
        checkpoints: members by name, with the live model's names of tensors.
        gram: inner products of the task vectors over all tensors of the live model.
        moved: names of the tensors that some member moved.
        evaluations: what was measured.
    """

    def __init__(
        self, checkpoints: Mapping[str, Checkpoint], model: Any, gram: Gram, *, base: str, has_base: bool,
        evaluations: Evaluations,
    ) -> None:  # fmt: skip
        self.checkpoints, self.model, self.gram = dict(checkpoints), model, gram
        self.names, self.base, self.has_base = tuple(checkpoints), base, has_base
        self.evaluations = evaluations
        self.moved = tuple(
            n for n, t in gram.tensors.items() if float(np.diagonal(t.deltas).max(initial=0)) > 0
        )
        self.workers: Workers | None = None
        self._total = gram.total()["all"].deltas
        self._identities: dict[str, str] = {}
        self._digests: dict[int, tuple[Metric, str]] = {}  # hashing the data once for each metric is enough
        self._whole = True  # what no member moved is as the base has it

    @classmethod
    def open(
        cls,
        family: Family,
        *,
        kind: Kind,
        folder: Path | None = None,
        members: Sequence[str] | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        jobs: int = 1,
        threads: int | None = None,
    ) -> "Ground":
        """Open a family.

        Args:
            family: base and members of one architecture.
            kind: "encoder" (without a head) or "lm".
            folder: where the Gram matrix and the scores are kept; None keeps nothing.
            members: names to open; all by default. The base is always opened.
            device: torch device of the live model.
            dtype: of its weights.
            jobs: processes that measure at once; close the ground when it is no longer needed.
            threads: of torch in each of them; by default they share this one's.

        Raises:
            MismatchError: a member lacks a tensor of the model, has it in another shape, or has other tokens.
            CheckpointError: a member cannot be opened, or holds NaN or infinity.
            ConfigError: a language model is asked for, and the base is none.
        """
        chosen = [m.name for m in family.members if members is None or m.name in members]
        base = family.base.name if family.base else chosen[0]
        names = list(dict.fromkeys([base, *chosen]))
        opened = {name: family.checkpoint(name) for name in names}
        source = opened[base].path
        if kind == "lm" and opened[base].config.get("architectures") and not is_lm(opened[base]):
            raise ConfigError(f"{source}: is not a causal language model", "measure it on labelled texts")
        for name in names:
            _same_tokens(name, opened[name].path, source)
        model = load_encoder(source, device=device, dtype=dtype) if kind == "encoder" else load(
            source, device=device, dtype=dtype
        )  # fmt: skip
        wanted = _tensor_names(model)
        views = {name: _view(name, checkpoint, wanted, model) for name, checkpoint in opened.items()}
        if len(views) > 1:
            gram = gram_of(views, base, None if folder is None else folder / "gram.safetensors")
        else:
            raise ConfigError(
                f"family {family.name} has one member ({base})", "ground lies between two models or more"
            )
        evaluations = Evaluations(None if folder is None else folder / "evaluations.jsonl")
        ground = cls(views, model, gram, base=base, has_base=family.base is not None, evaluations=evaluations)
        if jobs > 1:
            plan = GroundPlan(
                name=family.name, members=family.members, root=str(family.root.absolute()), kind=kind,
                folder=None if folder is None else str(folder.absolute()),
                chosen=None if members is None else tuple(members), device=device, dtype=dtype,
                threads=threads or max(1, torch.get_num_threads() // jobs),
            )  # fmt: skip
            ground.workers = Workers(plan, jobs)
        return ground

    def close(self) -> None:
        """End the processes that measured along, if there were any."""
        if self.workers is not None:
            self.workers.close()

    @property
    def members(self) -> tuple[str, ...]:
        """Names without the base, if there is one."""
        return tuple(name for name in self.names if not (self.has_base and name == self.base))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors of the live model."""
        return tuple(self.checkpoints[self.base].tensors)

    def member(self, name: str) -> Place:
        """Return the place of a member."""
        return at(name, [name], [1.0])

    def products(self, names: Sequence[str]) -> Float64[np.ndarray, "n n"]:
        """Return the inner products of task vectors from the base, whose own is zero.

        Raises:
            ConfigError: no such member.
        """
        every = (self.base, *self.gram.members)
        for name in names:
            if name not in every:
                raise ConfigError(f"{name!r} is not a member", f"members: {', '.join(every)}")
        rows = [every.index(name) for name in names]
        padded = np.pad(self._total, ((1, 0), (1, 0)))
        return np.asarray(padded[np.ix_(rows, rows)])

    def norms(self, names: Sequence[str] | None = None) -> Float64[np.ndarray, " n"]:
        """Return the norms of task vectors, of all members by default."""
        diagonal = np.diagonal(self.products(self.members if names is None else names))
        return np.sqrt(np.maximum(diagonal, 0.0))

    def measure(
        self,
        places: Sequence[Place],
        metrics: Sequence[Metric],
        *,
        say: Callable[[str], None] = lambda _: None,
    ) -> Measured:
        """Measure every place by every metric, what is not known yet.

        Raises:
            ConfigError: two places, or two sets of data, have one name.
        """
        data = tuple(name for metric in metrics for name in metric.data)
        for names, what in (([place.name for place in places], "places"), (data, "sets of data")):
            twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
            if twice is not None:
                raise ConfigError(f"two {what} have one name: {twice}", "names must differ")
        self.ahead([(place, metrics) for place in places], say=say)
        rows = []
        for number, place in enumerate(places):
            rows.append(tuple(score for found in self.score(place, metrics) for score in found))
            if self.workers is None:
                say(f"{place.name} ({number + 1} of {len(places)})")
        return Measured(places=tuple(place.name for place in places), data=data, scores=tuple(rows))

    def ahead(
        self, items: Sequence[tuple[Place, Sequence[Metric]]], *, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Measure what is not known of several places at once, if there are processes to do it."""
        if self.workers is None:
            return
        wanted: dict[tuple[str, ...], tuple[Place, Sequence[Metric]]] = {}
        for place, metrics in items:
            every = self._keys(place, metrics)
            missing = [n for n, key in enumerate(every) if key not in self.evaluations]
            if missing:
                wanted[tuple(every[n] for n in missing)] = (place, [metrics[n] for n in missing])
        done = self.workers.scores(list(wanted.values()))
        for number, (keys, (scores, seconds)) in enumerate(zip(wanted, done, strict=True)):
            for key, found in zip(keys, scores, strict=True):
                self.evaluations.learn(key, found, seconds=seconds / len(keys))
            say(f"{wanted[keys][0].name} ({number + 1} of {len(wanted)})")

    def score(self, place: Place, metrics: Sequence[Metric]) -> list[list[Score]]:
        """Return the scores of one place by each metric; what is known is not measured again."""
        keys = self._keys(place, metrics)
        trouble: str | None = None
        poured = False
        for metric, name in zip(metrics, keys, strict=True):
            if name in self.evaluations:
                continue
            start = time.perf_counter()
            if not poured:
                trouble, poured = self.pour(place), True
            found = lost(metric, trouble) if trouble else measured(metric, self.model, place)
            self.evaluations.add(name, found, seconds=time.perf_counter() - start)
        return [self.evaluations[name] for name in keys]

    def _keys(self, place: Place, metrics: Sequence[Metric]) -> list[str]:
        digest = place.digest(self.identities(place.point.members))
        found = []
        for metric in metrics:
            if id(metric) not in self._digests:
                self._digests[id(metric)] = (metric, metric.digest)
            found.append(sha256(f"{digest} {self._digests[id(metric)][1]}".encode()).hexdigest()[:32])
        return found

    def pour(self, place: Place) -> str | None:
        """Make the live model the model of a place; return what is not finite in it, or None."""
        affine = _is_affine(place.point)
        only = frozenset(self.moved) if affine and self._whole else None
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found and named below
            pour(place.point, self.checkpoints, self.model, only=only)
            self._whole = affine
            if place.direction is not None:
                self._step(place.direction)
        changed = only or frozenset(self.checkpoints[self.base].tensors)
        return self._not_finite(changed)

    def identities(self, members: Sequence[str]) -> dict[str, str]:
        """Return a digest of each member's weights; files are read once at most."""
        for name in members:
            if name not in self._identities:
                checkpoint = self.checkpoints[name]
                files = [*checkpoint.files, *sorted(checkpoint.path.glob("adapter_config.json"))]
                self._identities[name] = sha256(" ".join(map(sha256_of, files)).encode()).hexdigest()
        return self._identities

    def _not_finite(self, changed: Container[str]) -> str | None:
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                # a finite sum has finite terms, and costs a fraction of looking at each
                doubtful = name in changed and not bool(torch.isfinite(parameter.sum(dtype=torch.float32)))
                if doubtful and not bool(torch.isfinite(parameter).all()):
                    return f"weights of {name} are not finite"
        return None

    def _step(self, direction: Direction) -> None:
        shapes = {name: self.checkpoints[self.base].info(name).shape for name in self.moved}
        square = sum(_xavier(shape) ** 2 * float(np.prod(shape)) for shape in shapes.values())
        factor = direction.length / np.sqrt(square)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name not in shapes:
                    continue
                size = int(np.prod(shapes[name], dtype=np.int64))
                rng = generator(direction.seed, "direction", direction.name, name)
                draws = rng.standard_normal(size, np.float32)
                # each tensor has its expected norm exactly: the whole has `length`
                scale = (
                    factor * _xavier(shapes[name]) * np.sqrt(size) / np.linalg.norm(draws.astype(np.float64))
                )
                noise = torch.from_numpy(draws * np.float32(scale)).view(parameter.shape)
                parameter.add_(noise.to(parameter.device, parameter.dtype))


def gram_of(
    views: Mapping[str, Checkpoint], base: str, store: Path | None, *, include_head: bool = True
) -> Gram:
    """Return the Gram matrix of a family, from `store` where it has one; one that cannot be read is made anew.

    Raises:
        CheckpointError: a member cannot be read, or is not finite.
    """

    def compute() -> Gram:
        members = [n for n in views if n != base]
        return Gram.compute(views, reference=base, members=members, include_head=include_head, store=store)

    try:
        return compute()
    except CheckpointError as error:
        if "allow-nonfinite" in error.hint:  # an option of the map, which can do without a tensor
            raise CheckpointError(error.message, "leave the model out of the family") from None
        if store is None or str(store) not in error.message or not store.exists():
            raise
        store.unlink()  # of another version, or damaged: it is kept to save time, and measured again
        return compute()


def _same_tokens(member: str, folder: Path, base: Path) -> None:
    """Refuse a member whose tokenizer numbers the words in another way than the base's, where both have one."""
    files = [place / "tokenizer.json" for place in (folder, base)]
    if not all(file.is_file() for file in files) or files[0].read_bytes() == files[1].read_bytes():
        return
    theirs, ours = (read_table(file).get("model", {}).get("vocab") for file in files)
    if theirs != ours:
        raise MismatchError(
            f"{files[0]}: member {member} numbers its tokens in another way than {files[1]}",
            "all members must have the base's tokenizer",
        )


def _xavier(shape: tuple[int, ...]) -> float:
    """Standard deviation by Glorot & Bengio 2010; a vector counts as a matrix of one column."""
    rows, columns = (*shape, 1, 1)[:2]
    return float(np.sqrt(2 / (rows + columns)))


def _is_affine(point: Point) -> bool:
    rows = point.coefficients.values() if isinstance(point.coefficients, dict) else [point.coefficients]
    return all(abs(float(row.sum()) - 1) < 1e-9 for row in rows)


def _tensor_names(model: Any) -> list[str]:
    """Return the names of a live model's tensors, each storage once, under its first name."""
    return [name for name, _ in model.named_parameters()]


def _view(member: str, checkpoint: Checkpoint, wanted: Sequence[str], model: Any) -> Checkpoint:
    names = match_names(list(wanted), list(checkpoint.tensors))
    missing = [name for name in wanted if name not in names]
    if missing:
        raise MismatchError(
            f"{checkpoint.path}: member {member} lacks {missing[0]} (and {len(missing) - 1} more tensors)",
            "all members must have the base's architecture",
        )
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name in wanted:
        if checkpoint.info(names[name]).shape != shapes[name]:
            theirs, own = list(checkpoint.info(names[name]).shape), list(shapes[name])
            raise MismatchError(
                f"{checkpoint.path}: {names[name]} is {theirs}, the base has {own}",
                "all members must have the base's architecture and vocabulary",
            )
    return checkpoint.renamed(names)
