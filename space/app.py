"""The page of seg4diff as a Space: upload this folder once seg4diff is on the package index, and set the secret SEG4DIFF_APP_PASSWORD."""

import sys

from seg4diff.commands.cli import main

if __name__ == "__main__":
    sys.argv[1:] = ["app", "--host", "0.0.0.0"]
    main()
