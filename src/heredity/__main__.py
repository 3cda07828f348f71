"""`python -m heredity` is the command line."""

from heredity.cli import main

if __name__ == "__main__":
    main()
