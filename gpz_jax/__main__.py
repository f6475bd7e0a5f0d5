"""The commands under one name: ``gpz train --ls 0.3`` is ``python -m gpz_jax.train --ls 0.3``."""

import importlib
import importlib.metadata
import sys

from gpz_jax.errors import UserError, did_you_mean, one_line_errors
from gpz_jax.flags import flags_of

#: Every command, in the order of use, and what it does.
COMMANDS = {
    "train": "train a classifier, measure every cut and locate the zone",
    "probe": "measure R_c^2 and rho of a run at every cut, against untrained copies",
    "attack": "rebuild the input from what is sent at each cut, and score that",
    "cuts": "price every cut of a model or a run, and recommend one",
    "split": "write both halves of a run as files that jax alone runs",
    "vortex": "read what a run kept of every training step",
    "report": "write what is known of runs as one HTML page",
}

ABOUT = """usage: gpz COMMAND [FLAGS]     (python -m gpz_jax COMMAND [FLAGS] is the same)

Where should a network be cut between edge and cloud so that what is sent cannot
be turned back into the input?

{commands}

  gpz COMMAND --help          every flag of a command, with examples
  gpz --version
  gpz --completion {shells}   print a script that completes commands and flags;
                              in ~/.bashrc: eval "$(gpz --completion bash)"

Begin with: gpz train --ls 0.3     (about a minute on two cores, nothing to download)
""".replace("{shells}", "bash|zsh")

SHELLS = ("bash", "zsh")


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    """Run the command that the first argument names, or say which there are."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(ABOUT.replace("{commands}", "\n".join(f"  {name:<8}{does}" for name, does in COMMANDS.items())))
    elif argv[0] == "--version":
        print(f"gpz_jax {importlib.metadata.version('gpz-jax')}")
    elif argv[0] == "--completion":
        print(completion(argv[1] if argv[1:] else ""))
    elif argv[0] in COMMANDS:
        command(argv[0]).main(argv[1:], prog=f"gpz {argv[0]}")
    else:
        raise UserError(f"unknown command {argv[0]!r}{did_you_mean(argv[0], COMMANDS)} (gpz alone lists them)")


def command(name: str):
    """The module of a command."""
    return importlib.import_module(f"gpz_jax.{name}")


def completion(shell: str) -> str:
    """A script that completes commands, flags and file names.

    Raises:
      UserError: a shell that it cannot be written for.
    """
    if shell not in SHELLS:
        raise UserError(f"--completion {shell!r}{did_you_mean(shell, SHELLS)}")
    cases = "\n".join(
        f"    {name}) words={' '.join(flags_of(getattr(command(name), name.capitalize())))!r} ;;" for name in COMMANDS
    )
    head = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return f"""{head}_gpz() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words=
  case "${{COMP_WORDS[1]}}" in
{cases}
  esac
  if [ "$COMP_CWORD" -eq 1 ]; then words='{" ".join(COMMANDS)} --help --version --completion'; fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  if [ "$COMP_CWORD" -gt 1 ] && [ "${{word#-}}" = "$word" ]; then COMPREPLY+=($(compgen -f -- "$word")); fi
}}
complete -o filenames -F _gpz gpz"""


if __name__ == "__main__":
    main()
