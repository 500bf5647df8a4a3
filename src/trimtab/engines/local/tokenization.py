"""What reads text for each stream: tokenizer, vocabulary and context, before a weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from trimtab.arms.load import config_of, has_tokenizer, tokenizer_of
from trimtab.arms.sidecar import same_backbone
from trimtab.engines.guides import model_label
from trimtab.engines.local.streams import BASE
from trimtab.errors import ModelLoadError, first_line
from trimtab.models.dequantize import facts_folder
from trimtab.models.folder import is_adapter
from trimtab.models.limits import configured_ends, context_limit
from trimtab.models.origins import Origins
from trimtab.models.protocols import Tokenizer
from trimtab.models.vocabulary import VocabularyMap, match_vocabularies


@dataclass(frozen=True)
class Tokenization:
    """Of one stream.

    Attributes:
        tokenizer: its own.
        vocabulary: how its ids line up with the base's.
        context: tokens that its model reads, where it has a limit.
    """

    tokenizer: Tokenizer
    vocabulary: VocabularyMap
    context: int | None


def check_vocabularies(base: str, arms: Mapping[str, str], origins: Origins) -> None:
    """Whether ARMs' tokens are the base's, from configs and tokenizers alone.

    Raises:
        VocabularyError: an ARM whose tokens are not, named.
    """
    load_tokenizations(base, arms, origins)


def load_tokenizations(
    base: str, others: Mapping[str, str], origins: Origins
) -> dict[str, Tokenization]:
    """The base's reader, and those of ARMs and of a draft model.

    Args:
        base: folder, GGUF file or hub id.
        others: name -> folder.
        origins: of all of them.

    Raises:
        VocabularyError: one whose tokens are not the base's, named.
    """
    folders = {BASE: base, **others}
    options = {
        name: origins.options(name) if name == BASE else _local(origins, name) for name in folders
    }
    on_base = {
        name: is_adapter(folder) and same_backbone(folder, base, origins.revision(BASE))
        for name, folder in folders.items()
    }
    read: dict[str, Any] = {}  # a folder's once, so that streams of one folder can be told alike
    tokenizers, configs = {}, {}
    for name, folder in folders.items():
        owner = BASE if on_base[name] else name  # the base is here, wherever the adapter says it is
        configs[name] = config_of(folders[owner], **options[owner])
        owner = name if has_tokenizer(folder) else owner
        if folders[owner] not in read:
            read[folders[owner]] = tokenizer_of(folders[owner], **options[owner])
        tokenizers[name] = read[folders[owner]]
    heads = {name: int(config.get_text_config().vocab_size) for name, config in configs.items()}
    ends = _end_ids(base, origins)
    size = min(heads[BASE], max(tokenizers[BASE].get_vocab().values()) + 1)
    maps = {BASE: VocabularyMap(size, size)}
    for name, folder in others.items():
        maps[name] = match_vocabularies(
            tokenizers[BASE],
            tokenizers[name],
            base_head=heads[BASE],
            arm_head=heads[name],
            base_ends=ends,
            arm_name=f"the {model_label(name, others)} ({folder})",
        )
    return {n: Tokenization(tokenizers[n], maps[n], context_limit(configs[n])) for n in folders}


def _local(origins: Origins, name: str) -> dict[str, Any]:
    """Options of a model that has been fetched: its revision is settled."""
    return {"trust_remote_code": origins.trusts(name)}


def _end_ids(name: str, origins: Origins) -> list[int]:
    """The base's end-of-turn ids, from its generation config (a folder without one has none)."""
    try:
        config = transformers.GenerationConfig.from_pretrained(
            facts_folder(name), **origins.options(BASE)
        )
    except OSError as error:
        if (Path(name) / "generation_config.json").is_file():  # there, and broken
            raise ModelLoadError(
                f"cannot read {name}/generation_config.json ({first_line(error)})", "save it again"
            ) from error
        return []
    return configured_ends(config)
