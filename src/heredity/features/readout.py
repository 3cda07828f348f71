"""The straight way from a site to the logits: what a direction there adds to each next token's logit.

logits = U · norm(residual). A direction that a site writes into the residual stream goes through the unembedding U
alone once the final norm is taken for the linear map that it is at a fixed scale: its mean is removed (LayerNorm) and
it is multiplied by the norm's gain. The division by the residual's size, one positive number per token, is left out,
and so is everything that later layers make of the direction. For the input of a linear module that writes into the
residual stream (`down_proj:input`), the direction first goes through the module's weight.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from msgspec import Struct
from numpy import ndarray
from torch import Tensor, nn

from heredity.errors import ConfigError, MismatchError
from heredity.features.site import Site, editing
from heredity.models.architecture import predicts_text
from heredity.seeds import generator

_PROBES, _PROBE_TOKENS, _PROBE_SIZE = 32, 8, 0.1
_LEAST_DIRECTNESS = 0.2


class Readout(Struct, frozen=True, eq=False):
    """A site's linear map to the logits.

    Attributes:
        into: weight from the site into the residual stream, None where the site is in it.
        gain: of the final norm.
        centred: whether the final norm removes the mean.
        unembedding: one row per vocabulary entry.
        directness: mean cosine, over random directions written at the site, with what of them arrives before the
            final norm; 1 where no later layer answers to them.
    """

    into: Float32[Tensor, "d_site hidden"] | None
    gain: Float32[Tensor, " hidden"]
    centred: bool
    unembedding: Float32[Tensor, "vocabulary hidden"]
    directness: float

    @property
    def width(self) -> int:
        """Width of the site."""
        return int(len(self.gain) if self.into is None else self.into.shape[0])

    def effects(
        self, directions: Float32[ndarray, "latents d_site"], vocabulary: int | None = None
    ) -> Float32[Tensor, "latents vocabulary"]:
        """Return what each direction adds to the logits, less its mean over the vocabulary.

        Args:
            directions: rows of a decoder.
            vocabulary: entries that the tokenizer knows, where the unembedding is padded.

        Raises:
            MismatchError: the directions have another width than the site.
        """
        if directions.shape[1] != self.width:
            raise MismatchError(
                f"decoder rows are {directions.shape[1]} wide, the site {self.width}",
                "use the SAE of this site",
            )
        rows = torch.from_numpy(np.ascontiguousarray(directions, np.float32)).to(self.gain.device)
        if self.into is not None:
            rows = rows @ self.into
        if self.centred:
            rows = rows - rows.mean(dim=1, keepdim=True)
        logits = (rows * self.gain) @ self.unembedding[:vocabulary].T
        return logits - logits.mean(dim=1, keepdim=True)


def readout(model: nn.Module, site: str) -> Readout:
    """Find a site's way to the logits, and check on the model that there is one.

    Args:
        model: a causal language model.
        site: the output of a module that writes into the residual stream, or the input of a linear one.

    Raises:
        ConfigError: the model has no unembedding, or what is written at the site does not reach it directly.
    """
    place = Site.parse(site)
    module = place.find(model)
    head = _head(model, site)
    into = _into(module, site) if place.side == "input" else None
    weight = head.weight.detach().float()
    norm = _final_norm(model, head)
    if norm is None:
        gain, centred = torch.ones(weight.shape[1], device=weight.device), False
    else:
        gain, centred = _linear_part(norm, weight, site)
    directness = _directness(model, Site(place.module, "output"), norm or head, weight.shape[1], site)
    if not directness >= _LEAST_DIRECTNESS:
        raise ConfigError(
            f"site {site}: what it writes does not reach the logits directly (cosine {directness:.2f})",
            "next-token effects are for sites that write into the residual stream, such as down_proj:input",
        )
    return Readout(into, gain, centred, weight, directness)


def _head(model: nn.Module, site: str) -> Any:
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find is not None and predicts_text(model) else None
    if not isinstance(getattr(head, "weight", None), Tensor):
        raise ConfigError(
            f"site {site}: {type(model).__name__} predicts no next token",
            "next-token effects need a causal language model",
        )
    return head


def _into(module: nn.Module, site: str) -> Float32[Tensor, "d_site hidden"]:
    """Return the weight that takes a row of the module's input into its output."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return module.weight.detach().float().T
    if type(module).__name__ == "Conv1D" and isinstance(
        weight, Tensor
    ):  # GPT-2's is stored the other way round
        return weight.detach().float()
    raise ConfigError(
        f"site {site}: {type(module).__name__} is not a linear module",
        "take its output, or the input of a linear module",
    )


def _probe(model: Any, n: int) -> Tensor:
    ids = torch.arange(_PROBE_TOKENS, device=next(model.parameters()).device) % int(model.config.vocab_size)
    return ids.expand(n, -1)


def _final_norm(model: nn.Module, head: nn.Module) -> nn.Module | None:
    """Return the norm whose output is what the unembedding takes, if there is one."""
    outputs: list[tuple[nn.Module, Tensor]] = []
    taken: list[Tensor] = []

    def listen(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.append((module, output[..., -1, :]))

    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    handles = [norm.register_forward_hook(listen) for norm in norms]
    handles.append(head.register_forward_pre_hook(lambda _, args: taken.append(args[0][..., -1, :])))
    try:
        with torch.no_grad():
            model.eval()
            model(input_ids=_probe(model, 1), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    same = (norm for norm, row in reversed(outputs) if torch.equal(row, taken[-1]))
    return next(same, None)


def _linear_part(norm: nn.Module, weight: Tensor, site: str) -> tuple[Float32[Tensor, " hidden"], bool]:
    """Return a norm's gain and whether it removes the mean, read off what it does to one row.

    norm(x) = gain · (x − mean?) / size(x) + bias; gains differ between families (Gemma adds 1), so the parameters
    are not trusted. One positive factor common to all entries is lost, as is the size.
    """
    like = next(iter(norm.parameters()), weight)
    draw = torch.from_numpy(generator(0, "row through the final norm").normal(size=weight.shape[1])).to(like)

    def of(row: Tensor) -> Tensor:
        with torch.no_grad():
            return norm(row[None, None, :])[0, 0].double()

    bias = of(torch.zeros_like(draw))
    centred = bool(torch.allclose(of(draw + 4), of(draw), rtol=0.05, atol=0.02 * float(of(draw).abs().max())))
    row = draw.double() - (draw.double().mean() if centred else 0.0)
    gain = (of(draw) - bias) / row * row.square().mean().sqrt()
    if not bool(torch.isfinite(gain).all()):
        raise ConfigError(
            f"site {site}: {type(norm).__name__} is not a norm over the last dimension",
            "its linear part is not known",
        )
    return gain.float(), centred


def _directness(model: nn.Module, written: Site, before: nn.Module, width: int, site: str) -> float:
    """Return the mean cosine of small random directions with what of them arrives before the final norm."""
    device = next(model.parameters()).device
    draw = generator(0, "directions at a site").normal(size=(_PROBES, width))
    directions = torch.from_numpy(draw).to(device)
    arrived: list[Tensor] = []

    def write(value: Tensor) -> Tensor:
        rows = value.reshape(_PROBES + 1, _PROBE_TOKENS, -1).clone()
        if rows.shape[-1] != width:
            raise ConfigError(
                f"site {site}: its module writes rows of {rows.shape[-1]}, the residual stream has {width}",
                "next-token effects are for sites that write into the residual stream",
            )
        size = _PROBE_SIZE * rows[0, -1].double().norm() / width**0.5
        rows[1:, -1] += (size * directions).to(rows)
        return rows.reshape(value.shape)

    handle = before.register_forward_pre_hook(lambda _, args: arrived.append(args[0]))
    try:
        with torch.no_grad(), editing(model, {written: write}):
            model(input_ids=_probe(model, _PROBES + 1), use_cache=False)
    finally:
        handle.remove()
    rows = arrived[-1].reshape(_PROBES + 1, -1, width)[:, -1].double()
    change = rows[1:] - rows[0]
    return float(nn.functional.cosine_similarity(change, directions.to(change), dim=1).mean())
