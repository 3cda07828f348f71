"""What `heredity harvest --input-gram` and `--fisher` do."""

from pathlib import Path
from typing import Any, Literal

from heredity.cli import _options
from heredity.cli._mapping import size_in_bytes


def harvest(
    model: Path, data: str, out: Path, *, input_gram: bool, fisher: bool, labels: Literal["model", "data"],
    domains: tuple[str, ...], context: int | None, max_tokens: int | None, max_memory: str, device: str,
    dtype: str, seed: int, resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write a statistics file and say what it holds."""
    from tqdm import tqdm

    from heredity.checkpoint import Checkpoint
    from heredity.models.collect import collect
    from heredity.models.contexts import read_contexts
    from heredity.statistics import Statistics

    allowed = size_in_bytes(max_memory)
    architectures = Checkpoint.open(model).config.get("architectures") or [""]
    encoder = not str(architectures[0]).endswith(("ForCausalLM", "LMHeadModel"))
    contexts = read_contexts(
        data, model, context=context, domains=domains, max_tokens=max_tokens, wrapped=encoder
    )
    with tqdm(unit="token", unit_scale=True, disable=not _options.progress(quiet)) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        collect(
            model, contexts, out, input_gram=input_gram, fisher=fisher, labels=labels, seed=seed,
            device=device, dtype=dtype, max_bytes=allowed, resume=resume, overwrite=overwrite, progress=tell,
        )  # fmt: skip
    made = Statistics.open(out)
    found: dict[str, Any] = {
        "out": str(out), "bytes": out.stat().st_size, "tokens": contexts.blocks.size,
        "sequences": len(contexts.blocks), "input_grams": len(made.input_gram_tensors),
        "fisher": len(made.fisher_tensors),
    }  # fmt: skip
    what = [f"inputs of {found['input_grams']} layers"] if input_gram else []
    what += [f"Fisher information of {found['fisher']} tensors"] if fisher else []
    line = f"{out}: {' and '.join(what)} over {found['tokens']:,} tokens, {found['bytes'] / 1e6:.1f} MB"
    _options.emit(found, as_json=as_json, lines=[line])
