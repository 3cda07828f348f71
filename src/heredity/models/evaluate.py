"""Next-token loss and accuracy of a causal LM over a token stream, by document and by domain."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import nn

from heredity.corpora.tokens import TokenStream
from heredity.errors import StoreError
from heredity.seeds import generator


@dataclass(frozen=True)
class LmScores:
    """Sums per document, so that any mean and its interval follow without another forward pass.

    Attributes:
        domains: names of the domains.
        domain: [n_documents] index into `domains`.
        loss: [n_documents] summed negative log-likelihood, nats.
        correct: [n_documents] number of next tokens predicted exactly (arg max).
        n_tokens: [n_documents] number of predicted tokens.
    """

    domains: tuple[str, ...]
    domain: Int[np.ndarray, " documents"]
    loss: Float[np.ndarray, " documents"]
    correct: Int[np.ndarray, " documents"]
    n_tokens: Int[np.ndarray, " documents"]

    def table(self, *, seed: int = 0, resamples: int = 1000) -> pl.DataFrame:
        """Give loss (nats per token) and accuracy per domain, with 95 % intervals by resampling documents.

        Columns: domain, loss, loss_low, loss_high, accuracy, accuracy_low, accuracy_high, n_tokens, n_documents.
        """
        rows = []
        for index, name in enumerate(self.domains):
            chosen = np.flatnonzero((self.domain == index) & (self.n_tokens > 0))
            if len(chosen) == 0:
                continue
            loss, correct, n = self.loss[chosen], self.correct[chosen], self.n_tokens[chosen]
            draws = generator(seed, "resample documents", name).multinomial(
                len(chosen), np.full(len(chosen), 1 / len(chosen)), size=resamples
            )
            weight = draws @ n
            low, high = np.quantile(draws @ loss / weight, [0.025, 0.975])
            accuracy_low, accuracy_high = np.quantile(draws @ correct / weight, [0.025, 0.975])
            rows.append({
                "domain": name, "loss": loss.sum() / n.sum(), "loss_low": low, "loss_high": high,
                "accuracy": correct.sum() / n.sum(), "accuracy_low": accuracy_low, "accuracy_high": accuracy_high,
                "n_tokens": int(n.sum()), "n_documents": len(chosen),
            })  # fmt: skip
        return pl.DataFrame(rows)

    def summary(self) -> tuple[float, float]:
        """Mean loss (nats per token) and accuracy over all documents."""
        n = self.n_tokens.sum()
        return float(self.loss.sum() / n), float(self.correct.sum() / n)


def token_losses(
    logits: Float[torch.Tensor, "*batch vocabulary"], target: Int[torch.Tensor, "*batch"]
) -> Float[torch.Tensor, "*batch"]:
    """Return the negative log-likelihood of each target, nats, without a second array of the logits' size."""
    return logits.logsumexp(-1) - logits.gather(-1, target[..., None])[..., 0]


def default_batch(device: torch.device) -> int:
    """Tokens per forward pass: on a CPU few enough that the logits stay in memory that is already mapped."""
    return 1024 if device.type == "cpu" else 32_768


def lm_scores(model: nn.Module, stream: TokenStream, *, batch_tokens: int | None = None) -> LmScores:
    """Score every next token of a stream, context by context.

    A context is scored on its own: its first token is not predicted. A loss belongs to the document of the
    token that is predicted.

    Raises:
        StoreError: a loss is not finite.
    """
    device = next(model.parameters()).device
    blocks = stream.blocks()
    n_documents = len(stream.document_keys)
    owner = np.asarray(stream.document).reshape(blocks.shape)
    loss = np.zeros(n_documents)
    correct = np.zeros(n_documents, np.int64)
    count = np.zeros(n_documents, np.int64)
    size = max(1, (batch_tokens or default_batch(device)) // stream.context)
    for start in range(0, len(blocks), size):
        tokens = torch.from_numpy(blocks[start : start + size].astype(np.int64)).to(device)
        nll, hit = _score(model, tokens)
        if not np.isfinite(nll).all():
            raise StoreError(
                f"the loss is not finite at context {start}", "a weight or an activation is NaN or infinite"
            )
        who = owner[start : start + size, 1:].ravel()
        loss += np.bincount(who, nll.ravel(), n_documents)
        correct += np.bincount(who, hit.ravel(), n_documents).astype(np.int64)
        count += np.bincount(who, minlength=n_documents)
    domain = np.full(n_documents, -1)
    domain[np.asarray(stream.document)] = np.asarray(stream.domain)
    return LmScores(stream.domains, domain, loss, correct, count)


@torch.no_grad()
def _score(model: nn.Module, tokens: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].float()
    target = tokens[:, 1:]
    nll = token_losses(logits, target)
    hit = logits.argmax(-1) == target
    return nll.double().cpu().numpy(), hit.double().cpu().numpy()
