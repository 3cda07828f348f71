"""`heredity family`: propose a family file from folders."""

from pathlib import Path

import click

from heredity.cli import _options


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR…")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File to write; default: print it.")
@click.option("--name", default="family", show_default=True, help="Name of the family.")
@click.option("--base", help="Name of the base, where no card or configuration tells.")
@click.option(
    "--weights/--no-weights",
    default=True,
    show_default=True,
    help="Read the weights of members whose parents nothing names.",
)
@click.option("--allow-partial", is_flag=True, help="Compare what is shared where tensors differ.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
@_options.jobs
@_options.pickles
@_options.as_json
@_options.quiet
def command(
    folders: tuple[Path, ...], out: Path | None, name: str, base: str | None, weights: bool,
    allow_partial: bool, overwrite: bool, jobs: int, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Propose members and parents from adapters, cards, configurations and weights; write family.toml.

    Parents that a file names are taken from it. For the others, if the base is known, the weights are read
    once and parents are proposed from them; look at the evidence before you rely on it. Also prints which
    tensors the members do not share.
    """
    import json
    import os

    from heredity.errors import ConfigError
    from heredity.propose import family_of, filled_from_weights, propose, uncovered
    from heredity.tomlfile import to_toml

    if out is not None and out.exists() and not overwrite:
        raise ConfigError(f"{out}: exists", "add --overwrite to replace it, or choose another -o")
    proposals = propose(folders, base=base)
    family = family_of(proposals, name)
    rows = uncovered(family)
    lines: list[str] = []
    if (
        weights
        and family.base is not None
        and any(not p.evidence and p.member.name != family.base.name for p in proposals)
    ):
        proposals = filled_from_weights(proposals, family, allow_partial=allow_partial, jobs=jobs)
        family = family_of(proposals, name)
    if out is not None:
        here = out.resolve().parent
        family = family_of(proposals, name, relative_to=lambda path: os.path.relpath(path, here))
        family.save(out)
    for proposal in proposals:
        parents = ", ".join(proposal.member.parents) or "no parents"
        said = f"  [{proposal.evidence}]" if proposal.evidence else ""
        lost = f"  (names {', '.join(proposal.unknown)}, not among the folders)" if proposal.unknown else ""
        lines.append(f"{proposal.member.name}: {proposal.member.relation} of {parents}{said}{lost}")
    lines += [f"coverage: {r['tensor']} in {r['member']}: {r['status']} {r['note']}".rstrip() for r in rows]
    members = [
        {
            "name": p.member.name,
            "parents": p.member.parents,
            "relation": p.member.relation,
            "evidence": p.evidence,
            "unknown": p.unknown,
        }
        for p in proposals
    ]
    values = {"family": name, "file": None if out is None else str(out), "members": members, "coverage": rows}
    if out is not None:
        lines.append(f"wrote {out}")
    elif not quiet:
        lines += ["", to_toml(family.plain()).rstrip()]
    _options.emit(json.loads(json.dumps(values)), as_json=as_json, lines=lines)
