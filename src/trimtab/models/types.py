"""Names that options take, of weights and of prompts. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""Type of weights; `auto` is float32 on a CPU, the checkpoint's own on an accelerator."""

Quantization = Literal["int8", "int4"]
"""Bits of a quantised weight."""

PromptFormat = Literal["auto", "chat", "raw"]
"""How a plain-text prompt is read: as the tokenizer has it, as one user turn, or as it stands."""
