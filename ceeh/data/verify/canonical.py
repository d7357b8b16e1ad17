"""One spelling of equal answers, by which votes are counted."""

from ceeh.data.verify import expressions as ex
from ceeh.data.verify.expressions import Expr
from ceeh.data.verify.intervals import INFINITE_VALUES, as_set, ascending


def canonical(value: Expr) -> str:
    """One spelling of equal answers: no unit, percent sign, name or clause; lists sorted and once."""
    if (plain := as_set(value)) != value:
        return canonical(plain)
    match value:
        case ("val", node, _, _):
            return str(INFINITE_VALUES[node]) if node in INFINITE_VALUES else ex.written(node)
        case ("named" | "qualified" | "choice", _, inner) | ("chain", (inner, *_)):
            return canonical(inner)
        case ("words" | "set", text):
            return text
        case ("rel", *_):
            signs, sides = ascending(value)
            return "".join(
                f"{sign}{ex.written(s)}" for sign, s in zip(("", *signs), sides, strict=True)
            )
        case ("seq", brackets, items):
            texts = list(map(canonical, items))
            if brackets not in ("", "{}"):
                return f"{brackets[0]}{','.join(texts)}{brackets[1]}"
            texts = sorted(set(texts)) if "..." not in texts else texts
            return texts[0] if len(texts) == 1 else f"{{{','.join(texts)}}}"
        case ("op", sign, items):
            texts = map(canonical, items)
            return sign.join(texts if sign == r"\setminus" else sorted(texts))
        case ("mod", _, residue, modulus):
            a, m = ex.number(residue), ex.number(modulus)
            rest = ex.num(a % m) if a is not None and m else residue
            return f"{ex.written(rest)} mod {ex.written(modulus)}"
        case ("ratio", sides):
            return ":".join(ex.written(ex.divide(side, sides[-1])) for side in sides)
        case ("time", hour, minute, _):
            return f"{hour}:{minute}"
        case ("builder", variable, domain, condition):
            return f"{{x{domain}|{canonical(ex.renamed(condition, variable, 'x'))}}}"
    return "..."
