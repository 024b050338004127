"""``python -m vlaudit``."""

from vlaudit.cli import main

if __name__ == "__main__":
    main()
