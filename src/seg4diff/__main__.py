"""`python -m seg4diff` is the console command `seg4diff`."""

from seg4diff.commands.cli import main

if __name__ == "__main__":
    main()
