"""Search methods: rules that ask the engine for tokens and a reward model for its opinion."""
