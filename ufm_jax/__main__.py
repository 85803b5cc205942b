"""`python -m ufm_jax` is `ufm`."""

from ufm_jax.cli import main

if __name__ == "__main__":
    main()
