"""``python -m rsr_datasets``, and ``accelerate launch -m rsr_datasets``."""

from .cli.commands import main

if __name__ == "__main__":
    main()
