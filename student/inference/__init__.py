"""A trained model in use: recognition, evaluation, averaging, export."""
