"""Several members' activations side by side: one row per token, one column block per member, scaled alike.

What a crosscoder is trained on. Every member must have been harvested at the same site over the same stream.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from heredity.errors import ConfigError, MismatchError
from heredity.features.store import ActivationStore, StoreMeta
from heredity.seeds import key


class JointStore:
    """Stores of M members read as one of width M·d; reads as an `ActivationStore` does.

    Attributes:
        parts: the members' stores, in order.
        scales: what each member's activations are multiplied by, so that all weigh the same.
        meta: of the whole; `member` joins the names with "+".
    """

    def __init__(self, parts: Sequence[ActivationStore], scales: Sequence[float]) -> None:
        """Join stores.

        Args:
            parts: at least two.
            scales: one per member.

        Raises:
            ConfigError: fewer than two stores, or two of one name.
            MismatchError: they differ in stream, site or width.
        """
        names = [part.meta.member for part in parts]
        if len(parts) < 2 or len(set(names)) < len(names):
            raise ConfigError(f"stores of {names}: not of several members", "give each member's store once")
        first = parts[0].meta
        for part in parts[1:]:
            for field in ("stream_digest", "site", "d", "n_tokens"):
                if getattr(part.meta, field) != getattr(first, field):
                    raise MismatchError(
                        f"stores of {first.member} and {part.meta.member} differ in {field}: "
                        f"{getattr(first, field)!r} and {getattr(part.meta, field)!r}",
                        "harvest all members at one site over one stream",
                    )
        self.parts = tuple(parts)
        self.scales = tuple(float(s) for s in scales)
        self.meta: StoreMeta = msgspec.structs.replace(
            first, member="+".join(names), d=first.d * len(parts), dtype="float32",
            model_digest=f"{key(0, *(part.meta.model_digest for part in parts)):016x}",
        )  # fmt: skip

    @property
    def members(self) -> tuple[str, ...]:
        """The members' names, in the order of the column blocks."""
        return tuple(part.meta.member for part in self.parts)

    @property
    def n_tokens(self) -> int:
        """Rows."""
        return self.meta.n_tokens

    @property
    def d(self) -> int:
        """Width of a row: members × width of a member."""
        return self.meta.d

    def read(self, start: int, stop: int) -> Float32[ndarray, "tokens d"]:
        """Return rows start … stop − 1, scaled."""
        return self._join([part.read(start, stop) for part in self.parts])

    def take(self, rows: Int64[ndarray, " n"]) -> Float32[ndarray, "n d"]:
        """Return the named rows, scaled."""
        return self._join([part.take(rows) for part in self.parts])

    def _join(self, blocks: Sequence[Float32[ndarray, "n d_member"]]) -> Float32[ndarray, "n d"]:
        return np.concatenate([x * np.float32(s) for x, s in zip(blocks, self.scales, strict=True)], axis=1)


Activations = ActivationStore | JointStore
"""What an autoencoder can be trained on."""
