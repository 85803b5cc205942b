"""`python -m ufm_jax` and `ufm`."""

from ufm_jax.interrupt import ending_soon


def main() -> None:
    """Run the command line; Ctrl-C ends it soon, in imports and compilations too."""
    with ending_soon():
        from ufm_jax.cli import main as run

        run()


if __name__ == "__main__":
    main()
