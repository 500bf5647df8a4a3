"""Rewards of given responses, as a function and as a job over files."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.arms.reward_model import RewardModel, Scored
from trimtab.models.messages import Prompt
from trimtab.models.types import DType, PromptFormat
from trimtab.steering import PreferenceLike


def score_responses(
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
    model = RewardModel(arm, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    return model.score(
        prompts,
        responses,
        batch_size=batch_size,
        prompt_format=prompt_format,
        preference=preference,
    )
