"""The layouts in which the field publishes preferences, each translated into one of pairs."""
