"""The papers' tables on a real model, one after the other, and their results into this folder.

    make models
    python benchmarks/tables/run.py --data-dir DATA [--only alignment latency ...]

Each table is `trimtab bench TABLE --config TABLE.yaml`; what it makes (models, answers) stays under
`--work`, and its rows.jsonl, manifest.json, table.md and plot.png are copied to a folder of its
name here, and into `README.md`. A killed run goes on where it stopped. `--full` makes them larger,
several at a time, for a GPU. DATA holds `hh-rlhf/`,
`ultrafeedback-1k/`, `alpaca-eval/` and `pandalm/` as the configs name them. Other options are
handed on, such as `--device cuda` or `--dtype bfloat16`: on one GPU nothing but local files is
needed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
TABLES = sorted(path.stem for path in HERE.glob("*.yaml"))
WRITTEN = ("rows.jsonl", "manifest.json", "table.md", "plot.png")
TIMED = ("latency", "training")
"""Tables of times, which are made alone; the others of a `--full` run are made side by side."""
ALL = "base genarm dpo best-of-n rejection args transfer-q cards vas controlled-decoding"
ALL += " blockwise-decoding cbs mcts by-itself shuffled-labels cooled-base system-prompt"
FULL = {
    "accuracy": "--pairs 500 --seeds 3 --methods genarm trajectory dpo --test-pairs 1000"
    " --lengths helpful=256 ultrafeedback=512 --test-length 768",
    "alignment": f"--pairs 1200 --judge-pairs 1750 --prompts 96 --methods {ALL}",
    "multi-objective": "--pairs 600 --seeds 3 --judge-pairs 700 --test-pairs 1000 --prompts 96"
    " --lengths helpful=320 --test-length 384",
    "weak-to-strong": "--pairs 600 --seeds 3 --judge-pairs 520 --prompts 72",
    "training": "--sizes 200 400 800",
}
"""Sizes for a GPU, where the configs have those of two cores."""
ON_GPU = "--batch-size 192 --at-once 4"


def make(table: str, options: argparse.Namespace, more: list[str]) -> None:
    """Make one table and copy its results."""
    out = options.work / table
    command = [sys.executable, "-m", "trimtab", "bench", table]
    command += ["--config", str(HERE / f"{table}.yaml"), "--data-dir", str(options.data_dir)]
    if table == "weak-to-strong":
        pairs = options.work / "alpaca-pairs"
        script = [str(HERE / "alpaca_pairs.py"), str(options.data_dir / "alpaca-eval"), str(pairs)]
        subprocess.run([sys.executable, *script], check=True)
        command += ["--data", f"preferred={pairs / 'pairs.jsonl'}"]
    command += ["--output-dir", str(out), *more]
    if options.full:
        command += [*FULL.get(table, "").split(), *ON_GPU.split()]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=HERE.parents[1])
    print(f"{table}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
    (HERE / table).mkdir(exist_ok=True)
    for name in WRITTEN:
        shutil.copyfile(out / name, HERE / table / name)


def put_in(table: str, text: str) -> None:
    """A table into its place in README.md."""
    readme = HERE / "README.md"
    begin, end = f"<!-- {table}: written by run.py -->", f"<!-- end of {table} -->"
    place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    picture = f"![{table}]({table}/plot.png)"
    whole = f"{begin}\n{text}\n{picture}\n{end}"
    readme.write_text(place.sub(lambda _: whole, readme.read_text()))


def main() -> None:
    """Make the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--data-dir", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--full", action="store_true", help="the sizes for a GPU")
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), default=HERE / "work")
    options, more = parser.parse_known_args()
    beside = [table for table in options.only if options.full and table not in TIMED]
    with ThreadPoolExecutor(max(1, len(beside))) as pool:
        [*pool.map(lambda table: make(table, options, more), beside)]
    for table in options.only:
        if table not in beside:
            make(table, options, more)
        put_in(table, (HERE / table / "table.md").read_text())


if __name__ == "__main__":
    main()
