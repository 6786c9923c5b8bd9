"""Imported by every Python that is started with this folder on PYTHONPATH: writes down what its code asks the system
for, to the file AUDIT_LOG, a JSON line each. The judge of mathematics, which runs in processes of its own, included.
"""

import ast
import json
import os
import sys

QUIET = {
    "builtins.id", "code.__new__", "function.__new__", "marshal.loads", "object.__delattr__", "object.__getattr__",
    "object.__setattr__", "sys._getframe", "sys.unraisablehook",
}  # fmt: skip
armed = False  # the caller sets it once it has imported what it needs; the judge's nursery when it first forks
_log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _write_down(event, arguments):
    global armed
    armed = armed or event == "os.fork"
    if not armed or event in QUIET:
        return
    if event == "compile":  # text that becomes code
        source = arguments[0]
        if isinstance(source, bytes):
            detail = source.decode(errors="replace")
        else:
            detail = ast.unparse(source) if isinstance(source, ast.AST) else str(source)
    elif event == "exec":  # code that runs: where it is from
        detail = arguments[0].co_filename
    elif event in ("open", "import"):
        detail = [str(argument) for argument in arguments[:2]]
    else:
        detail = repr(arguments)[:200]
    os.write(_log, json.dumps([os.getpid(), event, detail]).encode() + b"\n")


sys.addaudithook(_write_down)
