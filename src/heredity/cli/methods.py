"""`heredity methods`: what merges there are and what they take."""

from typing import Any

import click

from heredity.cli import _options


@click.command()
@click.argument("name", required=False)
@_options.as_json
def command(name: str | None, as_json: bool) -> None:
    """List the merge methods, or tell what NAME does and takes."""
    from heredity.merging import _discovery

    if name is None:
        found = {each: _first_line(_discovery.method(each)) for each in _discovery.names()}
        width = max(map(len, found))
        lines = [f"{each:<{width}}  {text}" for each, text in found.items()]
        _options.emit({"methods": found}, as_json=as_json, lines=lines)
        return
    kind = _discovery.method(name)
    fields = _fields(kind)
    most = kind.inputs.most
    range_ = f"{kind.inputs.least}" + (
        "" if most == kind.inputs.least else "…" if most is None else f"–{most}"
    )
    lines = [f"{name}: {_first_line(kind)}", f"models: {range_}, base: {kind.inputs.base}", ""]
    lines += [f"{f['name']} = {f['default']}  ({f['type']})" for f in fields]
    values = {
        "name": name,
        "about": _first_line(kind),
        "base": kind.inputs.base,
        "models": range_,
        "fields": fields,
    }
    _options.emit(values, as_json=as_json, lines=lines)


def _first_line(kind: Any) -> str:
    return str(kind.__doc__).strip().splitlines()[0]


def _fields(kind: Any) -> list[dict[str, Any]]:
    import msgspec

    from heredity.merging._method import per_model_fields

    each = per_model_fields(kind)
    found = []
    for field in msgspec.structs.fields(kind):
        default = None if field.default is msgspec.NODEFAULT else field.default
        shown = getattr(field.type, "__name__", str(field.type)).replace("typing.", "")
        what = "one for all models, or one for each" if field.encode_name in each else shown
        found.append(
            {"name": field.encode_name, "default": default, "type": what, "required": field.required}
        )
    return found
