"""Task algebra: `base + 0.8 * (a - base) - 0.3 * (b - base)` as coefficients of models.

Source: Ilharco et al. 2023, arXiv 2212.04089 (addition, negation, analogies).
"""

import ast
from collections.abc import Mapping

from heredity.errors import ConfigError

_Terms = dict[str, float]


def coefficients(expression: str) -> _Terms:
    """Return what each model of a linear expression is multiplied by, in order of first mention.

    >>> coefficients("base + 0.5 * (a - base)")
    {'base': 0.5, 'a': 0.5}

    Raises:
        ConfigError: the expression is not linear in its models, has a constant term, or does not parse.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"'{expression}' is not an expression ({error})", "use names, numbers, + - * / ( )"
        ) from None
    terms = _linear(tree, expression)
    if terms.pop("", 0.0) != 0:
        raise ConfigError(f"'{expression}' adds a number to weights", "multiply numbers with models")
    if not terms:
        raise ConfigError(f"'{expression}' names no model", "use the names of the recipe's models")
    return terms


def check_names(terms: Mapping[str, float], known: Mapping[str, object]) -> None:
    """Check that every model of an expression is known.

    Raises:
        ConfigError: naming the first one that is not.
    """
    for name in terms:
        if name not in known:
            raise ConfigError(
                f"the expression names '{name}', which is no model", f"have: {', '.join(known)}"
            )


def _linear(node: ast.expr, text: str) -> _Terms:
    match node:
        case ast.Name(id=name):
            return {name: 1.0}
        case ast.Constant(value=value) if isinstance(value, int | float) and not isinstance(value, bool):
            return {"": float(value)}
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _scaled(_linear(inner, text), -1.0)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _linear(inner, text)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(_linear(left, text), _linear(right, text))
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _sum(_linear(left, text), _scaled(_linear(right, text), -1.0))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _product(_linear(left, text), _linear(right, text), text)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            divisor = _linear(right, text)
            if list(divisor) != [""] or divisor[""] == 0:
                raise ConfigError(
                    f"'{text}' divides by something else than a number", "only divide by numbers"
                )
            return _scaled(_linear(left, text), 1 / divisor[""])
    raise ConfigError(f"'{ast.unparse(node)}' in '{text}' is not linear", "use names, numbers, + - * / ( )")


def _sum(left: _Terms, right: _Terms) -> _Terms:
    return {
        name: left.get(name, 0.0) + right.get(name, 0.0)
        for name in [*left, *(n for n in right if n not in left)]
    }


def _scaled(terms: _Terms, factor: float) -> _Terms:
    return {name: factor * value for name, value in terms.items()}


def _product(left: _Terms, right: _Terms, text: str) -> _Terms:
    if set(left) == {""}:
        return _scaled(right, left[""])
    if set(right) == {""}:
        return _scaled(left, right[""])
    raise ConfigError(f"'{text}' multiplies models with each other", "multiply models with numbers")
