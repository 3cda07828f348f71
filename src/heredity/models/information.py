"""The diagonal of the Fisher information: squared gradients of the log-likelihood of tokens.

With labels drawn from the model, E[(Σ_t g_t)²] = Σ_t E[g_t²]: a token's gradient is 0 in the mean, whatever the
other tokens' labels are. So one backward pass for a sequence estimates the sum over its tokens without bias.
Source: Matena & Raffel 2022, arXiv 2111.09832, eq. 3; the labels of the text give the empirical Fisher.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from heredity.errors import CheckpointError, ConfigError
from heredity.models.evaluate import token_losses
from heredity.models.load import tokenizer
from heredity.seeds import generator, key

_MASKED = 0.15
_SUM_BYTES = 8


class InformationPart:
    """Sums for some tensors; see `collect.Part`."""

    kind: Literal["fisher"] = "fisher"
    step = 1  # the square is of a sequence's gradient

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], likelihood: "_Likelihood"
    ) -> None:
        self.shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self._model, self._parameters, self._likelihood = model, parameters, likelihood

    def add(self, blocks: Int[Tensor, "1 context"], first: int) -> None:
        """Add the squared gradient of one sequence's log-likelihood."""
        self._model.requires_grad_(False)
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
        loss, count = self._likelihood(self._model, blocks, first)
        gradients = torch.autograd.grad(loss, list(self._parameters.values()), allow_unused=True)
        for name, gradient in zip(self._parameters, gradients, strict=True):
            if gradient is not None:
                exact = gradient.double()
                self.sums[name].addcmul_(exact, exact)
        self.count += count


def information_parts(
    model: nn.Module,
    names: Mapping[str, str],
    folder: Path,
    labels: Literal["model", "data"],
    seed: int,
    max_bytes: int,
) -> list[InformationPart]:
    """Divide a model's parameters into parts whose sums and gradients fit into memory.

    Args:
        model: live, in evaluation mode.
        names: parameter → tensor of the checkpoint; others are left out.
        folder: of the checkpoint; a masked LM needs its tokenizer.
        labels: drawn from the model, or the text's.
        seed: of drawn labels and masks.
        max_bytes: most memory for the sums and gradients of a part.

    Raises:
        ConfigError: one tensor takes more than `max_bytes`, or the model gives no log-likelihood of tokens.
    """
    likelihood = _likelihood(model, folder, labels, seed)
    parts: list[dict[str, nn.Parameter]] = []
    used = max_bytes + 1
    for name, parameter in model.named_parameters():
        if name not in names:
            continue
        nbytes = (_SUM_BYTES + parameter.element_size()) * parameter.numel()
        if nbytes > max_bytes:
            raise ConfigError(
                f"the Fisher information of {names[name]} {list(parameter.shape)} takes {nbytes / 1e9:.2f} GB, "
                f"{max_bytes / 1e9:.2f} GB are allowed",
                "allow more with --max-memory",
            )
        if used + nbytes > max_bytes:
            parts, used = [*parts, {}], 0
        parts[-1][names[name]] = parameter
        used += nbytes
    return [InformationPart(model, part, likelihood) for part in parts]


class _Likelihood:
    """The summed negative log-likelihood of a sequence's labels, and how many there are."""

    def __init__(self, labels: Literal["model", "data"], seed: int) -> None:
        self._labels, self._seed = labels, seed

    def __call__(
        self, model: nn.Module, blocks: Int[Tensor, "1 context"], number: int
    ) -> tuple[Float[Tensor, ""], int]:
        """Return both for the next tokens of one sequence, the `number`-th of the text."""
        logits = model(input_ids=blocks, use_cache=False).logits[0, :-1].float()
        return self._of(logits, blocks[0, 1:], number)

    def _of(
        self, logits: Float[Tensor, "tokens vocabulary"], given: Int[Tensor, " tokens"], number: int
    ) -> tuple[Float[Tensor, ""], int]:
        target = given
        if self._labels == "model":
            source = torch.Generator(logits.device).manual_seed(key(self._seed, "labels", number) >> 1)
            target = torch.multinomial(logits.detach().softmax(-1), 1, generator=source)[:, 0]
        return token_losses(logits, target).sum(), len(target)


class _MaskedLikelihood(_Likelihood):
    """The same for masked tokens: 15 % of a sequence, at least one, drawn anew for each."""

    def __init__(
        self, labels: Literal["model", "data"], seed: int, mask: int, special: tuple[int, ...]
    ) -> None:
        super().__init__(labels, seed)
        self._mask, self._special = mask, special

    def __call__(
        self, model: nn.Module, blocks: Int[Tensor, "1 context"], number: int
    ) -> tuple[Float[Tensor, ""], int]:
        """Return both for the masked tokens of one sequence."""
        ordinary = np.flatnonzero(~np.isin(blocks[0].cpu().numpy(), self._special))
        count = min(len(ordinary), max(1, round(_MASKED * len(ordinary))))
        drawn = generator(self._seed, "mask", number).choice(ordinary, size=count, replace=False)
        chosen = torch.from_numpy(np.sort(drawn)).to(blocks.device)
        hidden = blocks.clone()
        hidden[0, chosen] = self._mask
        logits = model(input_ids=hidden).logits[0, chosen].float()
        return self._of(logits, blocks[0, chosen], number)


def _likelihood(model: nn.Module, folder: Path, labels: Literal["model", "data"], seed: int) -> _Likelihood:
    kind = type(model).__name__
    if kind.endswith(("ForCausalLM", "LMHeadModel")):
        return _Likelihood(labels, seed)
    if not kind.endswith("ForMaskedLM"):
        raise ConfigError(
            f"{folder}: {kind} gives no log-likelihood of tokens",
            "a causal or a masked LM has Fisher information",
        )
    known = tokenizer(folder)
    if known.mask_token_id is None:
        raise CheckpointError(
            f"{folder}: its tokenizer has no mask token", "copy the tokenizer's files there"
        )
    return _MaskedLikelihood(labels, seed, int(known.mask_token_id), tuple(map(int, known.all_special_ids)))
