"""What `trimtab accuracy` prints."""

from __future__ import annotations

from collections.abc import Iterator

from trimtab.cli import show
from trimtab.evaluation.accuracy import AccuracyReport
from trimtab.evaluation.length_bias import Correlation
from trimtab.evaluation.subsets import Ranked
from trimtab.stats import Estimate

_OTHER = {"sum": ("arm_per_token", "per token"), "mean": ("arm_summed", "summed")}
"""The reward of an ARM that is not the one it was trained with."""

_HOW = {
    "sum": "summed over the response's tokens, as the ARM was trained, and per token",
    "mean": "per token of the response, as the ARM was trained, and summed",
    "head": "a scalar head's, one number for the whole response: there is none per token",
}


def show_accuracy(report: AccuracyReport) -> None:
    """Tables: all pairs, those matched in length, rewards against lengths, and each subset."""
    screen = show.console()
    on = f" on {report.objective}" if report.objective else ""
    title = f"pairs ranked right{on} ({report.split} split)"
    columns = ("", "accuracy", "95 % interval", "n")
    screen.print(show.table(title, columns, _rows(report, report)))
    percent = f"{100 * report.length_tolerance:g} %"
    if report.length_matched:
        title = f"of these, pairs whose lengths are within {percent}"
        screen.print(show.table(title, columns, _rows(report, report.length_matched)))
    else:
        print(f"matched in length: –, no pair has lengths within {percent} (--length-tolerance)")
    title = "correlation of reward and length"
    columns = ("", "Pearson", "Spearman", "n")
    screen.print(show.table(title, columns, list(_correlations(report))))
    if report.subsets:
        _subsets(report)
    print(f"Rewards: {_HOW[report.rewards]}. Lengths: characters.")
    print("95 % intervals: as wide as if each prompt had but one pair; of correlations, bootstrap.")


def _ways(report: AccuracyReport) -> dict[str, str]:
    """Ways of ranking that are shown, as `Ranked` names them -> as people read them."""
    ways = {"arm": "reward model"}
    if report.rewards in _OTHER:
        name, words = _OTHER[report.rewards]
        ways[name] = f"reward model, {words}"
    return {**ways, "longer": "prefer longer", "bag_of_words": "bag of words"}


def _rows(report: AccuracyReport, of: Ranked) -> list[tuple[str, str, str, str]]:
    rows = []
    for way, words in _ways(report).items():
        share: Estimate | None = getattr(of, way)
        if share is None:
            rows.append((words, "–", "needs --floor-data", "–"))
        else:
            interval = f"{share.low:.3f} – {share.high:.3f}"
            rows.append((words, f"{share.value:.3f}", interval, str(share.n)))
    return rows


def _correlations(report: AccuracyReport) -> Iterator[tuple[str, str, str, str]]:
    for way, words in _ways(report).items():
        if way not in report.lengths:
            continue
        bias = report.lengths[way]
        kind = words.removeprefix("reward model")
        yield f"all answers{kind}", *_correlation(bias.answers)
        yield f"differences in pairs{kind}", *_correlation(bias.differences)


def _correlation(found: Correlation) -> tuple[str, str, str]:
    if found.pearson is None or found.spearman is None:
        return "–", "needs 10 prompts that vary", "–"
    both = (found.pearson, found.spearman)
    pearson, spearman = (f"{e.value:.2f} ({e.low:.2f} – {e.high:.2f})" for e in both)
    return pearson, spearman, str(found.pearson.n)


def _subsets(report: AccuracyReport) -> None:
    """One row a subset, their mean, and all pairs."""
    ways = _ways(report)

    def row(name: str, of: Ranked) -> tuple[str, ...]:
        shares: list[Estimate | None] = [getattr(of, way) for way in ways]
        cells = [f"{s.value:.2f}\n{s.low:.2f}–{s.high:.2f}" if s else "–" for s in shares]
        return (name, str(of.arm.n), *cells)

    rows = [row(name, of) for name, of in report.subsets.items()]
    if report.subset_mean:
        rows.append(row("unweighted mean", report.subset_mean))
    rows.append(row("all pairs", report))
    heads = [words.replace("reward model, ", "").replace(" ", "\n", 1) for words in ways.values()]
    title = f"by {report.by}, with 95 % intervals"
    show.console().print(show.table(title, (report.by, "n", *heads), rows))
    if report.absent:
        print(f"without a pair in this split: {', '.join(report.absent)}")
