"""A sweep: every guide answers every prompt at every preference; a killed one goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from trimtab.data.prompts import prompts_sha256
from trimtab.engines.guides import models_of
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Completion, Request
from trimtab.errors import ConfigError, OutputError
from trimtab.files import require_fresh
from trimtab.fronts.guides import BASE, Guide, unguided
from trimtab.jobs import Progress, RowFile
from trimtab.models.memory import free_memory
from trimtab.models.messages import Prompt
from trimtab.models.types import DType, PromptFormat
from trimtab.scoring.model_scorer import model_identity

if TYPE_CHECKING:
    from trimtab.engines.local import LocalEngine

T = TypeVar("T")

RESPONSES, RECORDS = "responses.jsonl", "records.jsonl"
SCORES = "scores.{}.jsonl"  # of an objective
MANIFEST, FRONT, TABLE, PICTURE = "manifest.json", "front.json", "table.md", "front.png"

WARM_UP = 4  # tokens
SEED_STRIDE = 100003  # a prime beyond any number of prompts: seeds of two runs do not meet


@dataclass(frozen=True)
class Sweep:
    """Everything the responses depend on, and how they are made.

    Attributes:
        base: the frozen model.
        guides: what is compared, without the base, which is always measured.
        preferences: points of each front, weight per objective.
        seeds: of sampling; with prompt number i, seed s samples with `100003 s + i` whatever the
            guide and the preference (common random numbers).
        prompts: what is answered.
        sampling: how; its own seed is not used.
        prompt_format: how plain-text prompts are read.
        dtype: of the weights.
        device: where models run; the GPU by default where there is one.
        trust_remote_code: names of the models whose checkpoints' own code may run: `base`, or what
            an ARM is called in its guide, or GUIDE.OBJECTIVE and GUIDE.OBJECTIVE.reference.
        batch_size: responses decoded together.
        revision: of the base, where it is a hub id.
    """

    base: str
    guides: Sequence[Guide]
    preferences: Sequence[Mapping[str, float]]
    seeds: Sequence[int]
    prompts: Sequence[Prompt]
    sampling: Sampling
    prompt_format: PromptFormat = "auto"
    dtype: DType = "auto"
    device: str | None = None
    trust_remote_code: Sequence[str] = ()
    batch_size: int = 32
    revision: str | None = None

    @property
    def size(self) -> int:
        """Number of responses."""
        return responses_needed(
            len(self.guides), len(self.seeds), len(self.preferences), len(self.prompts)
        )

    @property
    def revisions(self) -> dict[str, str]:
        """The base's, by its name."""
        return {BASE: self.revision} if self.revision else {}

    def all_guides(self) -> list[Guide]:
        """The base, then the guides."""
        return [unguided(self.seeds), *self.guides]

    def points(self, guide: Guide) -> Sequence[Mapping[str, float]]:
        """The preferences that a guide is measured at; the base knows none."""
        return [{}] if guide.name == BASE else self.preferences

    def settings(self) -> dict[str, Any]:
        """What the responses depend on, for their file's settings."""
        sampling = self.sampling.written()
        del sampling["seed"]
        return {
            "base": model_identity(self.base) + (f"@{self.revision}" if self.revision else ""),
            "guides": [guide.identity() for guide in self.guides],
            "preferences": [dict(point) for point in self.preferences],
            "seeds": list(self.seeds),
            "prompts": len(self.prompts),
            "prompts_sha256": prompts_sha256(self.prompts),
            "sampling": sampling,
            "prompt_format": self.prompt_format,
            "dtype": self.dtype,
        }


@dataclass(frozen=True)
class Task:
    """One response to make."""

    guide: Guide
    seed: int
    preference: Mapping[str, float]
    prompt_index: int


def responses_needed(guides: int, seeds: int, preferences: int, prompts: int) -> int:
    """Responses of a sweep: the base's at one point, every guide's at all."""
    return (1 + guides * preferences) * seeds * prompts


def require_within_budget(
    guides: int, seeds: int, preferences: int, prompts: int, *, most: int, max_new_tokens: int
) -> None:
    """Refuse a sweep of more responses than were allowed.

    Raises:
        ConfigError: it says what the sweep would take.
    """
    needed = responses_needed(guides, seeds, preferences, prompts)
    if needed > most:
        raise ConfigError(
            f"the sweep needs {needed} responses ((1 base + {guides} guides x {preferences} "
            f"preferences) x {seeds} seeds x {prompts} prompts), at most "
            f"{needed * max_new_tokens} tokens; --max-responses is {most}",
            "take a larger --preference-step, fewer --seeds or prompts (--prompts-limit), or raise "
            "--max-responses",
        )


def responses_file(folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> RowFile:
    """The file of a sweep's responses: begun, to go on with, or new.

    Raises:
        OutputError: the folder holds something else, without `overwrite`.
    """
    path = folder / RESPONSES
    if not path.is_file():
        require_fresh(folder, overwrite=overwrite)
    return own_file(lambda: RowFile(path, settings, overwrite=overwrite))


def own_file(make: Callable[[], T]) -> T:
    """What `make` opens in an output folder; another run's file is refused in this command's words.

    Raises:
        OutputError: from `make`.
    """
    try:
        return make()
    except OutputError as error:
        raise OutputError(
            error.args[0], "choose another --output-dir, or pass --overwrite"
        ) from None


def require_vocabularies(sweep: Sweep) -> None:
    """Refuse guides whose tokens are not the base's, from their files alone.

    Raises:
        VocabularyError: it names the ARM.
    """
    from trimtab.engines.local.tokenization import check_vocabularies
    from trimtab.models.origins import Origins

    arms: dict[str, str] = {}
    trusted = {*sweep.trust_remote_code}
    for guide in sweep.guides:
        loads = guide.loads()
        for seeds, folders in loads:
            seed = f", seed {seeds[0]}" if len(loads) > 1 else ""
            for name, folder in folders.items():
                told = f"{'' if name == guide.name else f'{name} of '}{guide.name}{seed}"
                arms[told] = folder
                trusted |= {told} if name in sweep.trust_remote_code else set()
        models = models_of(guide.contrast)
        arms |= {told: models[name] for name, told in guide.opposed().items()}
    check_vocabularies(sweep.base, arms, Origins(frozenset(trusted), sweep.revisions))


def respond(
    sweep: Sweep, job: RowFile, progress: Progress, *, begun: Callable[[], None] = lambda: None
) -> None:
    """Make the responses that the file lacks. One engine at a time is in memory.

    Args:
        sweep: what to do.
        job: from `responses_file`.
        progress: is told (what, done, total).
        begun: is called once a model is loaded and the file is open, before the first response.
    """
    passed = 0
    for guide in sweep.all_guides():
        for seeds, arms in guide.loads():
            tasks = list(_tasks(sweep, guide, seeds))
            left = tasks[max(job.done - passed, 0) :]
            passed += len(tasks)
            if left:
                engine = _load(sweep, guide, arms)
                _answer(sweep, engine, left, job, progress, begun)
                del engine
                free_memory()


def _tasks(sweep: Sweep, guide: Guide, seeds: Sequence[int]) -> Iterator[Task]:
    for seed in seeds:
        for preference in sweep.points(guide):
            for index in range(len(sweep.prompts)):
                yield Task(guide, seed, preference, index)


def _load(sweep: Sweep, guide: Guide, arms: Mapping[str, str]) -> LocalEngine:
    from trimtab.engines.local import load_engine

    more: dict[str, Any] = {} if guide.combine == "fusion" else {"combine": guide.combine}
    more |= {"policy": arms} if guide.policies else {}
    if guide.instruct or guide.contrast:
        more |= {"instruct": guide.instruct, "contrast": guide.contrast}
    called = {name: name for name in (BASE, *arms)} | guide.opposed()
    return load_engine(
        sweep.base,
        None if guide.policies else arms,
        dtype=sweep.dtype,
        device=sweep.device,
        prompt_format=sweep.prompt_format,
        trust_remote_code=[
            name for name, told in called.items() if told in sweep.trust_remote_code
        ],
        revisions=sweep.revisions,
        **more,
    )


def _answer(
    sweep: Sweep,
    engine: LocalEngine,
    tasks: Sequence[Task],
    job: RowFile,
    progress: Progress,
    begun: Callable[[], None],
) -> None:
    """Answer tasks in one stream of requests.

    `seconds` of a row is the time since the row before: their sum is the guide's time.
    """
    plans = [engine.plan(_request(sweep, task)) for task in tasks]
    _warm_up(sweep, engine, tasks)
    with job:
        begun()
        last = time.perf_counter()
        answers = engine.answers(plans, batch_size=sweep.batch_size)
        for task, completion in zip(tasks, answers, strict=True):
            now = time.perf_counter()
            job.append(_row(sweep, task, completion, now - last))
            progress("answering", job.done, sweep.size)
            last = now


def _warm_up(sweep: Sweep, engine: LocalEngine, tasks: Sequence[Task]) -> None:
    """Answer a few tokens for nobody: what a process and a model do but once is no guide's time."""
    few = replace(sweep.sampling, max_new_tokens=min(WARM_UP, sweep.sampling.max_new_tokens))
    short = replace(sweep, sampling=few)
    plans = [engine.plan(_request(short, task)) for task in tasks[: sweep.batch_size]]
    for _ in engine.answers(plans, batch_size=sweep.batch_size):
        pass


def _row(sweep: Sweep, task: Task, completion: Completion, seconds: float) -> dict[str, Any]:
    return {
        "guide": task.guide.name,
        "seed": task.seed,
        "preference": dict(task.preference),
        "prompt_index": task.prompt_index,
        "prompt": sweep.prompts[task.prompt_index],
        "response": completion.text,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids),
        "seconds": round(seconds, 6),
    }


def _request(sweep: Sweep, task: Task) -> Request:
    seed = SEED_STRIDE * task.seed + task.prompt_index
    return Request(
        sweep.prompts[task.prompt_index],
        task.preference or None,
        task.guide.strength,
        replace(sweep.sampling, seed=seed),
    )
