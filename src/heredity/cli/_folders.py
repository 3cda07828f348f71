"""Folders that a command writes: an empty one, its own to go on with, or its own to make anew."""

import shutil
from pathlib import Path

from heredity.errors import ConfigError


def claim(out: Path, *, marks: tuple[str, ...], resume: bool, overwrite: bool) -> None:
    """Make sure that a folder may be written.

    Args:
        out: the folder.
        marks: globs of files by which a folder of this command is known; no other is ever removed.
        resume: go on with what is there.
        overwrite: remove what is there.

    Raises:
        ConfigError: it is not empty and neither is asked for, or it holds something else.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other", "choose one")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: exists and is not a folder", "choose another output with -o")
    if not out.exists() or not any(out.iterdir()):
        return
    if not resume and not overwrite:
        raise ConfigError(
            f"{out}: the folder is not empty", "add --resume to go on, or --overwrite to start anew"
        )
    if not any(next(out.glob(mark), None) for mark in marks):
        raise ConfigError(
            f"{out}: holds something that this command did not write", "choose another output with -o"
        )
    if overwrite:
        shutil.rmtree(out)
