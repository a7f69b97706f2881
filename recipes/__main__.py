"""The command `papers-to-gpt`: every script of the recipes by its name.

papers-to-gpt train-translation numbers/bahdanau
papers-to-gpt COMMAND --help
"""

import ast
import difflib
import importlib
import sys
from pathlib import Path

from papers_to_gpt.settings.arguments import run_script
from papers_to_gpt.settings.commands import PROGRAM

COMMANDS = {
    path.stem.replace("_", "-"): path
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if not path.stem.startswith("_")
}


def list_commands() -> str:
    """Returns a line for each command: its name, and the first line of its script's docstring."""
    width = max(map(len, COMMANDS))
    lines = [f"usage: {PROGRAM} COMMAND [PRESET] [--setting value ...]", ""]
    for command, path in COMMANDS.items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        lines.append(f"  {command:{width}}  {docstring.splitlines()[0]}")
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help lists the settings of a command."])


def run_command() -> None:
    """Runs the command that the first argument names; without one, lists them.

    Raises:
        ValueError: there is no such command.
    """
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(list_commands())
        return
    command = sys.argv[1].replace("_", "-")
    if command not in COMMANDS:
        nearest = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"There is no command {sys.argv[1]!r}.{hint} The commands are {', '.join(COMMANDS)}.")
    # The script reads its arguments as if it had been started itself.
    sys.argv = [f"{PROGRAM} {command}", *sys.argv[2:]]
    importlib.import_module(f"papers_to_gpt.{COMMANDS[command].stem}").main()


def main() -> None:
    run_script(run_command)


if __name__ == "__main__":
    main()
