"""Import a package from many source trees in one process, which has imported the heavy libraries once and forks per tree.

``python -P tools/import_server.py`` runs in an environment that has the packages and needs no other. Each line of its
standard input is a request, ``{"folder": ..., "modules": [[NAME, ATTRIBUTE], ...]}``. Each answer is a line too: ``{"found":
[ATTRIBUTE, ...], "reason": ...}``, where the reason is of the first module that does not import.
"""

import gc
import importlib
import json
import os
import signal
import sys
import traceback
from contextlib import suppress

TIME_LIMIT_S = 300
HEAVY = (
    *("torch", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    *("transformers.generation.utils", "accelerate", "beartype", "better_abc", "datasets", "einops", "fancy_einsum"),
    *("huggingface_hub", "jaxtyping", "numpy", "pandas", "rich", "tqdm", "typeguard", "wandb"),
)
"""What versions of TransformerLens import. Those that an environment lacks are left out."""


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for name in HEAVY:
        with suppress(Exception):
            importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def answer(request):
    """Import in a fork."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            signal.alarm(TIME_LIMIT_S)
            with os.fdopen(writing, "w") as file:
                json.dump(imported(**request), file)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, ended = os.waitpid(pid, 0)
    if text and not ended:
        return json.loads(text)
    number = os.WTERMSIG(ended)
    reason = f"took longer than {TIME_LIMIT_S} s" if number == signal.SIGALRM else f"the process died ({ended})"
    return {"found": [], "reason": reason}


def imported(folder, modules):
    """Import the modules from a folder, which comes before everything installed."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    found, reason = [], ""
    for name, attribute in modules:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:  # else this version has no such module
                reason = reason or f"{name}: {type(error).__name__}: {error}"
        except BaseException as error:
            reason = reason or f"{name}: {type(error).__name__}: {error}"
        else:
            file = str(module.__file__)
            if not file.startswith(folder + os.sep):
                reason = reason or f"{name} was imported from {file}"
            else:
                with suppress(Exception):  # 4.0 raises ImportError for what it has removed
                    getattr(module, attribute)
                    found.append(attribute)
    return {"found": found, "reason": reason or ("" if found else "it has none of the classes")}


if __name__ == "__main__":
    main()
