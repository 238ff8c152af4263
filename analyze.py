"""Analyze: `python analyze.py [backbone=sd3_medium data=coco_stuff]`: which block of a model grounds words, and why."""

from seg4diff.commands.analyze import main

if __name__ == "__main__":
    main()
