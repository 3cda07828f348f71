"""Run a model over text and write the statistics that regmean and fisher merge by.

    collect("lua", read_contexts("text/train", Path("lua"), domains=["lua"]), "lua.stats", input_gram=True)

Sums are float64, of float32 blocks. They are made for as many tensors at a time as fit into `max_bytes`, in one
pass over the text for each such part, and kept beside the result from time to time, so that a killed run goes on.
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float32, Int
from numpy import ndarray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heredity import __version__
from heredity.atomic import replacing
from heredity.checkpoint import Checkpoint
from heredity.errors import ConfigError, MismatchError, StoreError
from heredity.header import TensorInfo, read_header
from heredity.models.contexts import Contexts
from heredity.models.information import information_parts
from heredity.models.inputs import input_parts
from heredity.models.load import load
from heredity.readers import opened
from heredity.statistics import Later, Statistics, fingerprint, write_statistics

_LOG = logging.getLogger("heredity.models")

SAVE_EVERY_SECONDS = 60.0
Progress = Callable[[int, int], None]
Tell = Callable[[int], None]


class Part(Protocol):
    """Sums over the text for some tensors.

    Attributes:
        kind: of statistics.
        shapes: tensor of the checkpoint → shape of its sum.
        sums: tensor → float64; filled by the one who runs it.
        count: what the sums are divided by in the end; 0 at first.
        step: sequences taken at a time.
    """

    sums: dict[str, Tensor]
    count: int

    @property
    def kind(self) -> Literal["input_gram", "fisher"]: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def step(self) -> int: ...

    def add(self, blocks: Int[Tensor, "sequences context"], first: int) -> None:
        """Add some sequences; `first` is the number of the first one."""


def collect(
    model: Path | str, contexts: Contexts, out: Path | str, *, input_gram: bool = False, fisher: bool = False,
    labels: Literal["model", "data"] = "model", seed: int = 0, device: str = "cpu", dtype: str = "float32",
    max_bytes: int = 4_000_000_000, batch_tokens: int | None = None, resume: bool = False,
    overwrite: bool = False, progress: Progress | None = None,
) -> Path:  # fmt: skip
    """Write a statistics file of one model over text, whole or not at all.

    `input_gram` is Σ x xᵀ over tokens, divided by their number, for what comes into every Linear and Conv1D.
    `fisher` is the diagonal of the Fisher information for each predicted token: the sum over sequences of the
    squared gradient of a sequence's log-likelihood, one backward pass each, divided by the number of predicted
    tokens. With labels drawn from the model the gradients of different tokens are uncorrelated, so this is
    an unbiased estimate of the mean over tokens of E[g²]; with the labels of the text (the empirical Fisher)
    it also holds what the tokens of a sequence have in common. In a masked LM the labels are those of 15 % of
    the tokens, which are masked.

    Args:
        model: folder of the checkpoint.
        contexts: the text.
        out: file to write.
        input_gram: record the inputs of linear layers.
        fisher: record the Fisher information.
        labels: of the Fisher information: drawn from the model's own predictions, or the text's.
        seed: of drawn labels and of masks.
        device: torch device.
        dtype: in which the model runs; products and squares are float32 and float64.
        max_bytes: most memory for sums (and, for the Fisher information, gradients).
        batch_tokens: tokens of a forward pass for `input_gram`.
        resume: go on with an interrupted run of the same model and text.
        overwrite: replace a file that exists.
        progress: called with tokens done and tokens in all, over all passes.

    Returns:
        The file.

    Raises:
        ConfigError: nothing is asked for, the file exists, one tensor's sum is larger than `max_bytes`, or the
            model gives no log-likelihood of tokens.
        CheckpointError: the model cannot be loaded.
        MismatchError: a token is outside the model's vocabulary, or the text longer than its positions.
        StoreError: a sum is not finite.
    """
    if not (input_gram or fisher):
        raise ConfigError("nothing to collect", "ask for input_gram, fisher or both")
    checkpoint, out = Checkpoint.open(Path(model)), Path(out)
    about = {
        "heredity": __version__, "model": fingerprint(checkpoint), "data": contexts.digest, "seed": str(seed),
        "labels": labels, "dtype": dtype, "max_bytes": str(max_bytes), "batch_tokens": str(batch_tokens),
        "kinds": " ".join(k for k, on in {"input_gram": input_gram, "fisher": fisher}.items() if on),
        "n_tokens": str(contexts.blocks.size), "source": contexts.source,
    }  # fmt: skip
    work = out.with_name(f".{out.name}.work")
    if _is_done(out, about, resume=resume, overwrite=overwrite):
        return out
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    live = load(model, device=device, dtype=dtype, as_saved=True)
    _check_fit(live, contexts)
    names = stored_names(live, checkpoint)
    parts: list[Part] = []
    extra: dict[str, str] = {}
    if input_gram:
        first = torch.from_numpy(np.asarray(contexts.blocks[:1], np.int64))
        found, extra = input_parts(live, names, first, max_bytes, batch_tokens)
        parts += found
    if fisher:
        parts += information_parts(live, names, Path(model), labels, seed, max_bytes)
    made: dict[str, dict[str, Later]] = {"input_gram": {}, "fisher": {}}
    device_used = next(live.parameters()).device
    length = contexts.blocks.shape[1]
    for number, part in enumerate(parts):

        def tell(done: int, before: int = number) -> None:
            if progress:
                progress((before * len(contexts.blocks) + done) * length, len(parts) * contexts.blocks.size)

        file = work / f"part-{number}.safetensors"
        if file.exists():
            _known(file, about)
        else:
            state = file.with_suffix(".sums")
            _run(part, device_used, state, about, contexts, tell)
            _finish(part, file, about)
            state.unlink(missing_ok=True)
        tell(len(contexts.blocks))
        made[part.kind] |= _later(file)
    write_statistics(out, input_grams=made["input_gram"], fisher=made["fisher"], metadata={**about, **extra})
    shutil.rmtree(work)
    return out


def stored_names(model: nn.Module, checkpoint: Checkpoint) -> dict[str, str]:
    """Return parameter of a live model → tensor of its checkpoint, where that is the same weight.

    The checkpoint of a bare model lacks the prefix that the model with a head has, and the other way round;
    old ones call a norm's weight gamma and its bias beta. A weight that is stored in another form, such as
    experts that were joined when they were loaded, has no entry.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        spellings = [name, name.removeprefix(prefix), prefix + name]
        for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            spellings += [spelling.replace(new, old) for spelling in spellings]
        same = [
            s
            for s in spellings
            if s in checkpoint.tensors and checkpoint.info(s).shape == tuple(parameter.shape)
        ]
        if same and parameter.is_floating_point():
            found[name] = same[0]
    left = len({p.data_ptr() for n, p in model.named_parameters() if n not in found})
    if left:
        _LOG.warning(
            "%s: %d weights are stored in another form: nothing is collected for them", checkpoint.path, left
        )
    return found


def _is_done(out: Path, about: Mapping[str, str], *, resume: bool, overwrite: bool) -> bool:
    if not out.exists() or overwrite:
        return False
    if not resume:
        raise ConfigError(f"{out}: exists", "choose another file, or --overwrite it")
    known = Statistics.open(out).metadata
    if any(known.get(key) != value for key, value in about.items()):
        raise ConfigError(f"{out}: was made of another model, text or setting", "--overwrite replaces it")
    return True


def _check_fit(model: nn.Module, contexts: Contexts) -> None:
    config: Any = model.config
    rows, most = config.vocab_size, getattr(config, "max_position_embeddings", None)
    highest, length = int(contexts.blocks.max()), contexts.blocks.shape[1]
    if highest >= rows:
        raise MismatchError(
            f"{contexts.source}: has token {highest}, the model's vocabulary ends at {rows - 1}",
            "use the text of the model's own tokenizer",
        )
    if most is not None and length > most:
        raise MismatchError(
            f"{contexts.source}: sequences of {length} tokens, the model takes {most}",
            "make --context shorter",
        )


def _run(
    part: Part, device: torch.device, state: Path, about: Mapping[str, str], contexts: Contexts, tell: Tell
) -> None:
    """Sum one part over the text, from where an interrupted run of it stopped."""
    done = _restore(part, device, state, about)
    saved = time.monotonic()
    while done < len(contexts.blocks):
        rows = np.asarray(contexts.blocks[done : done + part.step], np.int64)
        part.add(torch.from_numpy(rows).to(device), done)
        done += len(rows)
        tell(done)
        if time.monotonic() - saved > SAVE_EVERY_SECONDS and done < len(contexts.blocks):
            _keep(state, part.sums, {**about, "done": str(done), "count": str(part.count)})
            saved = time.monotonic()


def _restore(part: Part, device: torch.device, state: Path, about: Mapping[str, str]) -> int:
    """Set a part's sums to those that were kept, or to 0; return how many sequences they hold."""
    if not state.exists():
        part.sums = {
            name: torch.zeros(shape, dtype=torch.float64, device=device)
            for name, shape in part.shapes.items()
        }
        return 0
    known = _known(state, about)
    part.sums = load_file(state, device=str(device))
    part.count = int(known["count"])
    return int(known["done"])


def _finish(part: Part, file: Path, about: Mapping[str, str]) -> None:
    """Keep the means of a part; layers that nothing came into are left out."""
    means: dict[str, Tensor] = {}
    for name, total in part.sums.items():
        if not bool(torch.isfinite(total).all()):
            raise StoreError(
                f"{part.kind} of {name} is not finite", "the model is broken, or overflows in its dtype"
            )
        if part.kind == "fisher" or bool(total.any()):
            means[name] = (total / part.count).float().cpu().contiguous()
    _keep(file, means, about)
    part.sums = {}


def _keep(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    with replacing(file) as temporary:
        save_file(dict(tensors), temporary, metadata=dict(about))


def _known(file: Path, about: Mapping[str, str]) -> dict[str, str]:
    """Return what a kept file was made of.

    Raises:
        ConfigError: of something else.
    """
    _, metadata = read_header(file)
    if any(metadata.get(key) != value for key, value in about.items()):
        raise ConfigError(
            f"{file.parent}: holds sums of another model, text or setting", "leave --resume out to start anew"
        )
    return metadata


def _later(file: Path) -> dict[str, Later]:
    """Return the means in a file, each read when it is needed."""
    tensors, _ = read_header(file)

    def make(info: TensorInfo) -> Float32[ndarray, "..."]:
        with opened(info) as reader:
            return reader.read(0, info.size).reshape(info.shape)

    return {name: Later(info.shape, partial(make, info)) for name, info in tensors.items()}
