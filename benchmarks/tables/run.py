"""The papers' tables on a real model, one after the other, and their results into this folder.

    make models
    python benchmarks/tables/run.py --data-dir DATA [--only alignment latency ...]

Each table is `trimtab bench TABLE --config TABLE.yaml`; what it makes (models, answers) stays under
`--work`, and its rows.jsonl, manifest.json, table.md and plot.png are copied to a folder of its
name here, and into `README.md`. A killed run goes on where it stopped. DATA holds `hh-rlhf/`,
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
from pathlib import Path

HERE = Path(__file__).parent
TABLES = sorted(path.stem for path in HERE.glob("*.yaml"))
WRITTEN = ("rows.jsonl", "manifest.json", "table.md", "plot.png")


def make(table: str, options: argparse.Namespace, more: list[str]) -> None:
    """Make one table and take its results."""
    out = options.work / table
    command = [sys.executable, "-m", "trimtab", "bench", table]
    command += ["--config", str(HERE / f"{table}.yaml"), "--data-dir", str(options.data_dir)]
    if table == "weak-to-strong":
        pairs = options.work / "alpaca-pairs"
        script = [str(HERE / "alpaca_pairs.py"), str(options.data_dir / "alpaca-eval"), str(pairs)]
        subprocess.run([sys.executable, *script], check=True)
        command += ["--data", f"preferred={pairs / 'pairs.jsonl'}"]
    command += ["--output-dir", str(out), *more]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=HERE.parents[1])
    print(f"{table}: {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
    (HERE / table).mkdir(exist_ok=True)
    for name in WRITTEN:
        shutil.copyfile(out / name, HERE / table / name)
    put_in(table, (out / "table.md").read_text())


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
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), default=HERE / "work")
    options, more = parser.parse_known_args()
    for table in options.only:
        make(table, options, more)


if __name__ == "__main__":
    main()
