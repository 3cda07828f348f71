"""What tracking a family will cost, from its settings and its members' shapes."""

from heredity.family import Family
from heredity.models.architecture import skeleton
from heredity.studies.features import sizes
from heredity.studies.features.sizes import Sizes
from heredity.studies.tracking.config import TrackConfig


def estimate(config: TrackConfig, family: Family, n_domains: int) -> Sizes:
    """Estimate the cost of a run; no weight is read.

    Args:
        config: with its site.
        family: with local paths.
        n_domains: of the text.
    """
    first = next(member for member in family.members if member.relation != "adapter")
    return sizes.estimate(
        skeleton(first.path), config.sae, members=len(family.members), edges=len(family.edges()), domains=n_domains,
        starts=len({member.parents[0] for member in family.members if member.parents}),
        shared_tokens=config.text.shared_tokens, workers=config.workers, crosscoder=config.crosscoder,
    )  # fmt: skip
