"""Any causal LM, from a folder, a hub id or a GGUF file: checked, loaded, and how it reads text."""
