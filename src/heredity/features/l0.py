"""SAEs of unequal L0 are not compared in silence: the denser one has more latents to match, at lower r."""

from collections.abc import Mapping

RATIO = 1.2
"""How many times the smaller L0 the larger one may be."""


def unequal_l0(l0: Mapping[str, float]) -> list[str]:
    """Say which of some SAEs lie furthest apart when any two differ by more than 20 %; else nothing.

    Args:
        l0: mean firings per token of each SAE, by a name that a reader knows it by.
    """
    if not l0:
        return []
    least, most = min(l0, key=lambda name: l0[name]), max(l0, key=lambda name: l0[name])
    if l0[most] <= RATIO * l0[least]:
        return []
    return [
        f"L0 {l0[least]:.1f} ({least}) and {l0[most]:.1f} ({most}) differ by more than 20 %, compare with care"
    ]
