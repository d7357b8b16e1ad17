r"""Box contents that a model may write to hang, crash, inflate or fool a verifier; all are incorrect.

`REFERENCE` is their reference, an expression, so that no number is graded early; `HONEST` equals it
and needs a worker. `CANARY` is the folder that injected code would create in the working directory.
"""

REFERENCE = r"\sqrt{2}+x"
HONEST = r"x+\frac{2}{\sqrt{2}}"
CANARY = "canary"

MEBI = 2**20
RUN = f"__import__('os').mkdir('{CANARY}')"

GROWTH = {
    "power tower": "9^{9^{9^9}}",
    "power of powers": "10^{10^{10}}",
    "power without braces": "9^9^9^9^9",
    "power of a huge exponent": "2^{99999999999}",
    "negative tower": "9^{-9^{9^9}}",
    "fraction of towers": r"\frac{9^{9^{9}}}{9^{9^{9}}+1}",
    "tower in a set": r"\{9^{9^{9}}, 1\}",
    "tower modulo": r"9^{9^{9^9}} \bmod 7",
    "root of a tower": r"\sqrt{9^{9^{9^9}}}",
    "factorial": "(10^8)!",
    "factorial in digits": "100000000!",
    "factorial of a factorial": "((99!)!)!",
    "binomial": r"\binom{10^9}{5\cdot10^8}",
    "exponent": "1e999999999",
    "negative exponent": "1e-999999999",
    "scientific": r"1.0 \times 10^{999999999}",
    "scientific below zero": r"1.0 \times 10^{-999999999}",
    "exponential of exponentials": r"e^{e^{e^{e^{e^{9}}}}}",
    "logarithm of a tower": r"\log(10^{10^{10}})",
    "sine of a tower": r"\sin(10^{10^{10}})",
}
CALCULUS = {
    "sum": r"\sum_{n=1}^{10^{9}} \frac{1}{n^3+n+1}",
    "nested sums": r"\sum_{i=1}^{999}\sum_{j=1}^{999}\sum_{k=1}^{999} \sin(ijk)",
    "endless sum": r"\sum_{n=1}^{\infty} \frac{\sin(n^2)}{n^3}",
    "product": r"\prod_{n=1}^{10^{8}} (1+\frac{1}{n^2})",
    "integral": r"\int_0^\infty \frac{\sin(x^3+1)}{1+x^7+\cos x} dx",
    "nested integrals": r"\int_0^1\int_0^1\int_0^1 e^{xyz\sin(xyz)} dx dy dz",
    "limit": r"\lim_{n\to\infty} \frac{n!}{n^n e^{-n}\sqrt{n}}",
    "expansion": "(a+b+c+d+e+f+g)^{99}",
    "power of sums": "((x+1)^{999}+(x-1)^{999})^{99}",
    "trigonometry": "+".join(rf"\sin({n}x)\cos({n}y)\tan({n}z)" for n in range(1, 60)),
    "nested radicals": "+".join(rf"\sqrt{{{n}+\sqrt{{{n + 1}}}}}" for n in range(2, 60)),
    "determinant": r"\begin{vmatrix}"
    + r"\\".join("&".join(f"x^{{{i * j}}}" for j in range(9)) for i in range(9))
    + r"\end{vmatrix}",
    "matrix power": r"\begin{pmatrix}1&1\\1&0\end{pmatrix}^{99999999}",
}
NESTING = {
    "braces": "{" * 100_000 + "}" * 100_000,
    "braces within the limit": "{" * 990 + "1" + "}" * 990,
    "fractions": r"\frac{1}{" * 500 + "x" + "}" * 500,
    "fractions within the limit": r"\frac{1}{1+" * 150 + "x" + "}" * 150,
    "roots": r"\sqrt{" * 300 + "x" + "}" * 300,
    "roots within the limit": r"\sqrt{1+" * 200 + "x" + "}" * 200,
    "parentheses": "(" * 900 + "x" + ")" * 900,
    "absolute values": "|" * 999 + "x" + "|" * 999,
    "brackets and parentheses": "([" * 400 + "x" + "])" * 400,
    "sets": r"\{" * 400 + "1" + r"\}" * 400,
    "boxes": r"\boxed{" * 10_000 + "}" * 10_000,
    "tuples": "(1," * 400 + "1" + ")" * 400,
    "minus signs": "-" * 1500 + "x",
}
CODE = {
    "import": RUN,
    "import in text": rf"\text{{{RUN}}}",
    "import in an operator": rf"\operatorname{{{RUN}}}",
    "eval": f'eval("{RUN}")',
    "eval in text": rf'\text{{eval("{RUN}")}}',
    "lambda": f"(lambda: {RUN})()",
    "subclasses": "().__class__.__base__.__subclasses__()",
    "sympy": f'sympify("{RUN}")',
    "assignment": f"x={RUN}",
    "subscript": f"x_{{{RUN}}}",
    "format string": "%s%n%x{0.__class__.__init__.__globals__}{}",
    "shell": f"$(mkdir {CANARY})`mkdir {CANARY}`; mkdir {CANARY}",
    "input of a file": r"\input{/etc/passwd}\write18{mkdir " + CANARY + "}",
    "macro": r"\def\a{\a\a}\a",
}
TEXT = {
    "megabyte of digits": "9" * MEBI,
    "megabyte of thousands": ",".join(["123"] * (MEBI // 4)),
    "megabyte of spaces": " " * MEBI + "x",
    "megabyte of commas": "," * MEBI,
    "megabyte of backslashes": "\\\\" * (MEBI // 2),
    "megabyte of dollars": "$" * MEBI,
    "megabyte of words": "or and " * (MEBI // 7),
    "megabyte of boxes": r"\boxed " * (MEBI // 7),
    "five thousand digits": "9" * 5000,
    "digits within the limit": "9" * 1999,
    "thousands within the limit": ",".join(["999"] * 499),
    "decimals within the limit": "0." + "9" * 1990,
    "spaces within the limit": "1" + " " * 1900 + "x",
    "commas within the limit": "1" + "," * 1900,
    "dollars within the limit": "1" + r"\$" * 900,
    "words within the limit": "1 " + "and or " * 280,
    "units within the limit": "1" + r"\text{ cm}" * 190,
    "letters within the limit": "a" * 1999,
    "underscores within the limit": "x" + "_{a}" * 450 + "=1",
    "nul": "\x00\x01",
    "nul after a reference": HONEST + "\x00",
    "lone surrogate": "\ud800",
    "surrogate after a reference": HONEST + "\udfff",
    "right-to-left mark": HONEST + "\u200f",
    "right-to-left override": "\u202e" + HONEST,
    "zero width": HONEST + "\u200b",
    "struck through": HONEST + "\u0338",
    "combining heap": "x" + "\u0301" * 900,
    "foreign digits": "\u0667\u0668",
    "line separator": "1\u2028+\u2029x",
    "newlines": "1\n+\n\r1",
    "another task": '1"]\n["x", "x"]\n',
    "quotes": '"],["x","x"]}\'"""',
    "backslash at the end": "x\\\\",
}
BROKEN = {
    "unknown command": r"\foo{1}",
    "unbalanced parenthesis": "(1,2",
    "empty fraction": r"\frac{}{}",
    "zero division": r"\frac{1}{0}",
    "nothing by nothing": r"\frac{0}{0}",
    "plain zero division": "1/0",
    "zero to the minus one": "0^{-1}",
    "infinity minus infinity": r"\infty-\infty",
    "lonely operator": "+",
    "double powers": "x^2^2^",
    "environment without end": r"\begin{pmatrix}1&2\\3",
    "all of the answers": "1,2,3,4,5,6,7,8,9,10",
    "anything": r"\text{any number}",
    "not a number": r"\text{nan}",
    "the reference in words": r"\text{the right answer}",
    "truth": r"\top",
    "set of everything": r"\mathbb{C}",
    "equation with itself": r"\sqrt{2}+x=\sqrt{2}+x+1",
}
HOSTILE = GROWTH | CALCULUS | NESTING | CODE | TEXT | BROKEN


def response(text: str) -> str:
    return f"\\boxed{{{text}}}"
