"""Rewards of given responses: in memory, or of a file's rows by a job that can go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.arms.objectives import conditioned_on
from trimtab.data.sources import fingerprint, read_rows
from trimtab.errors import ConfigError
from trimtab.files import only_writer
from trimtab.jobs import Progress, RowFile, Say, going_on, unseen
from trimtab.models.classifiers import is_classifier
from trimtab.models.folder import fetch
from trimtab.models.messages import Prompt
from trimtab.models.types import DType, PromptFormat
from trimtab.scoring.answers import answers_in
from trimtab.scoring.model_scorer import model_identity
from trimtab.scoring.score_files import Answer
from trimtab.steering import PreferenceLike, weights_of

if TYPE_CHECKING:
    from trimtab.arms.reward_model import Scored

logger = logging.getLogger(__name__)


def score(
    arm: str,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    *,
    preference: PreferenceLike | None = None,
    batch_size: int = 16,
    prompt_format: PromptFormat | Sequence[PromptFormat] | None = None,
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
) -> list[Scored]:
    """Rewards of given responses under an ARM or another reward model.

    Args:
        arm: its folder.
        prompts: texts or chats, one per response.
        responses: texts.
        preference: what a conditioned ARM scores for; by default all objectives alike.
        batch_size: rows in one forward pass.
        prompt_format: how plain-text prompts are read, all or one for each; by default as in
            training.
        dtype: of the weights.
        device: where to put them; the GPU by default where there is one.
        trust_remote_code: run model code that comes with the checkpoint.

    Raises:
        PreferenceError: a preference that does not fit the model.
        ModelLoadError: it cannot be loaded, or gives NaN.
    """
    from trimtab.arms.reward_model import RewardModel

    model = RewardModel(arm, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    return model.score(
        prompts,
        responses,
        batch_size=batch_size,
        prompt_format=prompt_format,
        preference=preference,
    )


def score_file(
    arm: str,
    *,
    input: str,
    output: str | Path | None = None,
    preference: PreferenceLike | None = None,
    batch_size: int = 16,
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = unseen,
    say: Say = logger.warning,
) -> list[dict[str, Any]]:
    """Rewards of the responses in a file's rows.

    Args:
        arm: folder or hub id of an ARM or another reward model.
        input: rows with `prompt` and `response`, answers of `generate` or AlpacaEval's outputs, or
            preference pairs (both sides are scored).
        output: JSONL file for the rewards of every token; a killed run goes on where it stopped.
        preference: what a conditioned ARM scores for; by default all objectives alike.
        batch_size: responses in one forward pass.
        dtype: of the weights.
        device: where to put them; the GPU by default where there is one.
        trust_remote_code: run model code that comes with the checkpoint.
        revision: of a hub id: a branch, tag or commit.
        overwrite: replace an output file of another run.
        progress: is told (what, done, total).
        say: is told what a user should know, a line each.

    Returns:
        `source`, `prompt`, `response`, `reward`, `tokens` and `token_rewards` of each response;
        none that were written to a file.

    Raises:
        TrimtabError: rows, options or a model that cannot work; nothing is written.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", "it must be 1 or more")
    answers = [answer for place, row in read_rows(input) for answer in answers_in(place, row)]
    arm = fetch(arm, what="reward model", revision=revision)
    weights_of(preference, conditioned_on(arm))  # refused before anything loads
    run = _Run(arm, preference, batch_size, dtype, device, trust_remote_code, progress)
    if output is None:
        return [row for rows in run.scored(answers) for row in rows]
    path = Path(output)
    with only_writer(path), going_on():
        job = RowFile(path, run.settings(input), overwrite=overwrite)
        if job.done >= len(answers):
            say(f"{path} is complete: {job.done} rows")
            return []
        for rows in run.scored(answers[job.done :]):
            _append(job, rows)
    return []


@dataclass(frozen=True)
class _Run:
    """How responses are scored."""

    arm: str
    preference: PreferenceLike | None
    batch_size: int
    dtype: DType
    device: str | None
    trust_remote_code: bool
    progress: Progress

    def settings(self, source: str) -> dict[str, object]:
        """What an output file's rows depend on."""
        return {
            "arm": self.arm,
            "model": model_identity(self.arm),
            "dtype": self.dtype,
            "preference": self.preference,
            "input_sha256": fingerprint([source]),
            **({"read_as": "classifier"} if is_classifier(self.arm) else {}),
        }

    def scored(self, answers: Sequence[Answer]) -> Iterator[list[dict[str, Any]]]:
        """Output rows, some at a time; what cannot be read is refused before a weight is loaded."""
        from trimtab.arms.reward_model import RewardModel
        from trimtab.arms.reward_reader import RewardReader

        reader = RewardReader(self.arm, trust_remote_code=self.trust_remote_code)
        style = reader.sidecar.prompt_format
        reader.read(*_asked(answers, style))
        model = RewardModel(
            self.arm,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            reader=reader,
        )
        for start in range(0, len(answers), 4 * self.batch_size):
            group = answers[start : start + 4 * self.batch_size]
            prompts, responses, styles, places = _asked(group, style)
            rewards = model.score(
                prompts,
                responses,
                batch_size=self.batch_size,
                prompt_format=styles,
                preference=self.preference,
                places=places,
            )
            yield [_row(answer, scored) for answer, scored in zip(group, rewards, strict=True)]
            self.progress("scoring", start + len(group), len(answers))


def _asked(
    answers: Sequence[Answer], style: PromptFormat
) -> tuple[list[Prompt], list[str], list[PromptFormat], list[str]]:
    """Prompts, responses, how the prompts are read, and places."""
    return (
        [answer.prompt for answer in answers],
        [answer.response for answer in answers],
        ["raw" if answer.verbatim else style for answer in answers],
        [answer.place for answer in answers],
    )


def _row(answer: Answer, scored: Scored) -> dict[str, Any]:
    ended = {"finish_reason": answer.finish_reason} if answer.finish_reason else {}
    return {
        "source": answer.place,
        "prompt": answer.prompt,
        "response": answer.response,
        **ended,
        "reward": scored.reward,
        "tokens": list(scored.tokens),
        "token_rewards": list(scored.token_rewards),
    }


def _append(job: RowFile, rows: list[dict[str, Any]]) -> None:
    with job:
        for row in rows:
            job.append(row)
