"""What the toy world knows exactly: prompts with known answers, and an evaluator that finds the things in an image without a network."""
