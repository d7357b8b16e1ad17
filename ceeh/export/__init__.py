"""A run's model as a Hugging Face folder, with a card that says how it was made and what was measured."""
