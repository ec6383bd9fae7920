"""The command line: `main` and one module per group of commands.

Commands read options, call the SDK or the server's composition root, and print. Nothing is decided
here. What a command needs beyond the client is imported when it runs, so that the client-only
installation has all the other commands.
"""

from __future__ import annotations

import typer

from .. import __version__
from ..errors import TangramError
from . import demo, doctor, images, plan, run, serve, simulate, watch
from .terminal import EXIT_FAILURE, complain

app = typer.Typer(
    name="tangram",
    help="A resource orchestrator for agentic RL: cores, quotas and sandboxes by the action.",
    epilog="Start a server with `tangram serve`, then try `tangram run -- nproc`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command(epilog=serve.EXAMPLES)(serve.serve)
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.command(epilog=run.EXAMPLES, context_settings={"allow_interspersed_args": False})(run.run)
app.command(epilog="Example: tangram status --server gpu-7:7070")(watch.status)
app.command(epilog="Example: tangram top")(watch.top)
app.command(epilog="Example: tangram explain 0199f3c2")(watch.explain)
app.command(epilog="Example: tangram logs 0199f3c2 -f")(watch.logs)
app.command(epilog="Example: tangram cancel --task grpo-7 --step 12")(watch.cancel)
app.add_typer(images.app, name="images")
app.command(epilog="Example: tangram doctor --json")(doctor.doctor)
app.command(epilog=simulate.EXAMPLES)(simulate.simulate)
app.command(epilog=plan.EXAMPLES)(plan.plan)


@app.command(epilog="Example: tangram version")
def version() -> None:
    """Print the version of this installation."""
    print(f"tangram {__version__}")


def main() -> None:
    """The entry point of the command `tangram`."""
    try:
        app(prog_name="tangram")
    except TangramError as error:
        complain(error)
        raise SystemExit(EXIT_FAILURE) from None
