"""Text for training and measuring: sources, one split by document, a tokenizer, one token stream for all.

documents = load(CorpusSpec(domain="python", source="python:stdlib"), archives={}, seed=0, root=Path("."))
splits = split(documents, seed=0)
tokenizer = train_tokenizer((d.text for d in splits.train), vocab_size=4096, out=Path("tokenizer"))
stream = write_stream(splits.test, tokenizer, Path("test"), context=256, max_tokens_per_domain=None)
"""

from heredity.corpora.documents import CorpusSpec, Document, load
from heredity.corpora.split import Splits, split
from heredity.corpora.table import corpora_table
from heredity.corpora.tokenizer import train_tokenizer
from heredity.corpora.tokens import TokenStream, write_stream

__all__ = [
    "CorpusSpec",
    "Document",
    "Splits",
    "TokenStream",
    "corpora_table",
    "load",
    "split",
    "train_tokenizer",
    "write_stream",
]
