"""What makes the tiny model: its pretraining, autoencoder and tokenizer; and what measures it exactly.

The toy world has prompts with known answers, and an evaluator that finds the things in an image without a network.
"""
