"""Training steps of dlmini beside other libraries', and how their cost grows.

    python -m benchmarks                   all workloads, all contenders that are installed
    python -m benchmarks a d --only torch dlmini-numpy numpy
    python -m benchmarks scaling           time against size, memory, overhead, first gradient …
    python -m benchmarks report            benchmarks/README.md, the book's page and its figures
    python -m benchmarks --cuda c e f      dlmini on torch:cuda beside PyTorch on the same card

Float32, one thread, medians; ratios are taken round by round. Writes benchmarks/results.json.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from . import results, turns
from .contenders import BASE, entrants
from .workloads import WORKLOADS


def compare(names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Measure the workloads, print a table as it grows, and return what there is to save."""
    device = "cuda" if options.cuda else "cpu"
    table = turns.TABLES[device]
    found = {}
    for name in names:
        chosen = {k: c for k, c in entrants(name, table).items() if k in (options.only or table)}
        left = {k: why for k, c in chosen.items() if (why := c.missing())}
        print(f"\n{name}: {WORKLOADS[name].about}", flush=True)
        records, failed = turns.measure(
            WORKLOADS[name], [k for k in chosen if k not in left], options.rounds,
            options.processes, device, options.threads,
        )  # fmt: skip
        if BASE not in records:
            raise SystemExit(f"{chosen[BASE].label} has to take part: {(left | failed)[BASE]}")
        lines = {}
        for key, record in records.items():
            base = records[BASE].us
            ratios = [us / base[turn] for turn, us in record.us.items() if turn in base]
            low, middle, high = results.summary(ratios)
            lines[key] = {
                "us": results.summary(list(record.us.values()))[1],
                "ratio": middle, "quartiles": [low, high], "turns": len(record.us),
                "first_s": results.summary(record.first_s)[1],
                "threads": results.summary(record.threads)[1],
            }  # fmt: skip
            line = lines[key]
            print(
                f"  {chosen[key].label:26} {line['us']:12,.1f} µs   {middle:7.3f}"
                f"  ({low:.3f} to {high:.3f})   first step {line['first_s']:6.2f} s"
                f"   threads {line['threads']:.2f}", flush=True,
            )  # fmt: skip
        left |= failed
        for key, why in left.items():
            print(f"  {chosen[key].label:26} left out: {why}", flush=True)
        found[name] = {
            "contenders": lines, "left_out": left, "rounds": options.rounds * options.processes,
            "processes": options.processes, "threads": options.threads, "gpu": records[BASE].gpu,
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "what", nargs="*", help=f"'scaling', 'report', or some of {' '.join(WORKLOADS)}; all"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns in one process (5)")
    parser.add_argument("--processes", type=int, default=2, help="one after the other (2)")
    parser.add_argument("--threads", type=int, default=1, help="of each library (1)")
    parser.add_argument("--only", nargs="+", help=f"contenders: {' '.join(turns.TABLES['cpu'])}")
    parser.add_argument("--cuda", action="store_true", help="dlmini and PyTorch on a GPU")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="scaling: smaller, fewer repeats")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        device, key, threads = options.worker
        turns.work(device, key, int(threads))
    elif options.what == ["report"]:
        from . import report

        report.write(results.load(options.out))
    elif options.what == ["scaling"]:
        from . import scaling

        results.save({"scaling": scaling.measure(options.quick)}, options.out)
    else:
        names = options.what or list(WORKLOADS)
        unknown = sorted(set(names) - set(WORKLOADS))
        if unknown:
            parser.error(f"unknown workloads {unknown}: there are {' '.join(WORKLOADS)}")
        if options.only and set(options.only) - set(turns.TABLES["cpu"]):
            parser.error(f"--only takes some of {' '.join(turns.TABLES['cpu'])}")
        if options.only and BASE not in options.only:
            options.only.insert(0, BASE)
        section = "cuda" if options.cuda else "steps"
        if options.threads > 1 and not options.cuda:
            section += f"_{options.threads}_threads"
        for name in names:
            results.save({section: compare([name], options)}, options.out)


if __name__ == "__main__":
    sys.exit(main())
