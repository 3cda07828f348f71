"""`heredity train`: a sparse autoencoder from harvested activations."""

from pathlib import Path
from typing import Any

import click

from heredity.cli import _options


def _list(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        from heredity.cli._training import listed

        found, lines = listed()
        _options.emit({"variants": found}, as_json=False, lines=lines)
        context.exit()


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="STORE…")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the SAE to write."
)
@click.option("--variant", default="topk", show_default=True, help="Kind of SAE; see --variants.")
@click.option(
    "--variants", is_flag=True, is_eager=True, expose_value=False, callback=_list,
    help="List the kinds of SAE and all settings, and stop.",
)  # fmt: skip
@click.option(
    "--init", "start", type=click.Path(path_type=Path), metavar="SAE",
    help="Start at another SAE, such as the parent's: latents keep their numbers.",
)  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True,
    help="bfloat16 only nominates latents, float32 decides; auto tries both first.",
)  # fmt: skip
@_options.settings
@_options.seed
@_options.device
@_options.resume
@_options.overwrite
@_options.as_json
@_options.quiet
def command(
    stores: tuple[Path, ...], out: Path, variant: str, start: Path | None, dtype: str, settings: tuple[str, ...],
    seed: int, device: str, resume: bool, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train an SAE on activations that `heredity harvest --site` kept; a crosscoder on several members' STOREs.

    --set takes the variant's settings (d_sae, k …) and the training's: tokens, batch_tokens, rate, warmup,
    decay (after "training." where both have one). Each epoch visits every token once, in an order drawn from
    the seed. Inputs are scaled to a mean squared norm of their width; the scale is folded back into the SAE.
    """
    from heredity.cli import _training
    from heredity.cli._folders import claim
    from heredity.features.sae import save
    from heredity.models.load import device_of

    device_of(device)
    job = _training.plan(stores, variant, start, settings, dtype)
    claim(out, marks=("cfg.json", "checkpoint.safetensors", "plan.json"), resume=resume, overwrite=overwrite)
    sae, history = _training.train(
        job, out, seed=seed, device=device, progress=_options.progress(quiet)
    )  # fmt: skip
    save(sae, out)
    _training.finish(out, history)
    last = history[-1] if history else {}
    made: dict[str, Any] = {
        "out": str(out), "variant": variant, "d_in": sae.d_in, "d_sae": sae.d_sae, "training": job.training_plain,
        "site": sae.metadata.get("site"), "last": last,
    }  # fmt: skip
    words = f": FVU {last['fvu']:.3f} at L0 {last['l0']:.1f} on the last training batch" if last else ""
    _options.emit(made, as_json=as_json, lines=[f"{out}: {variant}, {sae.d_in:,} → {sae.d_sae:,}{words}"])
