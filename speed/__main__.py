"""All tables, one after the other."""

from speed import capture, end_to_end, readers, segment, stream, train_step
from speed.measure import main

if __name__ == "__main__":
    main([capture.run, segment.run, end_to_end.run, stream.run, readers.run, readers.refine, train_step.run])
