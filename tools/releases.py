"""One question of some cells at several releases: since when is a figure what it is?

``python -m tools.releases --tl 3.5.1 --tl 4.3.0 [--question logits] MODEL:DTYPE:OPTION ...`` prints a line for each release
and cell, in TransformerBridge unless ``--wrapper`` says otherwise: the verdict and the largest logit error, or the record of
another question as JSON, or why there is none. A release that cannot be installed is a line too. It answers what many calls
of ``tlbench verify MODEL --tl VERSION`` would, with one import of TransformerLens per release.
"""

import argparse
import json
import os
import sys

from tlbench import catalogue
from tlbench.checkpoints import ensure
from tlbench.environments import lens_environment
from tlbench.exceptions import TlbenchError
from tlbench.grid import Cell, Wrapper
from tlbench.questions.answers import interview
from tlbench.questions.registry import ACCURACY, QUESTIONS
from tlbench.records.serial import plain


def line_of(cell, outcome):
    """What a person reads of one cell."""
    where = f"{cell.model}:{cell.dtype}:{cell.option}"
    if outcome.record is None:
        return f"{where}: {outcome.kind}: {outcome.reason}"
    if isinstance(outcome.record, ACCURACY.record):
        worst = outcome.record.accuracy
        return f"{where}: {outcome.record.verdict}: " + (
            f"{worst.logit.max:.2g} nats" if worst else outcome.record.no_accuracy
        )
    record = {key: value for key, value in plain(outcome.record).items() if key != "cell"}
    return f"{where}: {json.dumps(record)}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cells", nargs="+", metavar="MODEL:DTYPE:OPTION")
    parser.add_argument("--tl", action="append", required=True)
    parser.add_argument("--question", default="logits", choices=["logits", *QUESTIONS])
    parser.add_argument("--wrapper", type=Wrapper, default=Wrapper.TRANSFORMER_BRIDGE)
    wanted = parser.parse_args()
    question = ACCURACY if wanted.question == "logits" else QUESTIONS[wanted.question]
    cells = [Cell(*words.split(":"), wanted.wrapper) for words in wanted.cells]
    models = catalogue.load()
    for name in dict.fromkeys(cell.model for cell in cells):
        ensure(models.get(name), models)
    for release in wanted.tl:
        try:
            python = lens_environment(release).python
            for answers in interview(python, (question,), cells):
                print(release, line_of(answers.cell, answers.outcomes[question.name]), flush=True)
        except TlbenchError as error:
            print(f"{release}: {error}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
