"""Masked-language-model training of a teacher on text that it will not label."""
