"""Where each model of an engine may come from: whose code may run, and which revision is meant."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Origins:
    """Asked for each model apart.

    Attributes:
        trusted: names of models whose checkpoints' code may run.
        revisions: name -> branch, tag or commit of its hub id.
    """

    trusted: frozenset[str] = frozenset()
    revisions: Mapping[str, str] | None = None

    @classmethod
    def of(
        cls, names: Sequence[str], trusted: Collection[str], revisions: Mapping[str, str]
    ) -> Origins:
        """Checked against the models that there are.

        Raises:
            ConfigError: a name that is none of them.
        """
        if isinstance(trusted, bool | str):
            raise ConfigError(
                f"trust_remote_code is {trusted!r}", "name the models: trust_remote_code=['base']"
            )
        for name in (*trusted, *revisions):
            if name not in names:
                raise ConfigError(f"no model is called {name!r}", f"there are {', '.join(names)}")
        return cls(frozenset(trusted), dict(revisions))

    def with_starts(self, starts: Mapping[str, str]) -> Origins:
        """With models whose code may run where that of other models may: name -> that one's."""
        also = {name for name, other in starts.items() if other in self.trusted}
        return replace(self, trusted=self.trusted | also)

    def revision(self, name: str) -> str | None:
        """Of a model."""
        return (self.revisions or {}).get(name)

    def trusts(self, name: str) -> bool:
        """Whether a model's own code may run."""
        return name in self.trusted

    def options(self, name: str) -> dict[str, Any]:
        """Of a model, as `load_model`, `load_config` and `load_tokenizer` take them."""
        return {"trust_remote_code": self.trusts(name), "revision": self.revision(name)}
