"""How a reward model reads prompts and responses: everything about it but its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import transformers

from trimtab.arms.load import config_of, tokenizer_of
from trimtab.arms.objectives import conditioned_on
from trimtab.arms.sidecar import SCALAR_METHODS, Sidecar, language_model_facts
from trimtab.arms.starts import start_of
from trimtab.errors import ConfigError
from trimtab.models.classifiers import is_classifier, require_one_output
from trimtab.models.folder import fetch
from trimtab.models.limits import context_limit
from trimtab.models.messages import Prompt
from trimtab.models.prompts import (
    StartedPrompt,
    conversation_ids,
    require_embedded,
    response_ids,
)
from trimtab.models.types import PromptFormat

Row = tuple[list[int], list[int]]  # ids of the prompt and of the response


class RewardReader:
    """What a reward model's folder says about reading; no weight is loaded.

    Args:
        folder: what `trimtab train` wrote, any causal LM (an ARM *is* one), or any sequence
            classifier with one output, which reads the whole chat as its template writes it.
        trust_remote_code: run model code that comes with the checkpoint.

    Attributes:
        sidecar: its facts.
        objectives: what a conditioned ARM was trained for.
        tokenizer: a transformers tokenizer.
        judges: it scores by a scalar head.
        context: tokens it can read, where it has a limit.

    Raises:
        MissingFileError, ModelLoadError: a folder that is not there or cannot be read, or a
            classifier with several outputs.
    """

    def __init__(self, folder: str, *, trust_remote_code: bool = False) -> None:
        self.folder = folder = fetch(folder, what="reward model")
        self.sidecar = Sidecar.load(folder)
        self.objectives = conditioned_on(folder)
        ours = self.sidecar.method in SCALAR_METHODS
        self._reads_chats_whole = not ours and is_classifier(folder)
        self.judges = ours or self._reads_chats_whole
        if self.judges:
            require_one_output(folder)
        else:
            language_model_facts(folder)
            start_of(folder)  # what is not there is refused before a weight is loaded
        self._config = config_of(folder, trust_remote_code=trust_remote_code)
        self._trusted = trust_remote_code
        self.tokenizer = tokenizer_of(folder, trust_remote_code=trust_remote_code)
        self.context = context_limit(self._config)

    def read(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        prompt_format: PromptFormat | Sequence[PromptFormat] | None = None,
        places: Sequence[str] = (),
    ) -> list[Row]:
        """Token ids of each prompt and its response.

        Args:
            prompts: one per response.
            responses: texts.
            prompt_format: how plain-text prompts are read, all or one for each; by default as in
                training.
            places: what an error calls each row; `row 1`, `row 2`, … by default.

        Raises:
            ConfigError: lists of different lengths, a row longer than the model reads, or a text
                that nobody knows how it reads.
        """
        if len(prompts) != len(responses):
            raise ConfigError(f"{len(prompts)} prompts for {len(responses)} responses", "pair them")
        styles = prompt_format or self.sidecar.prompt_format
        if isinstance(styles, str):
            styles = [styles] * len(prompts)
        rows = [self._row(*row) for row in zip(prompts, responses, styles, strict=True)]
        for i, (prompt_ids, _) in enumerate(rows):
            if not prompt_ids:  # a classifier has all its tokens there
                raise ConfigError(
                    f"{place_of(places, i)} has an empty prompt: nothing predicts its first token",
                    "give it a prompt, or leave it out",
                )
        lengths = [len(prompt) + len(response) for prompt, response in rows]
        longest = max(range(len(rows)), key=lengths.__getitem__, default=0)
        if self.context and rows and lengths[longest] > self.context:
            raise ConfigError(
                f"{place_of(places, longest)} has {lengths[longest]} tokens with its prompt, "
                f"the model reads {self.context}",
                "shorten it; nothing is cut in silence",
            )
        for prompt_ids, answer_ids in rows:
            require_embedded([*prompt_ids, *answer_ids], self.embedded, self.tokenizer)
        return rows

    @property
    def embedded(self) -> int:
        """Tokens that the model has embeddings for."""
        return int(self._config.get_text_config().vocab_size)

    def beginning(self, prompt: Prompt) -> Beginning:
        """A prompt whose response is under way.

        Raises:
            ConfigError: nobody knows how it reads.
        """
        style = self.sidecar.prompt_format
        started = StartedPrompt.of(self.tokenizer, prompt, style)
        self.read([prompt], [""], style, ["the prompt"])  # refuses what it cannot read
        return Beginning(self, prompt, started)

    def _row(self, prompt: Prompt, response: str, style: PromptFormat) -> Row:
        if not self._reads_chats_whole:
            return response_ids(self.tokenizer, prompt, response, style)
        ids, is_chat = conversation_ids(self.tokenizer, prompt, response, style)
        if not is_chat and not self._reads_the_last_token():
            raise ConfigError(
                f"{self.folder} has no chat template: how an encoder reads a chat is unknown",
                "put chat_template.jinja into its folder",
            )
        return ids, []

    def _reads_the_last_token(self) -> bool:
        """Whether the head is a decoder's, which all call `score`, rather than on a `[CLS]`."""
        with torch.device("meta"):
            skeleton = transformers.AutoModelForSequenceClassification.from_config(
                self._config, trust_remote_code=self._trusted
            )
        return hasattr(skeleton, "score")


@dataclass(frozen=True)
class Beginning:
    """A prompt, and how responses to it are read while they grow.

    Attributes:
        reader: of the reward model.
        prompt: as it was given.
        started: ready for its responses.
    """

    reader: RewardReader
    prompt: Prompt
    started: StartedPrompt

    @property
    def ids(self) -> list[int]:
        """Of the prompt."""
        return self.started.ids

    def so_far(self, text: str) -> list[int]:
        """Ids of the prompt and of a response that goes on.

        Raises:
            ConfigError: it is longer than the model reads.
        """
        ids = self.started.beginning(self.reader.tokenizer, text)
        return self.within(ids)

    def whole(self, text: str) -> list[int]:
        """Ids of the prompt and of a whole response, as `RewardReader.read` has them.

        Raises:
            ConfigError: it is longer than the model reads.
        """
        [(prompt, response)] = self.reader.read([self.prompt], [text], places=["an answer"])
        return [*prompt, *response]

    def within(self, ids: list[int]) -> list[int]:
        """The same ids, if the model can read so many.

        Raises:
            ConfigError: it cannot.
        """
        context = self.reader.context
        if context and len(ids) > context:
            raise ConfigError(
                f"prompt and answer come to {len(ids)} tokens, and the reward model "
                f"{self.reader.folder} reads {context}",
                "shorten the prompt or lower --max-new-tokens",
            )
        return ids


def place_of(places: Sequence[str], i: int) -> str:
    """What an error calls a row."""
    return places[i] if places else f"row {i + 1}"
