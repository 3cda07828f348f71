"""What `heredity harvest --site` does."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from heredity.cli import _options
from heredity.cli._folders import claim
from heredity.cli._text import ends_for, stream_of

if TYPE_CHECKING:
    from heredity.corpora.tokens import TokenStream

_CONTEXT = 128


def harvest(
    model: Path, sites: tuple[str, ...], data: tuple[str, ...], out: Path, *, name: str | None,
    domains: tuple[str, ...], context: int | None, max_tokens: int | None, keep: str,
    dtype: str, device: str, seed: int, resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write the activations at some sites for every token of a text: OUT itself for one site, OUT/SITE for several."""
    from tqdm import tqdm

    from heredity.checkpoint import Checkpoint
    from heredity.features.harvest import harvest_sites
    from heredity.features.site import Site
    from heredity.models.architecture import open_model, skeleton
    from heredity.models.load import device_of

    device_of(device)  # this, too, before anything is written
    checkpoint = Checkpoint.open(str(model))
    bare = skeleton(checkpoint.path)
    wanted = list(dict.fromkeys(str(Site.parse(site)) for site in sites))
    for site in wanted:
        Site.parse(site).find(bare)  # before a weight is read or a text tokenised
    marks = ("meta.json", "plan.json", "*/meta.json", "*/plan.json", "tokenizer/tokenizer.json")
    claim(out, marks=marks, resume=resume, overwrite=overwrite)
    stream = _stream(
        data, checkpoint.path, out, context=context or _CONTEXT, domains=domains, max_tokens=max_tokens, seed=seed
    )  # fmt: skip
    live = open_model(checkpoint.path, device=device, dtype=dtype)
    outs = {site: out if len(wanted) == 1 else out / folder_name(site) for site in wanted}
    with tqdm(
        total=stream.n_blocks * stream.context,
        unit="token",
        unit_scale=True,
        disable=not _options.progress(quiet),
    ) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        stores = harvest_sites(
            live, stream, outs, member=name or checkpoint.name, dtype=keep, ends=ends_for(live, checkpoint.path),
            progress=advance,
        )  # fmt: skip
    made: list[dict[str, Any]] = [
        {
            "site": site, "store": str(store.path), "tokens": store.n_tokens, "d": store.d, "dtype": keep,
            "bytes": sum(shard.nbytes for shard in store.shards),
        }
        for site, store in stores.items()
    ]  # fmt: skip
    lines = [
        f"{row['store']}: {row['tokens']:,} tokens × {row['d']:,} at {row['site']}, {row['bytes'] / 1e6:,.1f} MB"
        for row in made
    ]
    _options.emit(
        {"out": str(out), "stream_digest": stream.digest, "stores": made}, as_json=as_json, lines=lines
    )


def _stream(data: tuple[str, ...], model: Path, out: Path, **settings: Any) -> "TokenStream":
    """Tokenise the text, or take the stream that an earlier call left in OUT if it is the same.

    Raises:
        MismatchError: it is another one: the activations beside it are of its tokens.
    """
    from heredity.corpora.stream import TokenStream
    from heredity.errors import MismatchError

    if not (out / "stream" / "meta.json").is_file():
        return stream_of(data, model, out, **settings)
    before = TokenStream.open(out / "stream")
    with TemporaryDirectory() as work:
        same = stream_of(data, model, Path(work), **settings).digest == before.digest
    if not same:
        raise MismatchError(
            f"{out}: holds activations of another text, or of contexts of another length",
            "resume with the same text and settings, add --overwrite to start anew, or choose another -o",
        )
    return before


def folder_name(site: str) -> str:
    """Name a site's folder: "model.layers.0.mlp:input" → "model.layers.0.mlp-input"."""
    return re.sub(r"[^\w.-]", "-", site)
