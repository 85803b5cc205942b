"""`python -m ufm_jax` and `ufm`."""

from typing import NoReturn

from ufm_jax.interrupt import run_command


def main() -> NoReturn:
    """Run the command line; Ctrl-C ends it soon, in imports and compilations too."""

    def command() -> None:
        from ufm_jax.cli import main as run

        run()

    run_command(command)


if __name__ == "__main__":
    main()
