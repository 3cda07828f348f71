"""Archives and text made for tests."""

import io
import tarfile
import zipfile
from collections.abc import Mapping

import numpy as np

from heredity.corpora.documents import Document


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def tar_bytes(files: Mapping[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


def prose(seed: int, words: int = 300) -> str:
    """Made-up words in made-up order: two seeds share no run of words."""
    rng = np.random.default_rng(seed)
    syllables = [c + v for c in "bdfgklmnprst" for v in "aeiou"]
    lexicon = ["".join(rng.choice(syllables, 3)) for _ in range(400)]
    lines = [" ".join(rng.choice(lexicon, 8)) for _ in range(max(1, words // 8))]
    return "\n".join(lines) + "\n"


def corpus(count: int, domain: str = "prose", words: int = 300) -> list[Document]:
    return [Document(f"{domain}/{i:03}.txt", domain, prose(1000 + i, words)) for i in range(count)]
