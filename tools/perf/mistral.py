"""What memory a large model takes: Mistral-7B's true shape with random weights, written shard by shard, then measured.

``python -m tools.perf mistral`` measures it in float16 as a user would, by ``tlbench verify``, and says what memory each
process held at most. ``python -m tools.perf.mistral bytes`` says what a parameter costs by TransformerLens, dtype and
option, from two small models of the same architecture that differ in depth alone.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from math import prod, sqrt
from pathlib import Path

import torch
from packaging.version import Version
from safetensors.torch import save_file

from tlbench.checkpoints import byte_tokenizer, prompts, zoo
from tlbench.cli.subject import prepared
from tlbench.environments import lens_environment
from tlbench.exceptions import BadInput
from tlbench.files import locked
from tlbench.paths import cache_dir

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
GIB = 2**30
FLOAT16_BYTES = 2
SPARE_DISK_BYTES = 2 * GIB
"""What is left for others while the checkpoint lies there."""
HOOKED_NAME = "mistralai/Mistral-7B-v0.1"
SAMPLING_S = 0.05
ROLES = {
    "measuring": "TransformerLens's server",
    "references": "HuggingFace's references and goldens",
    "-c": "one model alone",
}


# The checkpoint ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """The sizes of a Mistral; the architecture's constants are those of the zoo's."""

    name: str
    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    n_kv_heads: int
    d_vocab: int
    n_ctx: int = 32768
    window: int = 4096

    @property
    def d_head(self):
        return self.d_model // self.n_heads

    def config(self):
        """``config.json``."""
        return {
            **zoo.mistral().config,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_mlp,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.d_head,
            "vocab_size": self.d_vocab,
            "max_position_embeddings": self.n_ctx,
            "sliding_window": self.window,
            "torch_dtype": "float16",
        }

    def block(self, index):
        """The sizes of a block's parameters, by name."""
        prefix, n_kv = f"model.layers.{index}", self.n_kv_heads * self.d_head
        return {
            f"{prefix}.input_layernorm.weight": (self.d_model,),
            f"{prefix}.self_attn.q_proj.weight": (self.d_model, self.d_model),
            f"{prefix}.self_attn.k_proj.weight": (n_kv, self.d_model),
            f"{prefix}.self_attn.v_proj.weight": (n_kv, self.d_model),
            f"{prefix}.self_attn.o_proj.weight": (self.d_model, self.d_model),
            f"{prefix}.post_attention_layernorm.weight": (self.d_model,),
            f"{prefix}.mlp.gate_proj.weight": (self.d_mlp, self.d_model),
            f"{prefix}.mlp.up_proj.weight": (self.d_mlp, self.d_model),
            f"{prefix}.mlp.down_proj.weight": (self.d_model, self.d_mlp),
        }

    def shards(self):
        """The sizes of each file's parameters: one for either end and one a block."""
        yield {"model.embed_tokens.weight": (self.d_vocab, self.d_model)}
        yield from (self.block(index) for index in range(self.n_layers))
        yield {"model.norm.weight": (self.d_model,), "lm_head.weight": (self.d_vocab, self.d_model)}

    def parameters(self):
        """How many there are."""
        return sum(prod(size) for shard in self.shards() for size in shard.values())


MISTRAL_7B = Shape("mistral-7b-shape", 32, 4096, 14336, 32, 8, 32000)
SMALL = Shape("mistral-small", 4, 1024, 3584, 8, 2, 8000, n_ctx=256, window=256)
"""Of the same proportions; its context is short, so that masks and rotary tables weigh as little as in the large one."""
DEEPER = replace(SMALL, name="mistral-small-deep", n_layers=20)


def drawn(name, size):
    """A float16 parameter, the same for the same name, size and torch. A gain's entries lie on [0.4, 1.6]."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    generator = torch.Generator().manual_seed(seed)
    if len(size) == 1:
        return (0.4 + 1.2 * torch.rand(size, generator=generator)).half()
    scale = 1.0 if name.endswith("embed_tokens.weight") else 1 / sqrt(size[1])
    return torch.empty(size).normal_(0, scale, generator=generator).half()


def write_checkpoint(shape, folder):
    """Write a random checkpoint shard by shard: no more than one shard is in memory.

    Raises:
        BadInput: if the disk has no room for it.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    needed, free = FLOAT16_BYTES * shape.parameters() + SPARE_DISK_BYTES, shutil.disk_usage(cache_dir()).free
    if needed > free:
        raise BadInput(
            f"{shape.name} needs {needed / GIB:.1f} GiB of disk with what is left for others, and {cache_dir()} has "
            f"{free / GIB:.1f} GiB free: free some, or set TLBENCH_CACHE to a folder on a larger disk"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shards, weight_map = list(shape.shards()), {}
    for index, sizes in enumerate(shards, 1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        save_file({name: drawn(name, size) for name, size in sizes.items()}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(sizes, file)
    total = {"total_size": FLOAT16_BYTES * shape.parameters()}
    texts = {
        "model.safetensors.index.json": json.dumps({"metadata": total, "weight_map": weight_map}),
        "config.json": json.dumps(shape.config(), indent=1),
        prompts.FILE_NAME: prompts.to_json(prompts.tokenize(byte_tokenizer.encode)),
        **byte_tokenizer.files(),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


@contextlib.contextmanager
def checkpoint_of(shape, keep=False):
    """Its folder in the cache; deleted afterwards unless it is to be kept. One that was kept is used again, and stays."""
    folder = cache_dir() / "large" / shape.name
    done = folder / "complete"
    with locked(cache_dir() / "locks" / f"large-{shape.name}.lock"):
        kept = done.exists()
        try:
            if not kept:
                write_checkpoint(shape, folder)
                done.touch()
            yield folder
        finally:
            if not keep and not kept:
                shutil.rmtree(folder, ignore_errors=True)


# Watching memory -----------------------------------------------------------------------------------------------------


@dataclass
class Peak:
    """The most that a process held, in bytes. Anonymous memory has to be there; what is backed by a file can be read again.

    Attributes:
        anonymous: of sampled ``RssAnon``.
        file_backed: of sampled ``RssFile``.
        resident: the kernel's own ``VmHWM``, of both together.
        seconds: from the first sample to the last.
    """

    anonymous: int = 0
    file_backed: int = 0
    resident: int = 0
    seconds: float = 0.0


@dataclass
class Watch:
    """What a process and its descendants held while they ran.

    Attributes:
        peaks: by the process's role.
        together: of the anonymous memory of all of them at one moment, in bytes.
    """

    peaks: dict[str, Peak] = field(default_factory=dict)
    together: int = 0

    def sample(self, pid, started):
        now, total = time.monotonic(), 0
        for one in family(pid):
            # A process that has just ended has no sizes any more.
            with contextlib.suppress(OSError, KeyError):
                sizes = resident(one)
                peak = self.peaks.setdefault(role(words_of(one)), Peak())
                peak.anonymous = max(peak.anonymous, sizes["RssAnon"])
                peak.file_backed = max(peak.file_backed, sizes["RssFile"])
                peak.resident = max(peak.resident, sizes["VmHWM"])
                peak.seconds = max(peak.seconds, now - started.setdefault(one, now))
                total += sizes["RssAnon"]
        self.together = max(self.together, total)


def family(pid):
    """A process and its descendants, from the kernel's own lists: to look at every process would cost too much."""
    yield pid
    with contextlib.suppress(OSError):
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from family(int(child))


def words_of(pid):
    """A process's command line."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def resident(pid):
    """The memory lines of a process's status, in bytes."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def role(words):
    """What a process of tlbench does, by its command line."""
    roles = (name for start, name in ROLES.items() if any(word.startswith(start) for word in words[1:4]))
    return next(roles, "tlbench itself")


def watched(words, **environment):
    """Run a command; what it printed, its exit status, and what it and its descendants held at most."""
    watch, started, over = Watch(), {}, threading.Event()
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", **environment}
    with subprocess.Popen(words, env=settings, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:

        def sample():
            while not over.wait(SAMPLING_S):
                watch.sample(run.pid, started)

        sampler = threading.Thread(target=sample)
        sampler.start()
        out, err = run.communicate()
        over.set()
        sampler.join()
    if run.returncode not in (0, 1):
        raise SystemExit(err)
    return out, run.returncode, watch


# As a user would -----------------------------------------------------------------------------------------------------


def show(**figure):
    print(json.dumps(figure), flush=True)


def figures(shape=MISTRAL_7B, tl="4.3.0", dtype="float16", option="unprocessed", keep=False):
    """One JSON line for the writing, one for each process, and one for what was found."""
    started = time.monotonic()
    with checkpoint_of(shape, keep) as folder:
        written = sum(path.stat().st_size for path in folder.iterdir())
        seconds = round(time.monotonic() - started, 1)
        show(name=f"{shape.name} written", parameters=shape.parameters(), bytes=written, seconds=seconds)
        started = time.monotonic()
        asked = ["--tl", tl, "--dtype", dtype, "--option", option, "--question", "logits", "--hooked-name", HOOKED_NAME]
        words = [str(BIN / "python"), "-m", "tlbench.cli", "verify", str(folder), *asked, "--json"]
        forget_references(shape.name)
        out, status, watch = watched(words, TLBENCH_REMEASURE="1")
        forget_references(shape.name)
        for name, peak in watch.peaks.items():
            show(name=name, **in_gib(peak), anonymous_bytes_a_parameter=round(peak.anonymous / shape.parameters(), 3))
        anonymous = round(watch.together / GIB, 2)
        show(name="all processes at one moment", anonymous_gib=anonymous, seconds=round(time.monotonic() - started, 1))
        answered = json.loads(out)
        cells = [cell for cell in answered["cells"] if cell["verdict"] != "n/a" or cell["max"] is not None]
        show(name="verify", exit_status=status, conclusion=answered["conclusion"], cells=cells)


def in_gib(peak):
    sizes = {f"{name}_gib": round(value / GIB, 2) for name, value in asdict(peak).items() if name != "seconds"}
    return {**sizes, "seconds": round(peak.seconds, 1)}


# What a parameter costs ----------------------------------------------------------------------------------------------

AS_IF_LARGE = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""glibc gives a large tensor pages of its own and takes them back when it is freed. Here that holds of small ones, too."""
RUN_REFERENCE = """
import sys
from tlbench.reference.huggingface import compute_missing
dtype, name = sys.argv[1:]
compute_missing("logits", "eager", dtype, name)
"""
LOAD_AND_RUN = """
import sys, torch
from tlbench.grid import Cell
from tlbench.questions.loading import forward, load_cell
from tlbench.reference import huggingface
checkpoint, model = load_cell(Cell(*sys.argv[1:]))
forward(model, huggingface.tokens(checkpoint, "origin"))
"""


def bytes_a_parameter(releases, dtypes, options):
    """By how much the anonymous peak of loading and one forward grows with each parameter that a deeper model has more."""
    more = DEEPER.parameters() - SMALL.parameters()
    with checkpoint_of(SMALL) as small, checkpoint_of(DEEPER) as deep:
        for dtype in dtypes:
            low, high = (reference_peak(folder, dtype) for folder in (small, deep))
            show(name="HuggingFace's reference", dtype=dtype, **growth(low, high, more))
        for release in releases:
            python = lens_environment(release).python
            wrapper = "TransformerBridge" if Version(release) >= Version("4") else "HookedTransformer"
            for dtype in dtypes:
                for option in options:
                    low, high = (lens_peak(folder, python, dtype, option, wrapper) for folder in (small, deep))
                    show(
                        name=f"TransformerLens {release}",
                        wrapper=wrapper,
                        dtype=dtype,
                        option=option,
                        **growth(low, high, more),
                    )


def lens_peak(folder, python, dtype, option, wrapper):
    with prepared(str(folder), HOOKED_NAME) as (checkpoint, _):
        cell = [checkpoint.model.name, dtype, option, wrapper]
        _, status, watch = watched([str(python), "-c", LOAD_AND_RUN, *cell], **AS_IF_LARGE)
    if status:
        raise SystemExit(f"{' '.join(cell)} ended with status {status}")
    return watch.peaks[ROLES["-c"]]


def reference_peak(folder, dtype):
    with prepared(str(folder)) as (checkpoint, _):
        forget_references(checkpoint.model.name)
        _, status, watch = watched([str(BIN / "python"), "-c", RUN_REFERENCE, dtype, checkpoint.model.name], **AS_IF_LARGE)
        forget_references(checkpoint.model.name)
    if status:
        raise SystemExit(f"HuggingFace's reference of {checkpoint.model.name} in {dtype} ended with status {status}")
    return watch.peaks[ROLES["-c"]]


def forget_references(model):
    """Delete HuggingFace's kept logits, so that they are computed while memory is watched."""
    for kept in (cache_dir() / "references").glob(f"{model}-*"):
        kept.unlink()


def growth(low, high, parameters):
    """Bytes a parameter, and what the anonymous ones of them come to at Mistral-7B's size."""
    each = {
        f"{name}_bytes_a_parameter": round((getattr(high, name) - getattr(low, name)) / parameters, 2)
        for name in ("anonymous", "file_backed", "resident")
    }
    whole = each["anonymous_bytes_a_parameter"] * MISTRAL_7B.parameters() / GIB
    return {**each, "mistral_7b_anonymous_gib": round(whole, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["verify", "bytes"])
    parser.add_argument("--small", action="store_true", help="a small model of the same architecture instead")
    parser.add_argument("--keep", action="store_true", help="do not delete the checkpoint afterwards")
    parser.add_argument("--tl", action="append", help="TransformerLens's releases")
    parser.add_argument("--dtype", action="append")
    parser.add_argument("--option", action="append")
    wanted = parser.parse_args()
    releases = wanted.tl or ["4.3.0", "3.5.1", "2.18.0"]
    dtypes = wanted.dtype or ["float16"]
    options = wanted.option or ["unprocessed", "fold_ln", "all_options"]
    if wanted.what == "bytes":
        bytes_a_parameter(releases, dtypes, options)
    else:
        figures(SMALL if wanted.small else MISTRAL_7B, releases[0], dtypes[0], options[0], wanted.keep)


if __name__ == "__main__":
    main()
