"""Input projectors: encoder features to language-model tokens."""
