"""The commands that messages tell the user to run next."""

import shlex
import sys
from pathlib import Path

PROGRAM = "papers-to-gpt"


def command(script: str, *arguments: object) -> str:
    """Returns a command line that runs a script in the way in which this process was started.

    `papers-to-gpt classify ...` follows another command of `papers-to-gpt`, which may be installed without a clone.
    `python recipes/classify.py ...` follows a script, from the folder that the script was named in.

    Args:
        script: the name of the script's file without its extension, such as `classify`.
        arguments: arguments for it, quoted for a shell where necessary.
    """
    started = sys.argv[0]
    if started.split()[:1] == [PROGRAM]:
        words = [PROGRAM, script.replace("_", "-")]
    else:
        beside = Path(started).parent / f"{script}.py"
        words = ["python", str(beside if beside.is_file() else Path("recipes", f"{script}.py"))]
    return shlex.join([*words, *map(str, arguments)])
