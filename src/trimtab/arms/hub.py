"""A finished folder to the Hugging Face hub. The login is checked before there is a folder.

The login is the hub client's own (`hf auth login`, or `HF_TOKEN`): a token on the command line
would stay in the shell's history and in the model card.
"""

from __future__ import annotations

import fnmatch
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, OutputError, first_line
from trimtab.files import OTHER_MODEL
from trimtab.models.folder import is_local

logger = logging.getLogger(__name__)

_PUSHED = (*OTHER_MODEL, "README.md", "results.json")
"""What of a folder goes to the hub: the model, its sidecar, its card and what was measured. Not
checkpoints, logs or settings."""


@dataclass(frozen=True)
class Destination:
    """A repository at the hub that may be written.

    Attributes:
        repo: its id, OWNER/NAME.
        private: make it private, where it has to be made; None for the account's default.
    """

    repo: str
    private: bool | None = None


def destination(repo: str, *, private: bool = False) -> Destination:
    """Where a folder will go; nothing is made there yet.

    Args:
        repo: OWNER/NAME, or NAME for one of your own.
        private: make it private.

    Raises:
        ConfigError: a bad id, no login, one that may not write there, or no answer of the hub.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(
            f"--hub-model-id {repo} is no hub id ({first_line(error)})", "write OWNER/NAME"
        ) from None
    if huggingface_hub.get_token() is None:
        raise ConfigError("--push-to-hub without a login", "run `hf auth login`, or set HF_TOKEN")
    try:
        account = huggingface_hub.whoami()
    except Exception as error:  # the hub client raises a zoo of types
        raise ConfigError(
            f"cannot log in to the hub ({first_line(error)})",
            "run `hf auth login` again, or leave out --push-to-hub",
        ) from error
    owner, _, name = repo.rpartition("/")
    _require_rights(account, owner)
    return Destination(f"{owner or account['name']}/{name}", private or None)


def _require_rights(account: dict[str, Any], owner: str) -> None:
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise ConfigError(
            "the hub's token may only read", "make one that may write, and run `hf auth login`"
        )
    owners = [account["name"], *(group["name"] for group in account.get("orgs") or [])]
    if owner and owner not in owners:
        raise ConfigError(
            f"the login {account['name']} cannot write to {owner}'s models at the hub",
            f"it can write to those of: {', '.join(owners)}",
        )


def warn_of_a_local_base(model: str) -> None:
    """Say that an adapter at the hub is of little use to others if its base is not there."""
    if is_local(model):
        logger.warning(
            "%s is on this machine: who loads an adapter of it from the hub needs it, too "
            "(train on the base's hub id)",
            model,
        )


def push(folder: Path, to: Destination) -> str:
    """Put a finished folder at the hub, in one commit; returns its address.

    Raises:
        OutputError: the hub did not take it; the folder is as it was.
    """
    import huggingface_hub

    names = [path.name for path in folder.iterdir() if _is_pushed(path.name)]
    names += [f"{name}/*" for name in names if (folder / name).is_dir()]
    try:
        made = huggingface_hub.create_repo(to.repo, private=to.private, exist_ok=True)
        huggingface_hub.upload_folder(
            repo_id=to.repo,
            folder_path=folder,
            allow_patterns=names,
            ignore_patterns=["checkpoints/*"],
            commit_message="Reward model by Trimtab",
        )
    except Exception as error:  # the hub client raises a zoo of types
        raise OutputError(
            f"{folder} is whole, but the hub did not take it as {to.repo} ({first_line(error)})",
            f"push it later: hf upload {to.repo} {folder} --exclude 'checkpoints/*'",
        ) from error
    return str(made)


def _is_pushed(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in _PUSHED)
