"""Evaluate: `python evaluate.py ckpt=<run folder | .ckpt | LoRA | base>`, on standard benchmarks with `benchmark=paper`."""

from seg4diff.commands.evaluate import main

if __name__ == "__main__":
    main()
