"""All benchmarks, one after the other."""

from benchmarks import capture, processes, scale, segment, stream, train_step
from benchmarks.measure import main

if __name__ == "__main__":
    main([capture.run, segment.run, stream.run, train_step.run, scale.run, processes.run])
