"""How the blocks of a token stream enter a model, and how what passes a site becomes one row per token.

A decoder takes blocks as they are. An encoder may take each between its [CLS] and [SEP], whose own rows are not
kept. A model of both takes a block on either side, so that all its modules see one row per token.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from msgspec import Struct
from torch import Tensor, nn

from heredity.corpora.tokens import TokenStream
from heredity.errors import MismatchError
from heredity.features.site import Site
from heredity.models.architecture import kind_of

Ends = tuple[int, int]
"""Tokens put before and after every block."""


class Feed(Struct, frozen=True):
    """A model with the way its input is made.

    Attributes:
        model: live, in evaluation mode.
        ends: [CLS] and [SEP] around every block, or None.
    """

    model: nn.Module
    ends: Ends | None = None

    def run(self, blocks: Int[Tensor, "blocks context"]) -> Any:
        """Pass blocks through the model, without gradients."""
        ids = blocks.to(next(self.model.parameters()).device)
        if self.ends is not None:
            first, last = (ids.new_full((len(ids), 1), end) for end in self.ends)
            ids = torch.cat([first, ids, last], dim=1)
        both = {"decoder_input_ids": ids} if kind_of(self.model.config) == "encoder-decoder" else {}
        with torch.no_grad():
            return self.model(input_ids=ids, **both)

    def rows(self, value: Tensor, n_blocks: int, context: int, site: Site) -> Float[Tensor, "tokens d"]:
        """Return one row per token of the blocks that were run.

        Raises:
            MismatchError: the site does not have that.
        """
        extra = 0 if self.ends is None else 2
        d = value.shape[-1]
        if value.dim() < 2 or value.numel() != n_blocks * (context + extra) * d:
            raise MismatchError(
                f"site {site}: {tuple(value.shape)} for {n_blocks} contexts of {context + extra} tokens",
                "choose a module that sees one row per token: `heredity sites MODEL` lists them",
            )
        whole = value.reshape(n_blocks, context + extra, d)
        return whole[:, extra // 2 : extra // 2 + context].reshape(-1, d)

    def check(self, stream: TokenStream) -> None:
        """Check that the model can take the stream.

        Raises:
            MismatchError: a token is outside its vocabulary, or a context longer than its positions.
        """
        config: Any = self.model.config
        name = type(self.model).__name__
        vocabulary, largest = getattr(config, "vocab_size", None), int(np.max(stream.tokens, initial=0))
        if vocabulary is not None and largest >= vocabulary:
            raise MismatchError(
                f"the stream has token {largest}, {name} knows {vocabulary}",
                "tokenise the text with this model's own tokenizer",
            )
        places = getattr(config, "max_position_embeddings", None)
        # RoBERTa's positions start after the padding token's
        offset = (
            config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
        )
        length = stream.context + (0 if self.ends is None else 2)
        if places is not None and length > places - offset:
            raise MismatchError(
                f"contexts of {length} tokens are longer than the {places - offset} that {name} takes",
                "tokenise the text in shorter contexts",
            )


def ends_of(model: nn.Module, tokenizer: Any) -> Ends | None:
    """Return [CLS] and [SEP] of an encoder's tokenizer; None for other models, and where there are none."""
    if kind_of(model.config) != "encoder":
        return None
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    return None if first is None or last is None else (int(first), int(last))
