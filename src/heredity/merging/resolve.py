"""From a recipe to a prepared merge: names become checkpoints, settings become a method for every tensor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from heredity.anatomy import kind_of
from heredity.checkpoint import Checkpoint
from heredity.errors import ConfigError, MismatchError
from heredity.family import plain
from heredity.kernels.decode import CODES
from heredity.merging._method import Method, file_fields, per_model_fields
from heredity.merging._open import adapted, adapter_on_base, location, open_input, tokenized
from heredity.merging.engine import Merge, Target
from heredity.merging.join import join_vocabularies
from heredity.merging.lazy import MergedCheckpoint
from heredity.merging.plan import Group, Plan, aligned, check_count
from heredity.merging.recipe import Recipe, Slice, Source
from heredity.merging.settings import Setting, evaluate, in_layer, layer_of
from heredity.merging.tokenizer_files import usual_template, with_template

_DEPTH_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def resolve(recipe: Recipe) -> Merge:
    """Open a recipe's models and plan its merge; headers only.

    Raises:
        ConfigError: a parameter has no value or an impossible one.
        CheckpointError: a model cannot be opened.
        MismatchError: the models do not fit together.
    """
    opened = _Models(recipe)
    notes = list(recipe.notes)
    config: dict[str, Any] = {}
    if any(source.layers is not None for entry in recipe.slices for source in entry.sources):
        groups, copied, config = _stack(recipe, opened, notes)
    else:
        groups, copied = _whole(recipe, opened, notes)
    donor = opened(recipe.donor or recipe.base or recipe.slices[0].sources[0].model)
    tokenizer: Path | None = None
    given = [c for group in groups for i in group.inputs for c in _all_stored(i)]
    if recipe.tokenizer is not None:
        groups, changed, tokenizer = join_vocabularies(groups, recipe.base, recipe.tokenizer, opened, notes)
        config |= changed
    if recipe.chat_template is not None:
        text = usual_template(given, notes) if recipe.chat_template == "auto" else recipe.chat_template
        tokenizer = with_template(tokenizer or tokenized(_stored(donor)), text, notes) if text else tokenizer
    target = Target(
        _stored(donor),
        recipe.dtype,
        config,
        tokenizer,
        opened.paths(),
        recipe.output == "adapter",
        recipe.rank,
    )
    plan = Plan(groups, copied, tuple(dict.fromkeys(notes)))
    return Merge(plan, target, recipe={"merge": recipe.record()}, seed=recipe.seed)


class _Models:
    """Opens each model of a recipe once; results of nested recipes are computed as they are read."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._open: dict[str, Checkpoint] = {}
        self._files: dict[str, str] = {}

    def __call__(self, name: str) -> Checkpoint:
        if name not in self._open:
            self._open[name] = self._opened(name)
        return self._open[name]

    def _opened(self, name: str) -> Checkpoint:
        recipe = self._recipe
        if name in recipe.nested:
            return MergedCheckpoint(resolve(recipe.nested[name]), name)
        pair = None if name in recipe.paths else adapter_on_base(name, recipe.root)
        if pair is None:
            return open_input(recipe.paths.get(name, name), recipe.root)
        base = self(pair[0])
        if isinstance(base, MergedCheckpoint):
            raise ConfigError(
                f"'{name}' puts an adapter on the result of a merge",
                "write that merge first, and name its folder",
            )
        return adapted(base, recipe.paths.get(pair[1], pair[1]), recipe.root)

    def file(self, name: str) -> str:
        """Return where a file that a parameter names lies."""
        path = self._recipe.paths.get(name, name)
        self._files[name] = str((self._recipe.root / path).absolute())
        return self._files[name]

    def paths(self) -> dict[str, str]:
        """Return where the models and files of the recipe were found, by their names in it."""
        found = dict(self._files)
        for name, checkpoint in self._open.items():
            if isinstance(checkpoint, MergedCheckpoint):
                found |= checkpoint.merge.target.models
            else:
                found[name] = location(checkpoint)
        return found


def _all_stored(checkpoint: Checkpoint) -> list[Checkpoint]:
    return (
        list(checkpoint.merge.checkpoints.values())
        if isinstance(checkpoint, MergedCheckpoint)
        else [checkpoint]
    )


def _stored(checkpoint: Checkpoint) -> Checkpoint:
    return checkpoint.merge.target.donor if isinstance(checkpoint, MergedCheckpoint) else checkpoint


def ordered_sources(recipe: Recipe, entry: Slice) -> tuple[list[Source], bool]:
    """Return a slice's sources with the base first, and whether there is one."""
    sources, base = list(entry.sources), entry.base or recipe.base
    kind = recipe.kind
    if kind.inputs.base == "first" and base is None:
        base = sources[0].model
    if kind.inputs.base == "required" and base is None:
        raise ConfigError(f"{recipe.method} works on differences from a base, and none is named", "base = …")
    if kind.inputs.base == "ignored" or base is None:
        check_count(kind, len(sources), based=False)
        return sources, False
    listed = [source for source in sources if source.model == base]
    first = listed[0] if listed else Source(model=base, layers=sources[0].layers)
    others = [source for source in sources if source.model != base]
    check_count(kind, len(others), based=True)
    return [first, *others], True


def _whole(recipe: Recipe, opened: _Models, notes: list[str]) -> tuple[tuple[Group, ...], dict[str, int]]:
    (entry,) = recipe.slices
    sources, based = ordered_sources(recipe, entry)
    models = [opened(source.model) for source in sources]
    inputs = aligned(models, notes, join=recipe.tokenizer is not None)
    depth: dict[str, int] = {}
    for name in inputs[0].tensors:
        if (place := layer_of(name)) is not None:
            depth[place[0]] = max(depth.get(place[0], 0), place[1] + 1)
    choose = _Chooser(recipe, opened, entry, sources, based)
    methods: dict[str, Method] = {}
    copied: dict[str, int] = {}
    for name, info in inputs[0].tensors.items():
        if info.dtype not in CODES:
            copied[name] = 0
            continue
        place = layer_of(name)
        position = 0.0 if place is None else _position(place[1], depth[place[0]])
        methods[name] = choose(name, [name] * len(sources), position)
    return (Group(inputs, based, methods),), copied


def _stack(
    recipe: Recipe, opened: _Models, notes: list[str]
) -> tuple[tuple[Group, ...], dict[str, int], dict[str, Any]]:
    """Stack slices of layers: embeddings come from the first slice, final norm and head from the last."""
    groups: list[Group] = []
    copied: dict[str, int] = {}
    offset = 0
    types: list[Any] = []
    for index, entry in enumerate(recipe.slices):
        sources, based = ordered_sources(recipe, entry)
        spans = [source.layers or (0, 0) for source in sources]
        count = spans[0][1] - spans[0][0]
        if count <= 0 or any(last - first != count for first, last in spans):
            raise ConfigError(
                f"slice {index}: its sources have {spans} layers", "all must have the same number, at least 1"
            )
        models = [opened(source.model) for source in sources]
        views, places = [], {}
        for source, model, (first, _) in zip(sources, models, spans, strict=True):
            names = _slice_names(model, first, count, offset, index == 0, index == len(recipe.slices) - 1)
            found = {place[1] for name in names if (place := layer_of(name)) is not None}
            if not set(range(offset, offset + count)) <= found:
                raise MismatchError(
                    f"{model.path}: does not have all layers from {first} to {first + count - 1}",
                    "check layer ranges",
                )
            views.append(model.renamed(names))
            places[source.model] = names
        inputs = aligned(views, notes)
        choose = _Chooser(recipe, opened, entry, sources, based)
        methods: dict[str, Method] = {}
        for name, info in inputs[0].tensors.items():
            if info.dtype not in CODES:
                copied[name] = index
                continue
            place = layer_of(name)
            position = 0.0 if place is None else _position(place[1] - offset, count)
            methods[name] = choose(name, [places[s.model].get(name, name) for s in sources], position)
        groups.append(Group(inputs, based, methods))
        kinds = models[0].config.get("layer_types")
        types += list(kinds[spans[0][0] : spans[0][1]]) if isinstance(kinds, list) else []
        offset += count
    keys = [key for key in _DEPTH_KEYS if key in opened(recipe.slices[0].sources[0].model).config]
    return tuple(groups), copied, dict.fromkeys(keys, offset) | ({"layer_types": types} if types else {})


def _slice_names(
    model: Checkpoint, first: int, count: int, offset: int, is_first: bool, is_last: bool
) -> dict[str, str]:
    """Return name in the result → own name, for a slice's layers and what lies around all layers."""
    stacks: dict[str, int] = {}
    for name in model.tensors:
        if (place := layer_of(name)) is not None:
            stacks[place[0]] = stacks.get(place[0], 0) + 1
    main = max(stacks, key=lambda stack: stacks[stack], default="")
    names: dict[str, str] = {}
    for name in model.tensors:
        place = layer_of(name)
        if place is not None and place[0] == main:
            if first <= place[1] < first + count:
                names[in_layer(name, offset + place[1] - first)] = name
        elif (is_first and kind_of(name) == "embedding") or (is_last and kind_of(name) != "embedding"):
            names[name] = name
    return names


def _position(layer: int, count: int) -> float:
    return layer / (count - 1) if count > 1 else 1.0


class _Chooser:
    """Makes the method for a tensor: parameters are looked up for the model, the slice, the recipe."""

    def __init__(
        self, recipe: Recipe, opened: _Models, entry: Slice, sources: Sequence[Source], based: bool
    ) -> None:
        self._kind, self._recipe, self._opened, self._entry = recipe.kind, recipe, opened, entry
        self._sources = sources[1:] if based else sources
        self._skip = len(sources) - len(self._sources)
        self._per_model, self._files = per_model_fields(self._kind), file_fields(self._kind)
        self._made: dict[tuple[Any, ...], Method] = {}

    def __call__(self, name: str, own_names: Sequence[str], position: float) -> Method:
        outer = (self._entry.parameters, self._recipe.parameters)
        values: dict[str, Any] = {}
        for key in self._kind.__struct_encode_fields__:
            if key in self._per_model:
                found = [
                    _look_up(key, (source.parameters, *outer), own, position)
                    for source, own in zip(self._sources, own_names[self._skip :], strict=True)
                ]
                if any(value is not None for value in found):
                    default = _default(self._kind, key)
                    given = [default if value is None else value for value in found]
                    files = key in self._files
                    values[key] = tuple(self._opened.file(v) if files and v else v for v in given)
            elif (value := _look_up(key, outer, name, position)) is not None:
                values[key] = value
        mark = tuple(sorted(values.items()))
        if mark not in self._made:
            try:
                self._made[mark] = msgspec.convert(values, self._kind, strict=False)
            except msgspec.ValidationError as error:
                raise ConfigError(
                    f"{self._recipe.method}: {plain(error)}, for {name}", "heredity methods"
                ) from None
        return self._made[mark]


def _look_up(key: str, scopes: Sequence[Mapping[str, Setting]], name: str, position: float) -> Any:
    for scope in scopes:
        if key in scope and (value := evaluate(scope[key], name, position)) is not None:
            return value
    return None


def _default(kind: type[Method], key: str) -> Any:
    field = kind.__struct_fields__[kind.__struct_encode_fields__.index(key)]
    return next(f.default for f in msgspec.structs.fields(kind) if f.name == field)
