"""All tables, one after the other."""

from speed import capture, segment, stream, train_step
from speed.measure import main

if __name__ == "__main__":
    main([capture.run, segment.run, stream.run, train_step.run])
