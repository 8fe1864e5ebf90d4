"""`python -m bisync`: the same as the command `bisync`."""

from bisync.cli import main

if __name__ == "__main__":
    main()
