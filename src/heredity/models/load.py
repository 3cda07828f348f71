"""Load a checkpoint folder as a live torch model, offline and without remote code."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numba

from heredity.anatomy import is_head
from heredity.atomic import replacing_folder
from heredity.blas import one_blas_thread
from heredity.checkpoint import Checkpoint
from heredity.errors import CheckpointError, ConfigError, CorpusError, ExtraMissingError, MismatchError

try:
    import torch as torch  # taken from here by what needs it first: its absence is named once
    from torch import nn
except ModuleNotFoundError as error:
    raise ExtraMissingError("work with live models", "models") from error

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    path: Path | str, *, device: str = "cpu", dtype: str = "float32", as_saved: bool = False
) -> nn.Module:
    """Load a causal LM from a Hugging Face folder, in evaluation mode.

    Args:
        path: folder with config.json and safetensors; in `allowing_pickles` also with pickled weights.
        device: torch device, e.g. "cpu" or "cuda:0".
        dtype: "float32", "bfloat16" or "float16".
        as_saved: load whatever class config.json names, an encoder with its head for example; tensors that
            this class has no place for are left out, and those of a head that the folder lacks are zero.

    Raises:
        CheckpointError: no such folder, or transformers cannot read it.
        MismatchError: the weights do not fit the configuration.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json", "give a folder that a model was saved to")
    checkpoint = Checkpoint.open(folder)  # checks every size against its file, names the file and the tensor
    with quiet_transformers(), _loadable(folder, checkpoint) as whole:
        try:
            model, info = _class(folder, as_saved).from_pretrained(
                whole, dtype=dtype_of(dtype), local_files_only=True, trust_remote_code=False,
                use_safetensors=True, output_loading_info=True,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}: {first_line(error)}", "check the folder with `heredity inspect`"
            ) from error
        except Exception as error:
            if type(error).__module__.startswith("safetensors"):
                raise CheckpointError(
                    f"{folder}: {first_line(error)}", "the file is truncated or damaged"
                ) from error
            raise
    superfluous = [] if as_saved else info["unexpected_keys"]
    missing = list(map(str, info["missing_keys"]))
    # A fine-tune is often saved without the pooler that its class has: nothing is to be read there.
    headless = [name for name in missing if as_saved and is_head(name)]
    with torch.no_grad():
        for name in headless:
            model.get_parameter(name).zero_()
    missing = [name for name in missing if name not in headless]
    wrong = sorted(map(str, [*missing, *superfluous, *info.get("mismatched_keys", [])]))
    if wrong:
        raise MismatchError(
            f"{folder}: {len(wrong)} tensors do not fit config.json, first {wrong[0]}",
            "the weights and the configuration belong to different models",
        )
    return model.to(device_of(device)).eval()


@contextmanager
def _loadable(folder: Path, checkpoint: Checkpoint) -> Iterator[Path]:
    """Yield a folder for transformers: the model's own, or one of links if its weights were converted."""
    weights = checkpoint.files[0].parent
    if weights.resolve() == folder.resolve() or any(folder.glob("*.safetensors")):
        yield folder
        return
    with TemporaryDirectory() as name:
        for file in [*folder.glob("*config.json"), *weights.iterdir()]:
            (Path(name) / file.name).symlink_to(file.absolute())
        yield Path(name)


def initialise(config: dict[str, Any], *, seed: int, device: str = "cpu") -> nn.Module:
    """Make a model with random weights from a transformers configuration, in float32.

    Args:
        config: the content of a config.json, with `model_type`.
        seed: seed of the weights.
        device: torch device.
    """
    torch.manual_seed(seed)
    return from_config(config).to(device_of(device), dtype=torch.float32)


def from_config(config: dict[str, Any], **options: Any) -> nn.Module:
    """Make the causal LM of the content of a config.json; its weights are as torch draws them.

    Raises:
        ConfigError: transformers knows no such model, or refuses its shape.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(config)
    kind = values.pop("model_type", None)
    try:
        model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values), **options)
    except (RuntimeError, StrictDataclassError, TypeError, ValueError) as error:
        why = " ".join(str(error).split()).partition(". Should contain")[0]
        raise ConfigError(
            f"no model of model_type {kind!r} can be made of these settings ({why})",
            "compare them with transformers' configuration of that model_type",
        ) from None
    return model


def tokenizer(path: Path | str) -> Any:
    """Load the tokenizer of a checkpoint folder.

    Raises:
        CheckpointError: there is none, or transformers cannot read it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(Path(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path}: no tokenizer ({first_line(error)})", "copy the tokenizer's files there"
        ) from error


def copy_tokenizer(source: str, out: Path) -> None:
    """Save a ready tokenizer (a folder, or a Hub id that the cache or the network has) into a folder.

    Raises:
        CorpusError: it is not there.
    """
    from transformers import AutoTokenizer

    try:
        ready = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"tokenizer {source}: cannot be loaded ({first_line(error)})", "give a folder or a Hub id"
        ) from None
    with replacing_folder(out) as folder:
        ready.save_pretrained(folder)


def dtype_of(name: str) -> torch.dtype:
    """Turn a dtype's name into torch's.

    Raises:
        ConfigError: not a floating dtype that models run in.
    """
    if name not in DTYPES:
        raise ConfigError(
            f"dtype {name!r} is not one of {', '.join(DTYPES)}", "choose one of them with --dtype"
        )
    return DTYPES[name]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and load reports off stderr, which belongs to our own log."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run a block with `count` torch threads, and one of numpy's: the last bits of sums depend on both."""
    # Numba's first launch sets the count of an OpenMP runtime that torch may share: let it happen before.
    numba.get_num_threads()
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with one_blas_thread():
            yield
    finally:
        torch.set_num_threads(before)


def device_of(name: str) -> torch.device:
    """Turn a device's name into torch's.

    Raises:
        ConfigError: no such device, or this torch cannot use it.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is not a torch device", "use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r}: this torch sees no CUDA device", "use --device cpu")
    return device


def first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _class(folder: Path, as_saved: bool) -> Any:
    """Return the class to load: of a causal LM, or the one that config.json names, else the one without a head."""
    import transformers

    if not as_saved:
        return transformers.AutoModelForCausalLM
    try:
        names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    except (ValueError, AttributeError):
        raise CheckpointError(f"{folder / 'config.json'}: not JSON", "save the model again") from None
    found = getattr(transformers, str(names[0]), None) if names else None
    return transformers.AutoModel if found is None else found
