"""The teacher: a Hugging Face folder, who it is, and the masked language model that scores with it."""
