"""What a merge will do, from headers only."""

import shutil
from pathlib import Path
from typing import Any

from heredity.kernels.decode import CODES
from heredity.merging._blocks import BLOCK
from heredity.merging._discovery import name_of
from heredity.merging._method import DataMethod, ElementMethod, SpanMethod
from heredity.merging._sparse import SparseMethod
from heredity.merging.data import statistics_files
from heredity.merging.engine import Merge
from heredity.merging.output import planned_tensors
from heredity.merging.recipe import Recipe
from heredity.merging.settings import matched_filters


def plan_summary(merge: Merge, recipe: Recipe | None, out: Path | None = None) -> dict[str, Any]:
    """Return what a merge will do, from headers only: sizes, passes, memory, filters.

    Raises:
        ConfigError: a method that needs statistics has not one file for each model.
        StoreError: one of these files is missing.
    """
    planned = planned_tensors(merge.plan, merge.target.dtype)
    methods = {type(method) for group in merge.plan.groups for method in group.methods.values()}
    passes, memory = 1, 0
    for group in merge.plan.groups:
        for method in group.methods.values():
            passes = max(passes, _passes(method))
        largest = max((group.inputs[0].info(n).size for n in group.methods), default=0)
        whole = any(issubclass(m, DataMethod) for m in methods)
        block = largest if whole else min(largest, BLOCK)
        memory = max(memory, (len(group.inputs) + 2) * 4 * block)
    folder = Path(out) if out is not None else Path.cwd()
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return {
        "methods": sorted(name_of(method) for method in methods),
        "models": list(merge.checkpoints),
        "tensors": len(planned),
        "copied": len(merge.plan.copied),
        "elements": sum(merge.plan.tensors[n].size for n in merge.plan.weights),
        "read_bytes": passes * sum(f.stat().st_size for c in merge.checkpoints.values() for f in c.files),
        "write_bytes": sum(tensor.nbytes for tensor in planned),
        "passes": passes,
        "buffer_bytes": memory,
        "free_bytes": shutil.disk_usage(there).free,
        "donor": merge.target.donor.name,
        "dtypes": sorted({tensor.dtype for tensor in planned if tensor.dtype in CODES}),
        "statistics": [str(file) for file in statistics_files(merge.plan)],
        "filters": {} if recipe is None else _filters(merge, recipe),
        "notes": list(merge.plan.notes),
    }


def lerp_tensors(merge: Merge) -> list[str]:
    """Return the tensors in which a spherical method falls back to lerp; reads all inputs once."""
    return [name for name in merge.plan.weights if merge.is_lerp(name)]


def _passes(method: Any) -> int:
    """Return how often a method reads its inputs."""
    if isinstance(method, SpanMethod):
        return 2 if method.needs_gram else 1
    if isinstance(method, SparseMethod):
        bands = 2 if type(method).__name__ in ("Ties", "Breadcrumbs", "BreadcrumbsTies") else 0
        return 1 + bands + int(method.rescale)
    return 2 if isinstance(method, ElementMethod) else 1


def _filters(merge: Merge, recipe: Recipe) -> dict[str, dict[str, int]]:
    scopes = [recipe.parameters, *(s.parameters for s in recipe.slices)]
    scopes += [source.parameters for entry in recipe.slices for source in entry.sources]
    found: dict[str, dict[str, int]] = {}
    for scope in scopes:
        for key, setting in scope.items():
            for wanted, count in matched_filters(setting, merge.plan.weights).items():
                found.setdefault(key, {})[wanted] = count
    return found
