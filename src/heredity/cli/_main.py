"""The group of all commands, and what an error becomes: one line, one hint, one exit code."""

import importlib
import os
import pkgutil
import sys
import traceback

import click

from heredity import __version__
from heredity.errors import HeredityError


class _Verbs(click.Group):
    """Commands are the modules beside this one; each imports its heavy parts only when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from heredity import cli

        return sorted(
            m.name.replace("_", "-") for m in pkgutil.iter_modules(cli.__path__) if m.name[0] != "_"
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"heredity.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="heredity")
def heredity() -> None:
    """Tell what language models inherit: map a family, merge it, track its features."""


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; results go to stdout, everything else to stderr."""
    try:
        heredity.main(args=arguments, prog_name="heredity", standalone_mode=False)
    except HeredityError as error:
        return _report(error.message, error.hint, error.exit_code)
    except click.UsageError as error:
        context = error.ctx.command_path if error.ctx else "heredity"
        return _report(error.format_message(), f"{context} --help lists what it takes", 2)
    except click.ClickException as error:
        return _report(error.format_message(), "", 2)
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted", "run the same command with --resume to go on", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to say
        return 0
    except MemoryError as error:
        return _report(
            f"not enough memory ({error})", "ask for less at once: fewer latents, smaller batches", 1
        )
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _report(f"{name}{error.strerror or error}", "check the path, its permissions and the disk", 1)
    return 0


def _report(message: str, hint: str, code: int) -> int:
    if os.environ.get("HEREDITY_DEBUG") == "1":
        traceback.print_exc()
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    click.secho(f"error: {message}", err=True, fg="red" if colour else None, color=colour)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return code
