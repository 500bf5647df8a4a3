"""What the folders of an engine say: all that can be refused before a weight is loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from trimtab.arms.objectives import require_unconditioned
from trimtab.arms.sidecar import Sidecar, arm_facts, language_model_facts
from trimtab.arms.starts import start_to_load
from trimtab.engines.guides import START, model_label
from trimtab.engines.local.drafting import NGRAM
from trimtab.engines.local.streams import DRAFT
from trimtab.engines.local.tokenization import Tokenization, load_tokenizations
from trimtab.errors import ConfigError
from trimtab.models.classifiers import require_language_model
from trimtab.models.folder import check_folder, fetch, is_adapter
from trimtab.models.origins import Origins
from trimtab.steering import Combine

logger = logging.getLogger(__name__)


def checked_folders(
    base: str,
    arms: Mapping[str, str],
    own: Mapping[str, str],
    models: Mapping[str, str],
    draft: str | None,
    combine: Combine,
    origins: Origins,
) -> tuple[dict[str, Sidecar], dict[str, Tokenization]]:
    """Sidecars and tokenizations by the stream's name, once nothing is to be refused.

    Args:
        base: folder, GGUF file or hub id.
        arms: name -> folder of ARMs.
        own: of what is combined: ARMs, or policies.
        models: of all but the base and the draft model.
        draft: what drafts.
        combine: how several act.
        origins: of all models.

    Raises:
        VocabularyError: an ARM whose tokens are not the base's, named.
        ModelLoadError, MissingFileError, ConfigError: a folder that has no part in this.
    """
    check_folder(base, what="base model")
    require_language_model(base)
    facts = {
        name: (arm_facts if name in arms else language_model_facts)(
            folder, model_label(name, models)
        )
        for name, folder in models.items()
    }
    for name in models.keys() - own.keys():
        require_unconditioned(model_label(name, models), models[name])
    drafts = {DRAFT: draft} if draft and draft != NGRAM else {}
    tokenizations = load_tokenizations(base, {**models, **drafts}, origins)
    templates = {tokenizations[name].tokenizer.chat_template for name in own}
    if "soup" in combine and len(templates) > 1:
        raise ConfigError("the ARMs of a soup have different chat templates", "train them alike")
    _warn_of_other_objectives(arms, facts)
    return facts, tokenizations


def fetched_starts(arms: Mapping[str, str], base: str) -> dict[str, str]:
    """NAME.start -> folder of the models that whole ARMs are measured against.

    An adapter's is its own backbone, which is loaded with it.

    Raises:
        ModelLoadError, MissingFileError: one that is not there, or no longer the same.
    """
    found = {name + START: start_to_load(folder, base) for name, folder in arms.items()}
    return {
        name: start.place
        if start.place == base
        else fetch(start.place, what=model_label(name, found), revision=start.revision)
        for name, start in found.items()
        if start
    }


def checked_draft(draft: str | None, origins: Origins) -> str | None:
    """The draft model, fetched where a revision is asked for.

    Raises:
        ConfigError, MissingFileError: it is none.
    """
    if draft is None or draft == NGRAM:
        return draft
    if origins.revision(DRAFT):
        draft = fetch(draft, what="draft model", revision=origins.revision(DRAFT))
    check_folder(draft, what="draft model")
    if is_adapter(draft):
        raise ConfigError(
            f"the draft model {draft} is an adapter", "name a whole model; an ARM drafts by itself"
        )
    return draft


def _warn_of_other_objectives(arms: Mapping[str, str], facts: Mapping[str, Sidecar]) -> None:
    for objective, folder in arms.items():
        trained_for = facts[objective].objective
        if trained_for not in ("", objective) and not facts[objective].preference:
            logger.warning(
                "the ARM %s was trained for %r and is used as %r", folder, trained_for, objective
            )
