"""Train: `python train.py experiment=quickstart` (conf/experiment lists the others)."""

from seg4diff.commands.train import main

if __name__ == "__main__":
    main()
