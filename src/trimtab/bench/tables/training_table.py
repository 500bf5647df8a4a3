"""Time, memory and accuracy of a training against the number of pairs: ARM, reward model, DPO."""

from __future__ import annotations

from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.jobs import Job, Work
from trimtab.bench.tables.report import Report, cell
from trimtab.bench.tables.training import Accuracy, Floors, Train, accuracy_of

METHODS = {"genarm": "ARM", "trajectory": "trajectory reward model", "dpo": "DPO"}


def sizes(config: TableConfig) -> list[int]:
    """Numbers of pairs."""
    return config.sizes or [config.pairs]


def jobs(config: TableConfig) -> list[Job]:
    """Train each kind on each number of pairs, one after the other."""
    found: list[Job] = []
    for size in sizes(config):
        for method in METHODS:
            name = f"{method}-{size}"
            found += [Train(name, method, pairs=size), Accuracy(f"accuracy {name}", name)]
        found.append(Floors(f"floors {size}", pairs=size))
    return found


def report(work: Work) -> Report:
    """A row per kind and number of pairs."""
    lines = []
    for size in sizes(work.config):
        arm = work.rows[f"genarm-{size}"]["train_seconds"]
        for method, shown in METHODS.items():
            row = work.rows[f"{method}-{size}"]
            seconds = row["train_seconds"]
            accuracy = cell(accuracy_of(work, f"{method}-{size}"), 3)
            memory = f"{row['peak_bytes'] / 2**30:.2f}"
            lines.append(
                [str(size), shown, f"{seconds:.0f}", f"{seconds / arm:.2f}", memory, accuracy]
            )
        floors = work.rows[f"floors {size}"]
        for name in ("prefer longer", "bag of words"):
            if name in floors:
                value = floors[name]
                text = f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
                lines.append([str(size), name, "–", "–", "–", text])
    columns = ["pairs", "", "training, s", "x the ARM's", "memory, GiB", "accuracy"]
    n = accuracy_of(work, f"genarm-{sizes(work.config)[0]}").n
    notes = [
        f"One training seed; n = {n} held-out pairs with Wilson's 95 % interval. Memory is the "
        "whole process at its peak, libraries included (on a GPU what its tensors take). DPO's "
        "accuracy is that of its implicit reward, log π − log π_start.",
    ]
    return Report("training", columns, lines, notes)
