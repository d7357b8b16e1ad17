"""python -m benchmarks.scaling: memory, traffic and seconds of a rollout step, 1.5B to 70B, 1 to 512 GPUs.

Arithmetic on the project's memory plan, not a measurement; `--write` puts the tables into docs/scaling.md.
`--measure` shards a small model over two gloo ranks and counts the bytes that the arithmetic predicts, best
alone on a loopback device:
  unshare --net sh -c "ip link set lo up; python -m benchmarks.scaling --measure"
"""

import argparse

from benchmarks.scaling.measure import measure
from benchmarks.scaling.tables import PAGE, TABLES, write


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help=f"the tables into {PAGE.name}")
    parser.add_argument("--measure", action="store_true", help="two ranks on this machine")
    given = parser.parse_args(arguments)
    if given.measure:
        kinds = [(micro, every) for micro in (1, 2, 4) for every in (False, True)]
        for (micro, every), seen in zip(kinds, measure(kinds), strict=True):
            print(
                f"{micro} micro-batches, gradients reduced {'each' if every else 'once'}: predicted "
                f"{seen.predicted / 1e6:.2f} MB, counted {seen.counted / 1e6:.2f} MB, "
                f"{seen.seconds:.3f} s"
            )
    elif given.write:
        write()
    else:
        print("\n\n".join(f"{name}\n{table()}" for name, table in TABLES.items()))


if __name__ == "__main__":
    main()
