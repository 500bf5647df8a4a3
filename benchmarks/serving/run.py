"""A server under load, over loopback: right, lasting, and how fast.

    make models
    python benchmarks/serving/run.py equal soak throughput

Each part starts `trimtab serve` itself, in a process of its own, and writes `PART.json` and its
place in `README.md` beside this file. It begins nothing new after `--minutes`, and says what it so
left out: at most one measurement is under way then. Give `throughput` the machine alone. The exit
code is 1 if a check of a part did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from equal import equal
from report import put_in
from soak import soak
from throughput import throughput

from trimtab.bench.machine import conditions

HERE = Path(__file__).parent
PARTS = {"equal": equal, "soak": soak, "throughput": throughput}


def main() -> int:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--minutes", type=float, default=6, help="of each part")
    parser.add_argument("--streams", type=int, default=200, help="of equal")
    parser.add_argument("--stream-tokens", type=int, default=16, help="of an answer of equal")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer of throughput")
    parser.add_argument("--requests", type=int, default=5000, help="of soak")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="of throughput")
    parser.add_argument("--repeats", type=int, default=2, help="of throughput")
    parser.add_argument("--dtype", default="bfloat16", help="of throughput")
    parser.add_argument(
        "--continuous", action="store_true", help="give transformers serve --continuous-batching"
    )
    parser.add_argument("--output-dir", type=Path, default=HERE)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    held = [_run(part, options) for part in options.parts]
    return 0 if all(held) else 1


def _run(part: str, options: argparse.Namespace) -> bool:
    """A part, and its files; whether all checks held."""
    about, start = conditions("cpu"), time.perf_counter()
    result = PARTS[part](options)
    result |= {
        "seconds": time.perf_counter() - start,
        "settings": {k: v for k, v in vars(options).items() if k not in ("parts", "output_dir")},
        "conditions": about,
    }
    (options.output_dir / f"{part}.json").write_text(json.dumps(result, indent=2) + "\n")
    put_in(options.output_dir / "README.md", part, result)
    print(json.dumps({"part": part, **result["checks"]}, indent=2), flush=True)
    return all(result["checks"].values())


if __name__ == "__main__":
    sys.exit(main())
